"""The p5.js sketch with a camera that shows the sample portrait."""

from __future__ import annotations


def test_the_sketch_parses_the_camera(open_page):
    page = open_page("/p5js/", viewport={"width": 800, "height": 600})
    page.wait_for_function("() => typeof parsing !== 'undefined' && parsing && !message")
    found = page.evaluate("[...new Set(parsing.labels)]")
    assert {1, 2, 13} <= set(found)  # skin, nose, hair
    first = page.evaluate("parsing.times.total")
    page.wait_for_function("first => parsing.times.total !== first", arg=first)  # and goes on
    page.mouse.move(400, 300)
    page.wait_for_function("() => mouseX > 0")
    colours = page.evaluate(
        """() => { const c = document.querySelector("canvas");
        const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
        return new Set(new Uint32Array(data.buffer)).size; }"""
    )
    assert colours > 1000  # a picture, no plain ground

    page.mouse.down()  # in the middle of the hues: the hair in cyan, and nothing else
    page.wait_for_function(
        """() => parsing.labels.every((label, i) => {
          const [red, green, blue, alpha] = overlay.pixels.slice(4 * i, 4 * i + 4);
          return label === 13 ? red < 40 && green > 150 && blue > 150 : alpha === 0;
        })"""
    )
    assert page.evaluate("message") == ""


def test_the_sketch_tells_of_a_missing_model(open_page):
    gone = {"**/vendor/models/lite/*.json": lambda route: route.fulfill(status=404)}
    page = open_page("/p5js/", errors=True, routes=gone)
    page.wait_for_function("() => message.includes('npm run vendor')")
