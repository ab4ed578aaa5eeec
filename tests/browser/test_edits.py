"""The page's edits: the same numbers as faceparse_core/edits, and the view "Edit" by mouse and by keyboard."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faceparse_core import FaceParser, edits, masks
from faceparse_core.labels import GROUPS

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "closeup.jpg"

# Calls a function of a module; `data`, bytes in base64, stands in for arguments of its names.
_CALL = """async ({module, name, args, data}) => {
  const called = (await import(`/faceparse/edits/${module}.js`))[name];
  for (const key in data) data[key] = new Uint8ClampedArray(Uint8Array.from(atob(data[key]), c => c.charCodeAt(0)));
  const result = called(...args.map(one => data[one] ?? one)) ?? data.pixels;
  let s = ""; for (let i = 0; i < result.length; i += 8192) s += String.fromCharCode(...result.subarray(i, i + 8192));
  return btoa(s);
}"""


@pytest.fixture
def page(open_page):
    return open_page("/demo/icon.svg", routes={"**/favicon.ico": lambda route: route.fulfill(status=204)})


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.asarray(Image.open(SAMPLE).convert("RGB"))


@pytest.fixture(scope="module")
def parsing():
    return FaceParser("lite", "cpu", "fp32").parse(SAMPLE)


def called(page, module: str, name: str, picture: np.ndarray, mask: np.ndarray, *args: object) -> np.ndarray:
    """What a function of web/faceparse/edits/ makes of "pixels" and "mask" among its arguments, uint8."""
    height, width = mask.shape
    pixels = np.dstack([picture, np.full(mask.shape, 255, np.uint8)])
    data = {key: base64.b64encode(of.tobytes()).decode() for key, of in (("pixels", pixels), ("mask", mask))}
    answer = page.evaluate(_CALL, {"module": module, "name": name, "args": args, "data": data})
    return np.frombuffer(base64.b64decode(answer), np.uint8).reshape(height, width, -1)[..., :3]


def as_bytes(values: torch.Tensor) -> np.ndarray:
    return (values * 255).round().byte().numpy()


def same(found: np.ndarray, expected: torch.Tensor, worst: float = 2, usual: float = 0.35) -> bool:
    """In 8 bits, but for what is rounded otherwise."""
    away = np.abs(found.astype(float) - expected.numpy() * 255)
    return away.max() <= worst and away.mean() <= usual


@pytest.mark.parametrize(
    "region, colour, strength", [("hair", "#b5562b", 1), ("hair", "#e8dcc4", 0.6), ("lips", "#6e1436", 1)]
)
def test_colours_are_pythons(page, picture, parsing, region, colour, strength):
    mask = as_bytes(parsing.mask(region, soft=True)[0])
    found = called(page, "recolour", "recolour", picture, mask, "pixels", "mask", 512, 512, colour, strength)
    expected = edits.recolour(picture, torch.from_numpy(mask) / 255, colour, strength=strength)[0]
    assert same(found, expected)
    assert np.array_equal(found[mask == 0], picture[mask == 0]) and np.abs(found - picture.astype(int)).max() > 40


@pytest.mark.parametrize("radius", [1, 4])
def test_the_background_is_blurred_as_in_python(page, picture, parsing, radius):
    mask = as_bytes(parsing.mask("person", soft=True)[0])
    found = called(page, "backdrop", "blurBackground", picture, mask, "pixels", "mask", 512, 512, radius)
    expected = edits.blur_background(picture, torch.from_numpy(mask) / 255, radius=radius)[0]
    assert same(found, expected)
    assert np.array_equal(found[mask == 255], picture[mask == 255])


@pytest.mark.parametrize("hair", [True, False])
def test_masks_are_refined_as_in_python(page, picture, parsing, hair):
    mask = as_bytes(parsing.mask("hair" if hair else "lips", soft=True)[0])
    found = called(page, "refine", "refine", picture, mask, "pixels", "mask", 512, 512, hair)
    expected = masks.refine(picture, torch.from_numpy(mask) / 255, hair=hair)[0]
    assert same(found[..., 0], expected)


@pytest.mark.parametrize("two", [False, True])
def test_faces_are_hidden_as_in_python(page, picture, parsing, two):
    labels, faces = parsing.labels, parsing.faces[0]
    if two:
        labels, picture = labels.repeat(1, 1, 2), np.hstack([picture, picture])
        faces = [faces[0], replace(faces[0], index=1, x=faces[0].x + 512)]
    boxes = [{"x": one.x, "y": one.y, "width": one.width, "height": one.height} for one in faces]
    height, width = labels.shape[1:]
    inside = as_bytes(torch.isin(labels[0], torch.tensor(GROUPS["face"])).float())
    area = called(page, "privacy", "hiddenArea", picture, inside, "mask", boxes, width, height)
    mask = edits.hidden_area(labels, [faces])
    assert np.mean(area[..., 0] != as_bytes(mask[0])) < 1e-4
    found = called(page, "privacy", "pixelate", picture, as_bytes(mask[0]), "pixels", "mask", boxes, width, height)
    expected = edits.hide(picture, mask, [faces])[0]
    assert same(found, expected, usual=0.5)


# ----------------------------------------------------------------------------------------------------------- the view


def edited(demo):
    """Waits until the picture is edited."""
    demo.page.wait_for_function("() => document.getElementById('facts').textContent.includes('edited in')")
    return demo


def shown(demo) -> np.ndarray:
    return np.asarray(demo.download("edited")[1].convert("RGB"))


@pytest.fixture
def view(demo):
    demo.parse()
    demo.page.click("#views >> text=Edit")
    return edited(demo)


def test_what_is_downloaded_is_what_python_makes(view, picture, parsing):
    name, file = view.download("edited")
    assert (name, file.size) == ("closeup.edited.png", (512, 512))
    hair = masks.refine(picture, parsing.mask("hair", soft=True), hair=True)
    expected = edits.recolour(picture, hair, "#b5562b")[0].numpy() * 255
    away = np.abs(np.asarray(file.convert("RGB")) - expected)
    assert away.mean() < 1.5  # another JPEG decoder, and the model in fp16
    outside = hair[0].numpy() == 0
    assert away[outside].max() <= 8


def test_each_tool_changes_its_part_alone(view, picture, parsing):
    page, labels = view.page, parsing.labels[0].numpy()
    page.check("[name=hair][value='']", force=True)
    assert np.abs(shown(view) - picture.astype(int)).max() <= 8  # as the browser decodes it

    def changed() -> dict[str, float]:
        """Of parts the share that is changed."""
        away = np.abs(shown(view) - picture.astype(int)).max(2) > 12
        parts = {"lips": (11, 12), "skin": (1,), "hair": (13,), "background": (0,)}
        return {part: away[np.isin(labels, ids)].mean() for part, ids in parts.items()}

    page.check("[name=lips][value='#6e1436']", force=True)
    found = changed()
    assert found["lips"] > 0.7 and max(found["hair"], found["background"]) == 0 and found["skin"] < 0.02
    page.check("[name=lips][value='']", force=True)
    page.check("#hide")
    found = changed()
    assert found["skin"] > 0.3 and found["lips"] > 0.3 and found["background"] < 0.02
    page.uncheck("#hide")
    page.fill("#blur", "4")
    found = changed()
    assert max(found["skin"], found["lips"]) < 0.002


def test_the_view_by_keyboard(demo):
    page = demo.page

    demo.parse()
    demo.tab_to("[name=view]")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    edited(demo)
    assert page.is_hidden("#labels") and page.is_visible("#edits") and page.is_hidden("[data-file=mask]")
    demo.tab_to("[name=hair]")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("[name=hair]:checked", "aria-label") == "blond"
    demo.tab_to("[name=lips]")
    demo.tab_to("#blur")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#blur") == "0.5"
    demo.tab_to("#hide")
    page.keyboard.press("Space")
    assert page.is_checked("#hide")
    demo.tab_to("[data-file=edited]")
    with page.expect_download() as saving:
        page.keyboard.press("Enter")
    assert saving.value.suggested_filename == "closeup.edited.png"


def test_a_colour_of_ones_own(view):
    before = shown(view)
    view.page.fill("[type=color] >> nth=0", "#00ff00")
    assert view.page.get_attribute("[name=hair]:checked", "value") == "own"
    away = shown(view).astype(int) - before
    assert away[..., 1].max() > 60


def test_the_camera_is_edited_live(demo):
    page = demo.page
    page.click("#camera")
    page.wait_for_selector("#view.live")
    page.click("#views >> text=Edit")
    edited(demo)
    page.evaluate("window.seen = facts.textContent")
    page.wait_for_function("() => facts.textContent !== window.seen && facts.textContent.includes('edited')")
    page.click("#snap")
    name, file = demo.download("edited")
    assert name == "camera.edited.png" and max(file.size) >= 480


@pytest.mark.parametrize("width", [1280, 390])
def test_the_view_is_accessible(open_page, width):
    page = open_page("/demo/", viewport={"width": width, "height": 800})
    page.click("#sample")
    page.wait_for_selector("#view:not([hidden])")
    page.click("#views >> text=Edit")
    page.wait_for_selector("#edits:not([hidden])")
    page.add_script_tag(content=(ROOT / "web/node_modules/axe-core/axe.min.js").read_text())
    found = page.evaluate("() => axe.run()")["violations"]
    assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
