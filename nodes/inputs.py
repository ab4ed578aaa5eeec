"""Inputs that several nodes have, and what becomes of them."""

from __future__ import annotations

from comfy_api.latest import io

from faceparse_core.faces import Face

from .parsing import FaceParsing

# Whose parts are meant: as it is shown, and as the engine calls it.
WHOSE: dict[str, str | int] = {"all": "all", "largest": "largest", **{str(index): index for index in range(16)}}


def parsed_image() -> io.Image.Input:
    return io.Image.Input("image", tooltip="The image that was parsed, one or a batch.")


def its_parsing() -> io.Custom.Input:
    return FaceParsing.Input("parsing", tooltip="From Parse Face.")


def whose(tooltip: str = "Whose, where there are several faces: the largest has number 0.") -> io.Combo.Input:
    """A face of ``WHOSE``."""
    return io.Combo.Input("face", options=list(WHOSE), default="all", optional=True, tooltip=tooltip)


def share(name: str, default: float, tooltip: str, **options) -> io.Float.Input:
    """A number from 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.05, tooltip=tooltip, **options)


def missing(parsing, face: str | int) -> str:
    """What to tell of images that have no face of this number, and so an empty mask; nothing if all have it."""
    if not isinstance(face, int):
        return ""
    counts = [len(found) for found in parsing.faces]
    without = sum(count <= face for count in counts)
    if not without:
        return ""
    most = max(counts)
    there = f"{most} face{'s' * (most != 1)}" + (f", numbered 0 to {most - 1}" if most > 1 else ", number 0" * most)
    where = "the mask is empty" if len(counts) == 1 else f"the masks of {without} of {len(counts)} images are empty"
    return f"no face {face}: there {'is' if most == 1 else 'are'} {there if most else 'no faces'}; {where}"


def without_face(faces: list[list[Face]]) -> str:
    """Which images show no face, in words; nothing if all do."""
    without = sum(not found for found in faces)
    if not without:
        return ""
    return "the image" if len(faces) == 1 else f"{without} of {len(faces)} images"
