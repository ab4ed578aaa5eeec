"""web/faceparse/: faces are found, framed and put together as in faceparse_core."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceparse_core import FaceParser

SAMPLES = Path(__file__).resolve().parents[2] / "samples"

_PARSE = """async (faces) => {
  const { startParser } = await import("/faceparse/client.js");
  window.parser ??= startParser({ device: "wasm", dtype: "fp32" });
  const parser = await window.parser;
  const result = await parser.parse(await (await fetch("/picture.png")).blob(), { faces });
  let text = "";
  const labels = await parser.labels();
  for (let i = 0; i < labels.length; i += 8192) text += String.fromCharCode(...labels.subarray(i, i + 8192));
  const hair = await parser.mask([13]);
  return [result.faces, btoa(text), hair.reduce((sum, value) => sum + value / 255, 0)];
}"""


def group() -> Image.Image:
    """Faces of all sizes and tilts, one upside down, on a plain wall that is as wide as a photo."""
    head = Image.open(SAMPLES / "portrait.jpg").crop((112, 4, 336, 228))
    wall = Image.new("RGB", (1000, 620), (120, 132, 140))
    for side, angle, place in ((400, 0, (20, 80)), (280, -40, (430, 40)), (150, 0, (830, 420)), (220, 180, (480, 390))):
        turned = head.resize((side, side)).rotate(
            angle, Image.Resampling.BICUBIC, expand=True, fillcolor=(120, 132, 140)
        )
        wall.paste(turned, place)
    return wall


def nobody() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (300, 700, 3), dtype=np.uint8)
    return Image.fromarray(noise)


PICTURES = {
    "several": lambda: Image.open(SAMPLES / "several.jpg").convert("RGB"),
    "a close-up": lambda: Image.open(SAMPLES / "closeup.jpg").convert("RGB"),
    "a portrait": lambda: Image.open(SAMPLES / "portrait.jpg").convert("RGB"),
    "all tilts": group,
    "nobody": nobody,
}


@pytest.fixture(scope="module")
def parser() -> FaceParser:
    return FaceParser("lite", "cpu", "fp32")


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_parsed_face_by_face_as_in_python(open_page, parser, tmp_path, name):
    picture = PICTURES[name]()
    picture.save(tmp_path / "picture.png")
    routes = {"**/picture.png": lambda route: route.fulfill(path=tmp_path / "picture.png")}
    routes["**/favicon.ico"] = lambda route: route.fulfill(status=204)
    page = open_page("/demo/icon.svg", routes=routes)
    faces, labels, hair = page.evaluate(_PARSE, "auto")
    expected = parser.parse(picture)
    (theirs,) = expected.faces
    assert len(faces) == len(theirs) == {"several": len(theirs), "all tilts": 4, "nobody": 0}.get(name, 1)
    for ours, face in zip(faces, theirs, strict=True):
        # What is tilted was looked at again and again, each time where it was seen before.
        apart = 0.03 * face.height if abs(face.angle) > 12 else 2
        assert np.abs(np.subtract([ours[key] for key in ("x", "y", "width", "height")], face.box)).max() <= apart
        assert abs(ours["angle"] - face.angle) <= 2 and abs(ours["score"] - face.score) <= 0.03
    shape = picture.height, picture.width
    labels = np.frombuffer(base64.b64decode(labels), np.uint8).reshape(shape)
    assert (labels == expected.labels[0].numpy()).mean() >= 0.99
    true = (expected.mask("hair", soft=True) * 255).round().sum().item() / 255  # the page's masks are in 8 bits
    assert abs(hair - true) <= 0.02 * true + 50


def test_without_looking_for_faces_a_picture_is_a_portrait(open_page, parser, tmp_path):
    picture = PICTURES["several"]()
    picture.save(tmp_path / "picture.png")
    routes = {"**/picture.png": lambda route: route.fulfill(path=tmp_path / "picture.png")}
    page = open_page("/demo/icon.svg", routes=routes | {"**/favicon.ico": lambda route: route.fulfill(status=204)})
    faces, labels, _ = page.evaluate(_PARSE, "image")
    expected = parser.parse(picture, faces="image").labels[0].numpy()
    assert faces == []
    assert (np.frombuffer(base64.b64decode(labels), np.uint8).reshape(expected.shape) == expected).mean() >= 0.99
