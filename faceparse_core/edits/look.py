"""A look: which make-up is put on, in which colours and how strongly. A small JSON, of which six are shipped."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceparse_core.edits.colours import rgb
from faceparse_core.errors import number, said

_SHIPPED = Path(__file__).parent / "looks"
# No look is longer than this.
_MOST_BYTES = 100_000

FINISHES = ("matte", "satin", "gloss")
"""How lips shine: less than they did, as they did, more."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What every step has: ``strength`` 0..1; and its colours, where it has some, are colours."""

    strength: float = 0.5

    def __post_init__(self) -> None:
        number("strength", self.strength, 0, 1)
        for name in ("colour", "crease"):
            if getattr(self, name, None) is not None:
                rgb(getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class _Coloured(_Step):
    colour: str


@dataclass(frozen=True, kw_only=True)
class Foundation(_Step):
    """The skin's tone made even; ``colour``: to a tone of its own, else to that which the skin has for the most."""

    colour: str | None = None


@dataclass(frozen=True, kw_only=True)
class Blush(_Coloured):
    """On the cheeks."""


@dataclass(frozen=True, kw_only=True)
class Eyeshadow(_Coloured):
    """On the lids, between lashes and brow; ``crease``: a second colour above and outside."""

    crease: str | None = None


@dataclass(frozen=True, kw_only=True)
class Eyeliner(_Coloured):
    """Along the upper lashes; ``thickness``: in parts of the usual; ``wing`` 0..1: how far it goes on outwards;
    ``lower`` 0..1: how strong it is along the lower lashes, over the strength of the upper."""

    thickness: float = 1.0
    wing: float = 0.0
    lower: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number("thickness", self.thickness, 0.1, 4)
        number("wing", self.wing, 0, 1)
        number("lower", self.lower, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Brows(_Step):
    """Filled between their hairs; ``colour``: else in that of the brows themselves."""

    colour: str | None = None


@dataclass(frozen=True, kw_only=True)
class Irises(_Coloured):
    """In another colour; pupils and the light in them stay."""


@dataclass(frozen=True, kw_only=True)
class Lipstick(_Coloured):
    """On the lips; ``finish``: one of ``FINISHES``."""

    finish: str = "satin"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finish not in FINISHES:
            raise ValueError(f"unknown finish {said(repr(self.finish))}: choose one of {', '.join(FINISHES)}")


@dataclass(frozen=True, kw_only=True)
class LipLiner(_Coloured):
    """Along the outer edge of the lips."""


@dataclass(frozen=True, kw_only=True)
class Teeth(_Step):
    """Whitened."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is put on, in the order of an artist; None: not at all."""

    foundation: Foundation | None = None
    blush: Blush | None = None
    eyeshadow: Eyeshadow | None = None
    eyeliner: Eyeliner | None = None
    brows: Brows | None = None
    irises: Irises | None = None
    lipstick: Lipstick | None = None
    lip_liner: LipLiner | None = None
    teeth: Teeth | None = None

    def __bool__(self) -> bool:
        return any(step is not None and step.strength > 0 for step in vars(self).values())

    def as_json(self) -> str:
        """The look as a file has it."""
        steps = {name: step for name, step in vars(self).items() if step is not None}
        told = {
            name: {field: value for field, value in dataclasses.asdict(step).items() if value is not None}
            for name, step in steps.items()
        }
        return json.dumps(told, indent=2) + "\n"


_STEPS = {
    "foundation": Foundation,
    "blush": Blush,
    "eyeshadow": Eyeshadow,
    "eyeliner": Eyeliner,
    "brows": Brows,
    "irises": Irises,
    "lipstick": Lipstick,
    "lip_liner": LipLiner,
    "teeth": Teeth,
}

LOOKS: tuple[str, ...] = tuple(sorted(path.stem for path in _SHIPPED.glob("*.json")))
"""The looks that are shipped."""


def look(wanted: str | Path | Mapping[str, Any] | Look) -> Look:
    """A look: one of ``LOOKS`` by its name, the file of one, or what such a file holds.

    The file is a JSON object of steps (``foundation``, ``blush``, ``eyeshadow``, ``eyeliner``, ``brows``, ``irises``,
    ``lipstick``, ``lip_liner``, ``teeth``), each an object with ``strength`` 0..1 (0.5) and mostly a ``colour``; what
    else each takes say the classes of their names. A name with a dot or a slash, or a ``Path``, is a file.

    Raises ValueError for what is none, with the step and what is accepted, FileNotFoundError for a missing file.

    >>> look({"lipstick": {"colour": "#8e1b2e", "finish": "matte"}}).lipstick.strength
    0.5
    >>> look({"lipstick": {"colour": "reddish"}})
    Traceback (most recent call last):
    ValueError: lipstick of the look: 'reddish' is no colour: write it as '#7a1f2b', or by a name such as 'navy'
    """
    if isinstance(wanted, Look):
        return wanted
    if isinstance(wanted, Mapping):
        return _from_steps(wanted, "the look")
    if not isinstance(wanted, (str, Path)):
        raise ValueError(f"a look is a name, a file or an object of steps, not {said(repr(wanted))}")
    if isinstance(wanted, str) and wanted in LOOKS:
        return _read(_SHIPPED / f"{wanted}.json")
    if isinstance(wanted, str) and not any(sign in wanted for sign in "./\\"):
        raise ValueError(f"there is no look {said(repr(wanted))}: choose one of {', '.join(LOOKS)}, or give a file")
    return _read(Path(wanted))


def _read(path: Path) -> Look:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no look {said(path)}: give a file, or one of {', '.join(LOOKS)}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too long for a look")
        steps = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{said(path)} is not a look, a JSON object of steps: {said(error)}") from error
    return _from_steps(steps, str(path))


def _from_steps(steps: object, whose: str) -> Look:
    if not isinstance(steps, Mapping):
        raise ValueError(f"{whose} must be an object of steps, not {said(repr(steps))}")
    unknown = sorted(str(name) for name in set(steps) - set(_STEPS))
    if unknown:
        raise ValueError(f"{whose} has no step {said(', '.join(unknown))}: choose from {', '.join(_STEPS)}")
    return Look(**{name: _step(name, values, whose) for name, values in steps.items() if values is not None})


def _step(name: str, values: object, whose: str) -> Any:
    kind = _STEPS[name]
    if not isinstance(values, Mapping):
        raise ValueError(f'{name} of {whose} must be an object such as {{"strength": 0.5}}, not {said(repr(values))}')
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(str(field) for field in set(values) - set(fields))
    if unknown:
        raise ValueError(f"{name} of {whose} has no {said(', '.join(unknown))}: choose from {', '.join(fields)}")
    if "colour" in fields and fields["colour"].default is dataclasses.MISSING and "colour" not in values:
        raise ValueError(f"{name} of {whose} needs a colour")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{name} of {whose}: {error}") from error
