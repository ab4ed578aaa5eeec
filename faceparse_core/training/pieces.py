"""Draws the pieces to try on: ``python -m faceparse_core.training.pieces``, into ``faceparse_core/edits/pieces/``.

Each is drawn at three times its size and brought down, so that its edges are smooth, and comes with the places of
anchors in it (see ``edits.wearing.Piece``). A face is drawn for with 300 pixels from between the eyes to the mouth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

_FOLDER = Path(__file__).parents[1] / "edits" / "pieces"
_FINER = 3
# Pixels from between the eyes to the mouth, and between the eyes.
_UNIT, _EYES = 300, 276


def main() -> None:
    _FOLDER.mkdir(exist_ok=True)
    known = {}
    for name, draw in DRAWINGS.items():
        picture, places = draw()
        file = name.replace(" ", "_") + ".png"
        picture.save(_FOLDER / file, optimize=True)
        known[name] = {"file": file, "unit": _UNIT, **places}
        print(f"{file}: {picture.width}x{picture.height}, {(_FOLDER / file).stat().st_size / 1000:.0f} kB")
    (_FOLDER / "pieces.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


Drawing = Callable[[ImageDraw.ImageDraw, int], None]
"""Draws in white on a sheet that is so many times as large as it is to be."""


class _Sheet:
    """Something to draw on, three times as large as it is to be; places are in pixels of the result."""

    def __init__(self, width: int, height: int):
        self.size = width, height
        self.picture = Image.new("RGBA", (width * _FINER, height * _FINER))

    def mask(self, draw: Drawing, soft: float = 0.0) -> Image.Image:
        """What is drawn in white, as a mask; ``soft``: blurred by so many pixels."""
        mask = Image.new("L", self.picture.size)
        draw(ImageDraw.Draw(mask), _FINER)
        return mask.filter(ImageFilter.GaussianBlur(soft * _FINER)) if soft else mask

    def paint(self, mask: Image.Image, colour: tuple[int, int, int], opacity: float = 1.0) -> None:
        layer = Image.new("RGBA", self.picture.size, (*colour, 0))
        layer.putalpha(mask.point(lambda value: round(value * opacity)))
        self.picture = Image.alpha_composite(self.picture, layer)

    def done(self, steps: int = 1) -> Image.Image:
        """The picture in its size; values in ``steps`` of so many pack smaller."""
        # Colours count as much as they are seen, or the edges would be dark.
        values = np.asarray(self.picture, dtype=np.float32) / 255
        values[..., :3] *= values[..., 3:]
        width, height = self.size
        values = values.reshape(height, _FINER, width, _FINER, 4).mean((1, 3))
        values[..., :3] /= np.maximum(values[..., 3:], 1e-6)
        values[values[..., 3] < 0.004] = 0
        pixels = (values * 255).round().astype(np.uint8)
        pixels[..., :3] = pixels[..., :3] // steps * steps
        return Image.fromarray(pixels)


def _ellipse(x: float, y: float, across: float, down: float) -> Drawing:
    return lambda on, k: on.ellipse([(x - across) * k, (y - down) * k, (x + across) * k, (y + down) * k], fill=255)


def _polygon(points: Sequence[tuple[float, float]]) -> Drawing:
    return lambda on, k: on.polygon([(x * k, y * k) for x, y in points], fill=255)


def _line(points: Sequence[tuple[float, float]], width: int) -> Drawing:
    return lambda on, k: on.line([(x * k, y * k) for x, y in points], fill=255, width=width * k, joint="curve")


def _arc(box: tuple[int, int, int, int], start: float, end: float, width: int) -> Drawing:
    return lambda on, k: on.arc([side * k for side in box], start, end, 255, width * k)


def _outline(points: list[tuple[float, float]]) -> Drawing:
    """A smooth closed line through points (Catmull-Rom), filled."""
    line = []
    for i in range(len(points)):
        a, b, c, d = (np.array(points[(i + j) % len(points)], dtype=float) for j in (-1, 0, 1, 2))
        for t in np.arange(12) / 12:
            curve = 2 * b + t * (c - a) + t**2 * (2 * a - 5 * b + 4 * c - d) + t**3 * (3 * b - a - 3 * c + d)
            line.append(0.5 * curve)
    return _polygon([(float(x), float(y)) for x, y in line])


def _mirrored(half: Sequence[tuple[float, float]], middle: float) -> list[tuple[float, float]]:
    """A closed outline of its right half, from the top down."""
    return [*half] + [(2 * middle - x, y) for x, y in half[::-1] if x != middle]


_EYEWEAR = {
    "across": {"right ear": 8, "right temple": 62, "right eye": 212,
               "left eye": 488, "left temple": 638, "left ear": 692},
    "down": {"right eye": 130},
}  # fmt: skip


def _round_glasses() -> tuple[Image.Image, dict]:
    sheet = _Sheet(700, 260)
    frame, shine = (46, 34, 28), (255, 255, 255)
    for x in (212, 488):
        sheet.paint(sheet.mask(_ellipse(x, 135, 106, 104)), (225, 235, 240), 0.10)
        glare = sheet.mask(_polygon([(x + dx, dy) for dx, dy in ((-62, 150), (20, 58), (46, 58), (-40, 162))]), 5)
        sheet.paint(ImageChops.multiply(glare, sheet.mask(_ellipse(x, 135, 98, 96))), shine, 0.14)
        ring = ImageChops.subtract(sheet.mask(_ellipse(x, 135, 112, 110)), sheet.mask(_ellipse(x, 135, 100, 98)))
        sheet.paint(ring, frame)
        edge = ImageChops.subtract(sheet.mask(_ellipse(x, 134, 109, 107)), sheet.mask(_ellipse(x, 135.5, 107, 105)))
        sheet.paint(edge, (150, 118, 96), 0.8)
    sheet.paint(sheet.mask(_arc((312, 92, 388, 150), 190, 350, 11)), frame)
    _arms(sheet, frame, 112, 9)
    return sheet.done(), {**_EYEWEAR, "behind": "hair", "shadow": 0.3}


def _sun_glasses() -> tuple[Image.Image, dict]:
    sheet = _Sheet(700, 260)
    frame = (16, 16, 18)
    for sign in (-1, 1):

        def lens(grow: float, sign=sign) -> Drawing:
            half = [(-112, -62), (0, -78), (118, -72), (132, -30), (112, 52), (36, 86), (-50, 76), (-104, 22)]
            points = [(350 + sign * (140 + dx * grow), 140 + dy * grow) for dx, dy in half]
            return _outline(points)

        sheet.paint(sheet.mask(lens(1.09)), frame)
        sheet.paint(sheet.mask(lens(0.97)), (40, 34, 30), 0.55)
        middle = 350 + sign * 140
        glare = sheet.mask(_polygon([(middle + dx, dy) for dx, dy in ((-90, 190), (10, 66), (40, 66), (-56, 200))]), 12)
        sheet.paint(ImageChops.multiply(glare, sheet.mask(lens(0.93))), (210, 220, 235), 0.22)
        rim = ImageChops.subtract(sheet.mask(lens(1.075)), ImageChops.offset(sheet.mask(lens(1.075)), 0, 2 * _FINER))
        sheet.paint(rim, (120, 120, 126), 0.8)
    sheet.paint(sheet.mask(_outline([(330, 84), (370, 84), (382, 112), (350, 100), (318, 112)])), frame)
    _arms(sheet, frame, 92, 20)
    return sheet.done(), {**_EYEWEAR, "behind": "hair", "shadow": 0.4}


def _arms(sheet: _Sheet, colour: tuple[int, int, int], y: float, thick: float) -> None:
    """From the hinges to the ears: as short as the face there is seen."""
    for near, far in ((102, 4), (598, 696)):
        arm = [(near, y - thick / 2), (far, y - thick / 3), (far, y + thick / 3), (near, y + thick / 2)]
        sheet.paint(sheet.mask(_polygon(arm)), colour)


def _hat() -> tuple[Image.Image, dict]:
    """A felt hat, from in front and a little below."""
    sheet = _Sheet(980, 560)
    felt, band = (74, 62, 54), (28, 25, 24)
    crown = _outline(_mirrored([(490, 42), (590, 22), (668, 70), (712, 190), (742, 380), (600, 430), (490, 440)], 490))
    shape = sheet.mask(crown)
    sheet.paint(shape, felt)
    light = sheet.mask(_ellipse(400, 190, 130, 150), 60)
    sheet.paint(ImageChops.multiply(light, shape), (132, 114, 100), 0.65)
    dark = ImageChops.add(sheet.mask(_ellipse(740, 260, 90, 240), 40), sheet.mask(_ellipse(238, 270, 50, 240), 30))
    sheet.paint(ImageChops.multiply(dark, shape), (30, 24, 20), 0.7)
    dent = sheet.mask(_ellipse(490, 60, 74, 50), 18)
    sheet.paint(ImageChops.multiply(dent, shape), (34, 28, 24), 0.65)
    ribbon = sheet.mask(_outline([(250, 330), (490, 372), (730, 330), (744, 404), (490, 452), (236, 404)]))
    sheet.paint(ImageChops.multiply(ribbon, shape), band)
    brim = sheet.mask(
        _outline(_mirrored([(490, 428), (650, 412), (820, 366), (930, 318), (962, 344), (860, 452), (660, 532),
                            (490, 548)], 490))
    )  # fmt: skip
    sheet.paint(brim, felt)
    under = sheet.mask(_ellipse(490, 430, 400, 44), 26)
    sheet.paint(ImageChops.multiply(under, brim), (22, 18, 16), 0.6)
    edge = ImageChops.subtract(brim, ImageChops.offset(brim, 0, -7 * _FINER))
    sheet.paint(edge, (128, 112, 98), 0.6)
    places = {"across": {"right side": 226, "left side": 754}, "down": {"forehead": 520}, "unit": 225}
    return sheet.done(4), {**places, "behind": "", "shadow": 0.35}


def _earring() -> tuple[Image.Image, dict]:
    """A hook, a golden drop and a blue stone; it hangs from the lobe."""
    sheet = _Sheet(120, 260)
    gold, light = (198, 152, 62), (255, 232, 170)
    sheet.paint(sheet.mask(_arc((48, 6, 72, 56), 150, 30, 4)), gold)
    sheet.paint(sheet.mask(_ellipse(60, 20, 9, 9)), gold)
    sheet.paint(sheet.mask(_ellipse(57, 17, 3, 3), 1), light)
    drop = _outline([(60, 46), (74, 92), (104, 150), (108, 196), (84, 238), (60, 246), (36, 238), (12, 196),
                     (16, 150), (46, 92)])  # fmt: skip
    sheet.paint(sheet.mask(drop), gold)
    stone = _outline([(60, 100), (74, 136), (90, 172), (88, 204), (60, 224), (32, 204), (30, 172), (46, 136)])
    sheet.paint(sheet.mask(stone), (24, 72, 132))
    sheet.paint(ImageChops.multiply(sheet.mask(_ellipse(48, 166, 14, 32), 7), sheet.mask(stone)), (150, 200, 245), 0.8)
    sheet.paint(ImageChops.multiply(sheet.mask(_ellipse(26, 168, 6, 44), 4), sheet.mask(drop)), light, 0.8)
    sheet.paint(ImageChops.multiply(sheet.mask(_ellipse(98, 190, 8, 40), 5), sheet.mask(drop)), (104, 70, 20), 0.7)
    at = {"at": ["right ear", "left ear"], "hangs": True, "across": {"": 60}, "down": {"": 18}}
    return sheet.done(), {**at, "unit": 540, "behind": "hair", "shadow": 0.25}


def _beard() -> tuple[Image.Image, dict]:
    """A full beard with moustache, drawn hair by hair; the lips stay in front of it."""
    sheet = _Sheet(640, 520)
    beard = sheet.mask(_outline(_mirrored(
        [(320, 62), (372, 58), (420, 96), (470, 150), (540, 90), (592, 20), (604, 130), (582, 270), (520, 390),
         (420, 470), (320, 490)], 320)), 10)  # fmt: skip
    rng, strands = np.random.default_rng(4), Image.new("L", sheet.picture.size)
    lights, grown = Image.new("L", sheet.picture.size), np.asarray(beard)
    on, on_light = ImageDraw.Draw(strands), ImageDraw.Draw(lights)
    for _ in range(5200):
        x, y = rng.uniform(20, 620), rng.uniform(5, 500)
        if grown[round(y * _FINER), round(x * _FINER)] < 90 * rng.uniform(0.4, 2.2):
            continue
        way = math.radians(90 + (320 - x) * 0.10 + rng.normal(0, 13))
        if y < 130 and abs(x - 320) < 110:  # the moustache grows outwards
            way = math.radians(90 - np.sign(x - 320) * 52 + rng.normal(0, 10))
        long = rng.uniform(16, 30)
        line = [(x * _FINER, y * _FINER), ((x + long * math.cos(way)) * _FINER, (y + long * math.sin(way)) * _FINER)]
        (on_light if rng.random() < 0.22 else on).line(line, fill=255, width=round(_FINER * rng.uniform(0.9, 1.7)))
    mouth = ImageChops.invert(sheet.mask(_ellipse(320, 152, 88, 26), 5))
    sheet.paint(ImageChops.multiply(beard, mouth), (48, 33, 24), 0.72)
    sheet.paint(ImageChops.multiply(strands, mouth), (38, 26, 19), 0.85)
    sheet.paint(ImageChops.multiply(lights, mouth), (104, 76, 56), 0.7)
    across = {"right jaw": 62, "right mouth corner": 221, "left mouth corner": 419, "left jaw": 578}
    down = {"nose": 46, "mouth": 152, "chin": 410}
    # Half the size is fine enough for hairs, and packs.
    picture = sheet.done().convert("RGBa").resize((320, 260), Image.Resampling.BOX).convert("RGBA")
    pixels = np.asarray(picture) // 16 * 17
    places = {kind: {name: x / 2 for name, x in known.items()} for kind, known in (("across", across), ("down", down))}
    behind = "hair + lips + mouth + eyeglasses"
    return Image.fromarray(pixels), {**places, "unit": _UNIT / 2, "behind": behind, "shadow": 0.15}


def _face_mask() -> tuple[Image.Image, dict]:
    """A medical mask with its folds and loops."""
    sheet = _Sheet(700, 480)
    blue = (142, 190, 212)
    for sign in (-1, 1):
        for start, end in ((70, 30), (330, 96)):
            line = [(350 + sign * 262, start), (350 + sign * 318, (start + end) / 2 - 6), (350 + sign * 344, end)]
            sheet.paint(sheet.mask(_line(line, 5)), (238, 240, 240))
    half = [(350, 14), (420, 22), (500, 50), (600, 62), (622, 130), (614, 300), (560, 388), (450, 452), (350, 466)]
    shape = sheet.mask(_outline(_mirrored(half, 350)))
    sheet.paint(shape, blue)
    sheet.paint(ImageChops.multiply(sheet.mask(_ellipse(350, 170, 150, 190), 60), shape), (190, 222, 236), 0.7)
    dark = ImageChops.add(sheet.mask(_ellipse(90, 240, 50, 230), 34), sheet.mask(_ellipse(610, 240, 50, 230), 34))
    sheet.paint(ImageChops.multiply(dark, shape), (92, 142, 168), 0.6)
    for y in (140, 220, 300):
        fold = sheet.mask(_arc((60, y - 60, 640, y + 60), 15, 165, 4), 1.5)
        sheet.paint(ImageChops.multiply(fold, shape), (84, 132, 158), 0.8)
        sheet.paint(ImageChops.multiply(ImageChops.offset(fold, 0, 5 * _FINER), shape), (222, 240, 248), 0.7)
    smaller = [(350 + (x - 350) * 0.965, 240 + (y - 240) * 0.965) for x, y in half]
    edge = ImageChops.subtract(shape, sheet.mask(_outline(_mirrored(smaller, 350))))
    sheet.paint(edge, (206, 228, 238), 0.9)
    across = {"right ear": 8, "right jaw": 96, "right mouth corner": 246, "left mouth corner": 454, "left jaw": 604,
              "left ear": 692}  # fmt: skip
    return sheet.done(4), {
        "across": across,
        "down": {"bridge": 24, "chin": 430},
        "behind": "hair + eyeglasses",
        "shadow": 0.3,
    }


DRAWINGS = {
    "round glasses": _round_glasses,
    "sun glasses": _sun_glasses,
    "hat": _hat,
    "earrings": _earring,
    "beard": _beard,
    "face mask": _face_mask,
}


if __name__ == "__main__":
    main()
