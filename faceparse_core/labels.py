"""The 19 labels of CelebAMask-HQ: names, colours, left/right pairs, groups, and region expressions over them.

Left and right are always the SUBJECT's, as in the published model: the left eye of a person who looks at you lies on
the right of the picture. Names that begin with ``viewer`` turn this around: ``viewer left eye`` is the subject's right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Label:
    """One label: its id in the label map, the published name, a readable title, a note, and its RGB colour (0..255)."""

    id: int
    name: str
    title: str
    note: str
    colour: tuple[int, int, int]


# Colours: warm for the parts of the face, blue and violet for the subject's left, green for the right, so that a result
# with exchanged sides shows at a glance. No two are close to each other.
LABELS: tuple[Label, ...] = (
    Label(0, "background", "background", "whatever is not the person", (0, 0, 0)),
    Label(1, "skin", "skin", "skin of the face, without nose, ears and neck", (236, 164, 126)),
    Label(2, "nose", "nose", "", (255, 214, 64)),
    Label(3, "eye_g", "eyeglasses", "frame and lenses, sunglasses too", (20, 214, 214)),
    Label(4, "l_eye", "left eye", "the subject's left; on the right of the picture", (0, 112, 255)),
    Label(5, "r_eye", "right eye", "the subject's right; on the left of the picture", (70, 224, 70)),
    Label(6, "l_brow", "left brow", "the subject's left; on the right of the picture", (150, 196, 255)),
    Label(7, "r_brow", "right brow", "the subject's right; on the left of the picture", (0, 116, 52)),
    Label(8, "l_ear", "left ear", "the subject's left; on the right of the picture", (140, 80, 255)),
    Label(9, "r_ear", "right ear", "the subject's right; on the left of the picture", (188, 232, 120)),
    Label(10, "mouth", "inner mouth", "between the lips: teeth and tongue", (255, 244, 230)),
    Label(11, "u_lip", "upper lip", "", (255, 64, 128)),
    Label(12, "l_lip", "lower lip", "the lower lip, not a left one", (168, 0, 32)),
    Label(13, "hair", "hair", "hair of the head, long strands too", (140, 66, 14)),
    Label(14, "hat", "hat", "hats, caps, scarves and other headwear", (255, 122, 0)),
    Label(15, "ear_r", "earring", "one label for both ears", (255, 170, 240)),
    Label(16, "neck_l", "necklace", "", (235, 0, 205)),
    Label(17, "neck", "neck", "neck and bare shoulders", (178, 124, 148)),
    Label(18, "cloth", "clothing", "", (64, 88, 150)),
)
"""All labels; ``LABELS[i].id == i``."""

NUM_LABELS = len(LABELS)

PAIRS: tuple[tuple[int, int], ...] = ((4, 5), (6, 7), (8, 9))
"""(left, right) ids of the parts that come twice; mirroring a picture exchanges them."""

_LIPS = (11, 12)
_FACE = (1, 2, 3, 4, 5, 6, 7, 10, *_LIPS)

GROUPS: dict[str, tuple[int, ...]] = {
    "face": _FACE,
    "skin": (1,),
    "eyes": (4, 5),
    "brows": (6, 7),
    "ears": (8, 9),
    "lips": _LIPS,
    "mouth_area": (10, *_LIPS),
    "hair": (13,),
    "head": tuple(sorted((*_FACE, 8, 9, 13, 14))),
    "accessories": (3, 14, 15, 16),
    "person": tuple(range(1, NUM_LABELS)),
    "background": (0,),
    "all": tuple(range(NUM_LABELS)),
}
"""Named sets of labels, as sorted ids."""

DRAWN: dict[str, tuple[int, ...]] = {
    "forehead": (1,),
    "left cheek": (1,),
    "right cheek": (1,),
    "chin": (1,),
    "under eyes": (1,),
    "t-zone": (1, 2),
}
"""Regions that are drawn on each face (see ``regions.py``), and the labels of which they are a part, as sorted ids."""

DRAWN_GROUPS: dict[str, tuple[str, ...]] = {"cheeks": ("left cheek", "right cheek")}
"""Named sets of drawn regions."""

_LABEL_ALIASES: dict[int, tuple[str, ...]] = {
    0: ("bg",),
    1: ("facial skin",),
    3: ("eye g", "eye glasses", "glasses", "spectacles", "sunglasses"),
    10: ("mouth interior", "mouth inside", "teeth", "tongue"),
    11: ("top lip",),
    12: ("bottom lip",),
    14: ("cap", "headwear"),
    15: ("ear ring", "earrings", "ear rings"),
    16: ("neck lace", "necklaces"),
    18: ("clothes", "cloths"),
}
_GROUP_ALIASES: dict[str, tuple[str, ...]] = {
    "brows": ("eyebrows", "eye brows"),
    "mouth_area": ("mouth region", "whole mouth"),
    "accessories": ("accessory",),
    "person": ("people", "foreground"),
    "all": ("everything",),
}
_DRAWN_ALIASES: dict[str, tuple[str, ...]] = {"under eyes": ("under eye", "below eyes", "eye bags", "dark circles")}
_PAIRED_PARTS: tuple[tuple[str, ...], ...] = (("eye",), ("brow", "eyebrow", "eye brow"), ("ear",))


_Named = TypeVar("_Named", int, str)


def _side_names(left: _Named, right: _Named, parts: Sequence[str]) -> Iterator[tuple[str, _Named]]:
    """Every way to name one part of a pair; left and right are the subject's unless the name says the viewer's."""
    for side, own, opposite in (("left", left, right), ("right", right, left)):
        for part in parts:
            yield from (
                (f"{side} {part}", own),
                (f"{side[0]} {part}", own),
                (f"{part} {side}", own),
                (f"subject {side} {part}", own),
                (f"subject's {side} {part}", own),
                (f"viewer {side} {part}", opposite),
                (f"viewer's {side} {part}", opposite),
            )


def _key(name: str) -> str:
    """What counts in a name: case, spaces, underscores, hyphens and apostrophes do not."""
    return re.sub(r"[\s_\-'’]+", "", name.casefold())


def _label_names() -> Iterator[tuple[str, int]]:
    for label in LABELS:
        yield label.title, label.id
        yield label.name, label.id
        for alias in _LABEL_ALIASES.get(label.id, ()):
            yield alias, label.id
    for (left, right), parts in zip(PAIRS, _PAIRED_PARTS, strict=True):
        yield from _side_names(left, right, parts)


def _group_names() -> Iterator[tuple[str, str]]:
    for group in GROUPS:
        yield group, group
        for alias in _GROUP_ALIASES.get(group, ()):
            yield alias, group


def _drawn_names() -> Iterator[tuple[str, str]]:
    for name in (*DRAWN, *DRAWN_GROUPS):
        yield name, name
        for alias in _DRAWN_ALIASES.get(name, ()):
            yield alias, name
    yield from _side_names("left cheek", "right cheek", ("cheek",))


_LABEL_KEYS: dict[str, int] = {_key(name): label for name, label in _label_names()}
# A name stands for labels, by their ids, or for drawn regions.
_REGION_KEYS: dict[str, tuple[int, ...] | tuple[str, ...]] = {
    **{key: (label,) for key, label in _LABEL_KEYS.items()},
    **{_key(name): GROUPS[group] for name, group in _group_names()},
    **{_key(name): DRAWN_GROUPS.get(drawn, (drawn,)) for name, drawn in _drawn_names()},
}
# What a person may have meant by a misspelt name -> the name we show for it.
_LABEL_SPELLINGS: dict[str, str] = {name.replace("_", " "): LABELS[label].title for name, label in _label_names()}
_REGION_SPELLINGS: dict[str, str] = {
    **_LABEL_SPELLINGS,
    **{name.replace("_", " "): group for name, group in (*_group_names(), *_drawn_names())},
}

_LONGEST_HYPHENED_NAME = 4  # "viewer-left-eye-brow"


@dataclass(frozen=True)
class Region:
    """A region: which share of each label belongs to it, everywhere or depending on what is drawn on the faces.

    ``ids``: the sorted ids of the labels that belong to it where nothing is drawn. ``drawn``: for each label of which
    that is not all, what is added to it ("+") and taken from it ("-"), in this order, by names of ``DRAWN``; so that
    ``skin - forehead`` is ids (1,) with drawn {1: (("-", "forehead"),)}.
    """

    ids: tuple[int, ...]
    drawn: Mapping[int, tuple[tuple[str, str], ...]]

    @property
    def shapes(self) -> tuple[str, ...]:
        """The names of the drawn regions that are needed, in the order of ``DRAWN``."""
        needed = {name for steps in self.drawn.values() for _, name in steps}
        return tuple(name for name in DRAWN if name in needed)


def resolve(expression: str) -> Region:
    """The region that an expression stands for, e.g. ``resolve("face - eyes - forehead")``.

    An expression is names of labels, groups and drawn regions joined by ``+`` (or ``,``) and ``-``, evaluated from left
    to right: ``face - lips + hair`` is (face - lips) + hair. Within a name, case does not matter, nor do spaces and
    underscores.

    A hyphen subtracts, unless it stands directly between words (no space on either side) that together are a name:
    ``mouth-area`` and ``left-eye`` are names, ``face-eyes`` and ``mouth - lips`` are subtractions. Of several readings
    from the left the longest name wins; no name is made of two others, so that no tight hyphen has two meanings.

    Raises ValueError, saying what is accepted, for an empty expression, an unknown name (with the nearest right ones),
    a doubled, missing or dangling operator, and for an expression that selects nothing.

    >>> resolve("eyes + glasses")
    Region(ids=(3, 4, 5), drawn={})
    >>> resolve("skin - forehead").shapes
    ('forehead',)
    >>> resolve("hiar")
    Traceback (most recent call last):
    ValueError: region 'hiar': there is no 'hiar'; did you mean 'hair'...
    """
    if not isinstance(expression, str):
        raise ValueError(f"a region is text such as 'hair' or 'face - eyes', not {type(expression).__name__}")
    if not expression.strip():
        raise ValueError(f"the region is empty; write for example 'hair' or 'face - eyes'. {_vocabulary_help()}")

    whole: set[int] = set()
    steps: dict[int, dict[str, str]] = {}  # label -> drawn region -> operator
    for operator, name in _terms(expression):
        found = _REGION_KEYS.get(_key(name))
        if found is None:
            raise ValueError(f"region {expression!r}: {_unknown_name(name)}")
        for part in found:
            if isinstance(part, int):
                (whole.discard if operator == "-" else whole.add)(part)
                steps.pop(part, None)  # all of the label, or none: what was drawn on it before no longer matters
                continue
            for label in DRAWN[part]:
                before = steps.setdefault(label, {})
                before.pop(part, None)  # only the last mention of a drawn region matters
                before[part] = operator
    drawn = {label: _simplest(list(some.items()), label in whole) for label, some in sorted(steps.items())}
    drawn = {label: some for label, some in drawn.items() if some}
    if not whole and not drawn:
        raise ValueError(f"region {expression!r} selects nothing: everything added is subtracted again")
    return Region(tuple(sorted(whole)), drawn)


def _simplest(steps: list[tuple[str, str]], whole: bool) -> tuple[tuple[str, str], ...]:
    """(operator, name) for (name, operator), without those at the start that change nothing: what adds to the whole of
    a label, or takes from none of it."""
    useless = "+" if whole else "-"
    while steps and steps[0][1] == useless:
        steps = steps[1:]
    return tuple((operator, name) for name, operator in steps)


def region_ids(expression: str) -> tuple[int, ...]:
    """The sorted label ids that a region expression selects, e.g. ``region_ids("face - eyes - lips")``.

    See ``resolve`` for what an expression may be and for its errors. Raises ValueError, too, for one that holds drawn
    regions, which are a part of a label only.

    >>> region_ids("eyes")
    (4, 5)
    >>> [LABELS[index].title for index in region_ids("mouth area - mouth")]
    ['upper lip', 'lower lip']
    """
    region = resolve(expression)
    if region.drawn:
        raise ValueError(
            f"region {expression!r} is more than a set of labels: {', '.join(region.shapes)} "
            f"{'is' if len(region.shapes) == 1 else 'are'} drawn on faces; Parsing.mask takes it"
        )
    return region.ids


def label_order(names: Sequence[str]) -> list[int]:
    """Where a foreign checkpoint keeps our labels: our label ``k`` is its channel ``label_order(names)[k]``.

    ``names[i]`` is what its channel ``i`` means, under the published name or a usual variant of it (``eye_g`` or
    ``eyeglasses``, ``l_eye`` or ``left eye``). Raises ValueError unless they are exactly our 19 labels.

    >>> backwards = [label.name for label in reversed(LABELS)]
    >>> label_order(backwards)[:3]
    [18, 17, 16]
    """
    channels: dict[int, int] = {}
    unknown: list[str] = []
    repeated: list[str] = []
    for channel, name in enumerate(names):
        label = _LABEL_KEYS.get(_key(name))
        if label is None:
            unknown.append(name)
        elif label in channels:
            repeated.append(name)
        else:
            channels[label] = channel

    missing = [label.name for label in LABELS if label.id not in channels]
    problems = [
        f"{problem}: {', '.join(found)}"
        for problem, found in (("unknown", unknown), ("given twice", repeated), ("missing", missing))
        if found
    ]
    if problems:
        raise ValueError(
            f"these {len(names)} labels are not the {NUM_LABELS} of CelebAMask-HQ ({'; '.join(problems)}). "
            f"Expected, in any order: {', '.join(label.name for label in LABELS)}"
        )
    return [channels[label.id] for label in LABELS]


def _terms(expression: str) -> Iterator[tuple[str, str]]:
    """The (operator, name) terms of an expression; the first operator is always ``+``."""
    # Typographic dashes come with pasted text; they are never part of a name, so the spaces keep them apart.
    pieces = re.split(r"([+,-])", re.sub("[−–—]", " - ", expression))
    words, operators = pieces[::2], ["+", *pieces[1::2]]
    start = 0
    while start < len(words):
        end = _end_of_name(words, operators, start)
        name = "-".join(words[start:end])
        if not name.strip():
            raise ValueError(f"region {expression!r}: {_missing_name(operators, start)}")
        yield operators[start], name.strip()
        start = end


def _end_of_name(words: list[str], operators: list[str], start: int) -> int:
    """The end of the longest known name that starts at ``words[start]`` and runs over tight hyphens."""
    for end in range(min(len(words), start + _LONGEST_HYPHENED_NAME), start + 1, -1):
        hyphens = operators[start + 1 : end]
        left, right = words[start : end - 1], words[start + 1 : end]
        tight = all(word and not word[-1].isspace() for word in left) and all(w and not w[0].isspace() for w in right)
        if tight and set(hyphens) == {"-"} and _key("".join(words[start:end])) in _REGION_KEYS:
            return end
    return start + 1


def _missing_name(operators: list[str], position: int) -> str:
    if position == 0:
        if operators[1] == "-":
            return "it starts with '-'; say what to subtract from, for example 'all - hair'"
        return f"it starts with {operators[1]!r}; start with a name, for example 'hair'"
    if position == len(operators) - 1:
        return f"a name is missing after the last {operators[position]!r}"
    return f"a name is missing between {operators[position]!r} and {operators[position + 1]!r}"


def _unknown_name(name: str) -> str:
    """Help for a name that we do not know."""
    words = re.split(r"[\s_]+", name)
    for cut in range(1, len(words)):
        first, second = " ".join(words[:cut]), " ".join(words[cut:])
        if _key(first) in _REGION_KEYS and _key(second) in _REGION_KEYS:
            return f"there is no {name!r}; put '+' or '-' between {first!r} and {second!r}"
    near = _nearest(name)
    suggestion = f"; did you mean {_either(near)}?" if near else "."
    return f"there is no {name!r}{suggestion} {_vocabulary_help()}"


def _nearest(name: str, most: int = 3) -> list[str]:
    """Up to ``most`` of our names that resemble ``name``, the likeliest first."""
    spoken = re.sub(r"[\s_\-]+", " ", name.casefold()).strip()
    spellings = difflib.get_close_matches(spoken, _REGION_SPELLINGS, n=8, cutoff=0.6)
    # "lip" or "brow" alone is too short to resemble "upper lip", yet that is what was meant.
    spellings += [spelling for spelling in _REGION_SPELLINGS if spoken in spelling.split()]
    return list(dict.fromkeys(_REGION_SPELLINGS[spelling] for spelling in spellings))[:most]


def _either(names: Iterable[str]) -> str:
    *rest, last = (repr(name) for name in names)
    return f"{', '.join(rest)} or {last}" if rest else last


def _vocabulary_help() -> str:
    labels = [label.title for label in LABELS if label.title not in GROUPS]
    drawn = [*DRAWN, *DRAWN_GROUPS]
    return (
        f"Groups: {', '.join(GROUPS)}; labels: {', '.join(labels)}; drawn on faces: {', '.join(drawn)}; "
        "join them with '+' and '-'."
    )
