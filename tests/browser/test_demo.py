"""The demo page as a person uses it: pictures in, looking, choosing, files out; by mouse and by keyboard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceparse_core import FaceParser
from faceparse_core.labels import GROUPS, LABELS

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "closeup.jpg"
IDS = {label.title: label.id for label in LABELS}


@pytest.fixture(scope="module")
def parsing():
    """The sample, parsed by Python."""
    return FaceParser("lite", "cpu", "fp32").parse(SAMPLE)


@pytest.fixture(scope="module")
def places(parsing) -> dict[str, tuple[float, float]]:
    """For some labels a place in 0..1 that lies well within them."""
    from scipy.ndimage import distance_transform_edt

    labels = parsing.labels[0].numpy()
    found = {}
    for title in ("hair", "skin", "nose", "left eye", "clothing", "background"):
        depth = distance_transform_edt(np.pad(labels == IDS[title], 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        found[title] = ((x + 0.5) / labels.shape[1], (y + 0.5) / labels.shape[0])
    return found


def stepped(demo, key: str, times: int) -> None:
    for _ in range(times):
        demo.page.keyboard.press(key)


# ------------------------------------------------------------------------------------------------------- the result


def test_the_labels_are_pythons(demo, parsing):
    name, picture = demo.parse().download("labels")
    assert (name, picture.mode, picture.size) == ("closeup.labels.png", "P", (512, 512))
    assert (np.asarray(picture) == parsing.labels[0].numpy()).mean() >= 0.99
    assert picture.getpalette()[: 3 * len(LABELS)] == [value for label in LABELS for value in label.colour]
    assert any(url.endswith(".wasm") for url in demo.page.asked)  # requests of the worker are seen, too


@pytest.mark.parametrize("size", [(1600, 900), (3000, 4000)], ids=["wide", "12 megapixels"])
def test_pictures_of_any_shape_and_size_are_parsed_as_in_python(demo, tmp_path, size):
    portrait = Image.open(SAMPLE)
    side = min(size)
    picture = Image.new("RGB", size, (120, 130, 140))
    picture.paste(portrait.resize((side, side), Image.BICUBIC), ((size[0] - side) // 2, (size[1] - side) // 2))
    picture.save(tmp_path / "a photo.png", compress_level=1)
    name, labels = demo.parse(tmp_path / "a photo.png").download("labels")
    assert (name, labels.size) == ("a_photo.labels.png", size)
    expected = FaceParser("lite", "cpu", "fp32").parse(picture).labels[0].numpy()
    assert (np.asarray(labels) == expected).mean() >= 0.99
    assert f"{size[0]} × {size[1]}" in demo.text("facts")


def test_photos_are_turned_as_the_camera_says(demo, tmp_path):
    picture = Image.open(SAMPLE).resize((512, 300))
    exif = picture.getexif()
    exif[274] = 6  # to be turned by a quarter
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert demo.parse(tmp_path / "turned.jpg").download("labels")[1].size == (300, 512)


def test_the_time_and_what_was_found_are_told(demo):
    demo.parse()
    assert "parsed in" in demo.text("facts") and int(demo.page.get_attribute("#facts", "data-milliseconds")) > 0
    assert "closeup.jpg parsed in" in demo.text("spoken") and "hair" in demo.text("spoken")
    assert "left eye" in demo.page.get_attribute("#overlay", "aria-label")
    assert "lite · fp16 on WASM, " in demo.text("engine")


def test_one_thread_without_isolation(open_page, site, parsing):
    def plain(route):
        response = route.fetch()
        isolating = ("cross-origin-opener-policy", "cross-origin-embedder-policy")
        route.fulfill(
            response=response, headers={k: v for k, v in response.headers.items() if k.lower() not in isolating}
        )

    page = open_page("/demo/", routes={"**/demo/": plain})
    page.wait_for_selector("#engine.ready")
    assert page.evaluate("crossOriginIsolated") is False and "1 thread " in page.text_content("#engine") + " "


# ----------------------------------------------------------------------------------------------------- pictures in


def test_pictures_are_pasted_and_dropped(demo):
    event = """async ([type, property]) => {
      const blob = await (await fetch("/vendor/closeup.jpg")).blob();
      const data = new DataTransfer();
      data.items.add(new File([blob], "mine.jpg", { type: "image/jpeg" }));
      const init = { bubbles: true, cancelable: true, [property]: data };
      document.body.dispatchEvent(type === "paste" ? new ClipboardEvent(type, init) : new DragEvent(type, init));
    }"""
    demo.page.evaluate(event, ["paste", "clipboardData"])
    demo.wait()
    assert demo.text("spoken").startswith("mine.jpg parsed")
    demo.page.evaluate(event, ["dragover", "dataTransfer"])
    assert demo.page.is_visible("#drop")
    demo.page.evaluate("document.getElementById('facts').textContent = ''")
    demo.page.evaluate(event, ["drop", "dataTransfer"])
    demo.page.wait_for_function("() => document.getElementById('facts').textContent")
    assert not demo.page.is_visible("#drop")


def test_the_camera_is_parsed_live_and_a_picture_is_taken(demo):
    demo.page.click("#camera")
    demo.page.wait_for_selector("#view.live")
    demo.page.wait_for_function(
        "() => window.seen ? facts.textContent !== window.seen : !(window.seen = facts.textContent)"
    )
    demo.page.click("#snap")
    assert demo.page.is_visible("#camera") and demo.page.is_hidden("#snap") and demo.page.is_hidden("#stop")
    name, labels = demo.download("labels")
    shares = np.bincount(np.asarray(labels).ravel(), minlength=19) / np.asarray(labels).size
    assert name == "camera.labels.png" and shares[IDS["hair"]] > 0.05 and shares[IDS["skin"]] > 0.04


def test_what_cannot_be_read_is_said(demo, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    demo.page.set_input_files("#file", str(tmp_path / "notes.txt"))
    demo.page.wait_for_selector("#problem:not([hidden])")
    assert 'cannot read "notes.txt" as a picture. JPEG, PNG' in demo.text("problem")
    demo.parse()
    assert demo.page.is_hidden("#problem")


def test_a_missing_model_and_missing_files_are_told_with_what_to_do(open_page):
    gone = {"**/vendor/models/lite/*.json": lambda route: route.fulfill(status=404)}
    page = open_page("/demo/", errors=True, routes=gone)
    page.wait_for_selector("#problem:not([hidden])")
    assert 'The model "lite" is not there' in page.text_content("#problem")
    assert "npm run vendor" in page.text_content("#problem")
    page = open_page("/demo/", errors=True, routes={"**/transformers.min.js": lambda route: route.fulfill(status=404)})
    page.wait_for_selector("#problem:not([hidden])")
    assert "Transformers.js could not be loaded" in page.text_content("#problem")


def test_transformers_may_come_from_a_cdn(open_page, site):
    """The switch asks the CDN for the version that package.json pins; what it would answer comes from vendor/ here."""
    version = json.loads((ROOT / "web/package.json").read_text())["dependencies"]["@huggingface/transformers"]
    asked = []

    def answer(route):
        asked.append(route.request.url)
        file = ROOT / "web/vendor/transformers" / route.request.url.rsplit("/", 1)[1]
        types = {".wasm": "application/wasm", ".js": "text/javascript", ".mjs": "text/javascript"}
        headers = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
        route.fulfill(body=file.read_bytes(), headers=headers | {"Content-Type": types[file.suffix]})

    page = open_page("/demo/?from=cdn", routes={lambda url: not url.startswith(site): answer})
    page.wait_for_selector("#engine.ready")
    assert f"/@huggingface/transformers@{version}/dist/transformers.min.js" in asked[0]
    page.asked.clear()  # it was to ask another host


# ------------------------------------------------------------------------------------------------ looking and choosing


def test_pointing_names_the_label_and_lights_it_up(demo, places):
    demo.parse()
    for title, (x, y) in places.items():
        demo.move_to(x, y)
        assert demo.page.text_content("#name b") == title
        assert demo.page.text_content("#labels .lit span") == title
    assert "whatever is not the person" in demo.text("name")
    demo.page.mouse.move(2, 2)
    assert demo.page.is_hidden("#name") and demo.page.locator("#labels .lit").count() == 0


def test_labels_are_switched_one_by_one_and_by_regions(demo, places):
    demo.parse()
    demo.page.mouse.move(2, 2)
    hair, skin = places["hair"], places["skin"]
    *colour, alpha = demo.colour_at(*hair)
    assert alpha > 100 and np.abs(np.subtract(colour, LABELS[IDS["hair"]].colour)).max() <= 2
    demo.page.click("#labels li[data-label='13'] span")
    demo.page.mouse.move(2, 2)
    assert demo.colour_at(*hair)[3] == 0 and demo.colour_at(*skin)[3] > 100
    assert demo.chosen() == set(GROUPS["person"]) - {13}
    for region in ("hair", "face", "lips", "head", "background", "person"):
        chip = demo.page.locator(f"[data-region={region}]")
        chip.click()
        assert demo.chosen() == set(GROUPS[region]) and chip.get_attribute("aria-pressed") == "true"
    assert demo.page.locator("[aria-pressed=true]").count() == 1


def test_a_click_on_the_picture_shows_that_label_alone(demo, places):
    demo.parse()
    demo.move_to(*places["hair"])
    demo.page.mouse.down()
    demo.page.mouse.up()
    assert demo.chosen() == {13}
    demo.move_to(*places["nose"])
    demo.page.keyboard.down("Shift")
    demo.page.mouse.down()
    demo.page.mouse.up()
    assert demo.chosen() == {2, 13}


def test_masks_and_cut_outs_are_shown(demo, places):
    demo.parse()
    demo.page.click("[data-region=hair]")
    demo.page.click("text=Mask >> nth=0")
    demo.page.wait_for_selector("#view.bare")
    assert min(demo.colour_at(*places["hair"])) > 250 and max(demo.colour_at(*places["skin"])[:3]) < 5
    demo.page.click("#views >> text=Cut-out")
    demo.page.wait_for_selector("#view.cutout")
    assert demo.colour_at(*places["hair"])[3] > 250 and demo.colour_at(*places["skin"])[3] < 5
    assert demo.page.is_visible("#soft") and demo.page.is_hidden("#strength")


def test_the_whole_page_by_keyboard(demo, places):
    """From the address bar: the sample, over the picture, one label alone, its mask, its file."""
    page = demo.page

    demo.tab_to("#file")
    demo.tab_to("#sample")
    page.keyboard.press("Enter")
    demo.wait()
    demo.tab_to("#overlay")
    stepped(demo, "ArrowUp", 1)
    assert page.is_visible("#cross")
    stepped(demo, "Shift+ArrowUp", 8)
    assert demo.text("spoken") == "background, not shown" and page.text_content("#name b") == "background"
    x, y = places["hair"]
    stepped(demo, "ArrowDown", round(y * 48))
    stepped(demo, "ArrowRight" if x > 0.5 else "ArrowLeft", round(abs(x - 0.5) * 48))
    assert demo.text("spoken") == "hair"
    page.keyboard.press("Enter")
    assert demo.chosen() == {13} and demo.text("spoken") == "only hair"
    page.keyboard.press("Space")
    assert demo.chosen() == set() and page.is_disabled("[data-file=mask]")
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    assert demo.chosen() == {13} and page.is_hidden("#cross")
    demo.tab_to("[name=view]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#view.bare")
    demo.tab_to("[data-region=hair]")
    page.keyboard.press("Enter")
    assert demo.chosen() == set(GROUPS["hair"])
    demo.tab_to("#labels input")
    page.keyboard.press("Space")
    assert demo.chosen() == {0, 13}
    demo.tab_to("[data-file=mask]")
    with page.expect_download() as saving:
        page.keyboard.press("Enter")
    assert saving.value.suggested_filename == "closeup.mask.png"


# --------------------------------------------------------------------------------------------------------- files out


def test_masks_and_cut_outs_are_downloaded_at_the_pictures_size(demo, parsing):
    demo.parse()
    demo.page.click("[data-region=hair]")
    name, mask = demo.download("mask")
    assert (name, mask.mode, mask.size) == ("closeup.mask.png", "L", (512, 512))
    expected = parsing.mask("hair", soft=True)[0].numpy() * 255
    between = (np.asarray(mask) > 32) & (np.asarray(mask) < 224)
    assert np.abs(np.asarray(mask) - expected).mean() < 1 and 0.005 < between.mean() < 0.1

    name, cut_out = demo.download("cutout")
    assert (name, cut_out.mode) == ("closeup.cutout.png", "RGBA")
    pixels, original = np.asarray(cut_out).astype(int), np.asarray(Image.open(SAMPLE).convert("RGB")).astype(int)
    assert np.array_equal(pixels[..., 3], np.asarray(mask))
    seen = pixels[..., 3] > 0
    assert np.abs(pixels[..., :3] - original)[seen].max() <= 8  # another JPEG decoder
    assert not pixels[~seen].any()

    demo.page.click("#views >> text=Cut-out")
    demo.page.uncheck("#soft")
    assert set(np.unique(np.asarray(demo.download("mask")[1]))) == {0, 255}


def test_what_is_shown_is_downloaded(demo, places):
    demo.parse()
    name, shown = demo.download("shown")
    assert name == "closeup.overlay.png" and shown.size == (1280, 1280)
    x, y = places["background"]
    at = (int(x * 1280), int(y * 1280))
    original = Image.open(SAMPLE).resize((1280, 1280), Image.BILINEAR)
    assert np.abs(np.subtract(shown.getpixel(at)[:3], original.getpixel(at))).max() < 12
    x, y = places["hair"]
    mixed = np.multiply(0.55, LABELS[13].colour) + np.multiply(0.45, original.getpixel((int(x * 1280), int(y * 1280))))
    assert np.abs(np.subtract(shown.getpixel((int(x * 1280), int(y * 1280)))[:3], mixed)).max() < 14


# ------------------------------------------------------------------------------------------------------- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_accessible(open_page, scheme, width):
    """axe finds nothing, in light and dark, empty and with a result; nothing is wider than the window."""
    page = open_page("/demo/", color_scheme=scheme, viewport={"width": width, "height": 800})
    page.wait_for_selector("#engine.ready")
    axe = (ROOT / "web/node_modules/axe-core/axe.min.js").read_text()
    for step in ("empty", "result"):
        if step == "result":
            page.click("#sample")
            page.wait_for_selector("#view:not([hidden])")
        page.add_script_tag(content=axe)
        found = page.evaluate("() => axe.run()")["violations"]
        assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_and_dark_follow_the_system_and_the_button(open_page):
    def paper(page) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    dark, light = open_page("/demo/", color_scheme="dark"), open_page("/demo/", color_scheme="light")
    assert paper(dark) < 200 < 600 < paper(light)
    light.click("#theme")
    assert paper(light) < 200
    light.reload()  # it is remembered
    assert paper(light) < 200 and light.text_content("#theme") == "Light"


def test_the_page_stays_responsive_while_it_parses(demo):
    """The model runs beside the page: frames are drawn while it computes."""
    demo.page.wait_for_selector("#engine.ready")
    frames = demo.page.evaluate(
        """async () => {
          document.getElementById("sample").click();
          const facts = document.getElementById("facts");
          let frames = 0;
          while (!facts.textContent) { await new Promise(requestAnimationFrame); frames++; }
          return frames;
        }"""
    )
    assert frames >= 3
