"""web/faceparse/: the same labels, resizing and rendering as faceparse_core."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from faceparse_core import images as pictures
from faceparse_core.labels import GROUPS, LABELS
from faceparse_core.parser import FaceParser
from faceparse_core.parsing import Parsing
from faceparse_core.rendering import Window

SIZES = [(512, 512), (600, 560), (1920, 1080), (700, 1900), (90, 61), (3001, 300)]

# Random logits, as smooth as real ones are not: base64 of float32 [19, rows, columns].
_RENDER = """async ({logits, dims, window, width, height, ids}) => {
  const { Rendering } = await import("/faceparse/rendering.js");
  const values = new Float32Array(Uint8Array.from(atob(logits), c => c.charCodeAt(0)).buffer);
  const rendering = new Rendering(values, dims, window, width, height);
  const text = bytes => { let s = ""; for (const b of bytes) s += String.fromCharCode(b); return btoa(s); };
  return [rendering.labelMap(), rendering.mask(ids), rendering.mask(ids, { soft: false })].map(text);
}"""

_RESIZE = """async ({url, mean, std}) => {
  const { frameOf, fillFrame } = await import("/faceparse/frame.js");
  const bitmap = await createImageBitmap(await (await fetch(url)).blob(), { colorSpaceConversion: "none" });
  const frame = frameOf(bitmap.width, bitmap.height);
  const bytes = new Uint8Array(fillFrame(bitmap, frame, mean, std).buffer);
  let s = ""; for (let i = 0; i < bytes.length; i += 8192) s += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return [frame, btoa(s)];
}"""


@pytest.fixture
def page(open_page):
    return open_page("/demo/icon.svg", routes={"**/favicon.ico": lambda route: route.fulfill(status=204)})


def test_labels_and_groups_are_those_of_the_library(page):
    labels, groups = page.evaluate('async () => { const m = await import("/faceparse/labels.js"); '
                                   "return [m.LABELS, m.GROUPS]; }")  # fmt: skip
    assert labels == [vars(label) | {"colour": list(label.colour)} for label in LABELS]
    assert groups == {name: list(ids) for name, ids in GROUPS.items()}


def test_regions_are_named_and_a_wrong_name_is_answered(page):
    evaluate = 'async names => (await import("/faceparse/labels.js")).regionIds(...names)'
    assert page.evaluate(evaluate, ["hair", "left eye", "eyes"]) == [4, 5, 13]
    with pytest.raises(Exception, match='no label or group "hairs"; there are: face, skin'):
        page.evaluate(evaluate, ["hairs"])


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_pictures_are_framed_and_resized_as_in_python(page, size):
    rng = np.random.default_rng(sum(size))
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
    noise = rng.integers(-20, 21, (*size[::-1], 3))
    picture = Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    parser = FaceParser("lite", "cpu", "fp32")
    checkpoint = parser.checkpoint
    frame, data = page.evaluate(_RESIZE, {"url": url, "mean": checkpoint.mean, "std": checkpoint.std})

    own = parser._layout(size[1], size[0])
    assert (frame["height"], frame["width"]) == own.size
    assert {**frame["window"], "angle": 0} == pytest.approx(vars(own.window(size[1], size[0])))
    given = torch.frombuffer(bytearray(base64.b64decode(data)), dtype=torch.float32).view(3, *own.size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
    expected = own.fill(pictures.load(picture)[0], checkpoint.mean).permute(2, 0, 1) / 255
    difference = (given * std + mean - expected).abs()
    assert difference.max() <= 1.6 / 255 and difference.mean() <= 0.5 / 255


@pytest.mark.parametrize("size", [(97, 64), (16, 12), (5, 3), (400, 301)], ids=lambda size: "x".join(map(str, size)))
def test_labels_and_masks_are_rendered_as_in_python(page, size):
    width, height = size
    torch.manual_seed(width)
    # Cells whose labels are certain, cells where they are not, and everything between.
    logits = torch.randn(19, 12, 17) * torch.linspace(0.2, 12, 17)
    window = Window(-0.1 * width, -0.05 * height, 1.2 * width, 1.1 * height)
    parsing = Parsing([logits], [window], [(height, width)])
    given = page.evaluate(
        _RENDER,
        {
            "logits": base64.b64encode(logits.numpy().tobytes()).decode(),
            "dims": list(logits.shape),
            "window": vars(window),
            "width": width,
            "height": height,
            "ids": [13, 14],
        },
    )
    labels, soft, hard = (torch.frombuffer(bytearray(base64.b64decode(g)), dtype=torch.uint8) for g in given)
    assert (labels.view(height, width) == parsing.labels[0]).float().mean() > 0.9999
    expected = parsing.mask("hair + hat", soft=True)[0] * 255
    assert (soft.view(height, width) - expected).abs().max() <= 1.01
    assert torch.equal(hard == 255, (labels == 13) | (labels == 14))
