from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceparse_core.labels import (
    DRAWN,
    DRAWN_GROUPS,
    GROUPS,
    LABELS,
    NUM_LABELS,
    PAIRS,
    label_order,
    region_ids,
    resolve,
)

# fmt: off
PUBLISHED = [
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
]
# fmt: on
NAMES = sorted({label.name for label in LABELS} | {label.title for label in LABELS} | set(GROUPS))


def ids(*names: str) -> tuple[int, ...]:
    return tuple(sorted(PUBLISHED.index(name) for name in names))


def lab(colour: tuple[int, int, int]) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour: distances in it are about as the eye sees them."""
    rgb = np.array(colour) / 255
    rgb = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.089]).clip(16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# The table


def test_labels_are_the_published_ones_in_their_order():
    assert [label.name for label in LABELS] == PUBLISHED
    assert [label.id for label in LABELS] == list(range(NUM_LABELS)) == list(range(19))
    assert len({label.title for label in LABELS}) == 19


def test_l_lip_is_the_lower_lip_and_pairs_are_left_then_right():
    assert LABELS[12].title == "lower lip"
    for left, right in PAIRS:
        assert LABELS[left].title == LABELS[right].title.replace("right", "left") != LABELS[right].title
        assert LABELS[left].name == LABELS[right].name.replace("r_", "l_", 1)


def test_groups():
    lips = ("u_lip", "l_lip")
    face = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", *lips)
    assert {
        "face": ids(*face),
        "skin": ids("skin"),
        "eyes": ids("l_eye", "r_eye"),
        "brows": ids("l_brow", "r_brow"),
        "ears": ids("l_ear", "r_ear"),
        "lips": ids(*lips),
        "mouth_area": ids("mouth", *lips),
        "hair": ids("hair"),
        "head": ids(*face, "l_ear", "r_ear", "hair", "hat"),
        "accessories": ids("eye_g", "hat", "ear_r", "neck_l"),
        "person": tuple(range(1, 19)),
        "background": (0,),
        "all": tuple(range(19)),
    } == GROUPS


def test_colours_can_be_told_apart():
    assert LABELS[0].colour == (0, 0, 0)
    assert all(0 <= channel <= 255 for label in LABELS for channel in label.colour)
    for a, b in itertools.combinations(LABELS, 2):
        distance = np.linalg.norm(lab(a.colour) - lab(b.colour))
        assert distance > (60 if (a.id, b.id) in PAIRS else 25), (a.title, b.title, distance)


# Region expressions


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.name)
def test_published_names_and_titles_are_regions(label):
    assert region_ids(label.name) == region_ids(label.title) == (label.id,)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("hair", ids("hair")),
        ("face - eyes - lips", ids("skin", "nose", "eye_g", "l_brow", "r_brow", "mouth")),
        ("hair - hat", ids("hair")),
        ("all - background", GROUPS["person"]),
        ("skin, nose ,lips", ids("skin", "nose", "u_lip", "l_lip")),
        # left to right: no operator binds tighter
        ("lips - lips + hair", ids("hair")),
        ("hair + lips - lips", ids("hair")),
        ("face - lips, lower lip", tuple(i for i in GROUPS["face"] if i != 11)),
        # case, spaces and underscores within a name
        ("  LOWER   Lip ", ids("l_lip")),
        ("left_eye", ids("l_eye")),
        ("Mouth Area", GROUPS["mouth_area"]),
        ("skin\n+ nose", ids("skin", "nose")),
        # friendly names
        ("glasses + clothing", ids("eye_g", "cloth")),
        ("clothes", ids("cloth")),
        ("eyebrows", GROUPS["brows"]),
        ("left eyebrow", ids("l_brow")),
        ("earrings", ids("ear_r")),
        ("teeth", ids("mouth")),
        ("ear left, ear right", GROUPS["ears"]),
        # pasted typographic dashes subtract
        ("all – hair — hat − nose", tuple(i for i in range(19) if i not in ids("hair", "hat", "nose"))),
        ("all–hair", tuple(i for i in range(19) if i != 13)),
    ],
)
def test_expressions(expression, expected):
    assert region_ids(expression) == expected


@pytest.mark.parametrize("part", ["eye", "brow", "eyebrow", "ear"])
def test_left_is_the_subjects_and_the_viewers_is_the_other(part):
    left, right = region_ids(f"left {part}"), region_ids(f"right {part}")
    assert (*left, *right) in PAIRS
    assert region_ids(f"subject's left {part}") == region_ids(f"subject left {part}") == left
    for viewer in ("viewer left", "viewer's left", "viewer’s left", "VIEWER_LEFT", "viewer-left"):
        assert region_ids(f"{viewer} {part}") == right
    assert region_ids(f"viewer right {part}") == left


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("mouth-area", GROUPS["mouth_area"]),
        ("mouth-area-lips", ids("mouth")),
        ("lower-lip + left-eye", ids("l_lip", "l_eye")),
        ("eyes-left-eye", ids("r_eye")),
        ("brows - viewer-left-eye-brow", ids("l_brow")),
        ("eyes-left eye", ids("r_eye")),
        ("all-hair-hat", tuple(i for i in range(19) if i not in (13, 14))),
        ("face -skin- nose", tuple(i for i in GROUPS["face"] if i not in (1, 2))),
        ("neck-neck-l + hair", ids("neck", "hair")),
    ],
)
def test_a_tight_hyphen_is_part_of_a_name_where_that_makes_one(expression, expected):
    assert region_ids(expression) == expected


def test_a_spaced_hyphen_always_subtracts():
    with pytest.raises(ValueError, match="no 'left'"):
        region_ids("left - eye")


@pytest.mark.parametrize("expression", ["left+eye", "left,eye"])
def test_only_a_hyphen_can_be_part_of_a_name(expression):
    with pytest.raises(ValueError, match="no 'left'"):
        region_ids(expression)


@pytest.mark.parametrize("name", NAMES)
def test_hyphens_for_spaces_make_the_same_name(name):
    assert region_ids(name.replace(" ", "-").replace("_", "-")) == region_ids(name)


@pytest.mark.parametrize("first", NAMES)
def test_a_tight_hyphen_between_two_names_is_never_ambiguous(first):
    for second in NAMES:
        rest = set(region_ids(first)) - set(region_ids(second))
        if rest:
            assert region_ids(f"{first}-{second}") == tuple(sorted(rest))
        else:
            with pytest.raises(ValueError, match="selects nothing"):
                region_ids(f"{first}-{second}")


@pytest.mark.parametrize(
    ("expression", "help_text"),
    [
        ("", "empty.*hair"),
        (" \n ", "empty"),
        ("- hair", "starts with '-'.*all - hair"),
        ("+ hair", "starts with"),
        ("-", "starts with"),
        ("hair -", "missing after the last '-'"),
        ("skin, hair,", "missing after the last ','"),
        ("face -- eyes", "missing between '-' and '-'"),
        ("face--eyes", "missing between"),
        ("face -+ eyes", "missing between"),
        ("skin,,hair", "missing between"),
        ("hair - hair", "selects nothing"),
        ("lips - mouth_area", "selects nothing"),
        ("skin hair", "put '\\+' or '-' between 'skin' and 'hair'"),
        ("hiar", "did you mean 'hair'"),
        ("face - eyeglases", "did you mean 'eyeglasses'"),
        ("upperlip + lowr lip", "did you mean 'lower lip'"),
        ("eye", "did you mean .*'left eye'"),
        ("lip", "did you mean .*'lips'.*'upper lip'"),
        ("ear_l", "did you mean .*'left ear'"),  # ear_r is the earring, so that ear_l would mislead
        ("left lip", "did you mean .*'lower lip'"),
        ("xylophone", "Groups: face, .*labels: .*lower lip"),
        ("hair*2", "no 'hair\\*2'"),
        (13, "text.*int"),
        (None, "text.*NoneType"),
    ],
)
def test_a_wrong_expression_is_answered_with_help(expression, help_text):
    with pytest.raises(ValueError, match=help_text):
        region_ids(expression)


@pytest.mark.parametrize("drawn", [*DRAWN, *DRAWN_GROUPS])
def test_a_tight_hyphen_beside_a_drawn_region_is_never_ambiguous(drawn):
    for name in NAMES:
        for tight, spaced in ((f"{name}-{drawn}", f"{name} - {drawn}"), (f"{drawn}-{name}", f"{drawn} - {name}")):
            try:
                expected = resolve(spaced)
            except ValueError:
                with pytest.raises(ValueError, match="selects nothing"):
                    resolve(tight)
            else:
                assert resolve(tight) == expected


@given(
    terms=st.lists(st.tuples(st.sampled_from(["+", ",", "-", " + ", ", ", " - "]), st.sampled_from(NAMES)), min_size=1),
    spelling=st.sampled_from([str.upper, str.title, lambda name: name.replace(" ", "_")]),
)
def test_expressions_are_set_algebra_from_left_to_right(terms, spelling):
    expected: set[int] = set()
    for operator, name in [("+", terms[0][1]), *terms[1:]]:
        expected = expected - set(region_ids(name)) if "-" in operator else expected | set(region_ids(name))
    expression = "".join(operator + spelling(name) for operator, name in terms).removeprefix(terms[0][0])
    if expected:
        assert region_ids(expression) == tuple(sorted(expected))
    else:
        with pytest.raises(ValueError, match="selects nothing"):
            region_ids(expression)


@given(st.one_of(st.text(), st.text(alphabet="+-,_ lefthaireyskn'")))
def test_any_text_gives_sorted_ids_or_a_value_error(text):
    try:
        selected = region_ids(text)
    except ValueError as error:
        assert str(error)
    else:
        assert selected and list(selected) == sorted(set(selected)) and set(selected) <= set(range(19))


# Labels of foreign checkpoints


@given(st.permutations(PUBLISHED))
def test_label_order_finds_each_label(names):
    order = label_order(names)
    assert [names[channel] for channel in order] == PUBLISHED


def test_label_order_understands_variants():
    # fmt: off
    variants = [
        "bg", "Skin", "nose", "eyeglasses", "left_eye", "right-eye", "left_eyebrow", "R_BROW", "ear left", "right_ear",
        "mouth", "upper_lip", "LOWER-LIP", "hair", "hat", "earring", "necklace", "neck", "clothes",
    ]
    # fmt: on
    assert label_order(variants[::-1]) == list(range(18, -1, -1))


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (PUBLISHED[:-1], "18 labels.*missing: cloth"),
        ([*PUBLISHED, "beard"], "unknown: beard"),
        ([*PUBLISHED[:-1], "beard"], "unknown: beard; missing: cloth"),
        ([*PUBLISHED[:-1], "lower lip"], "given twice: lower lip; missing: cloth"),
        ([f"LABEL_{i}" for i in range(19)], "unknown: LABEL_0, "),
        ([*PUBLISHED[:-1], "eyes"], "unknown: eyes"),
        ([], "missing: background"),
    ],
)
def test_label_order_refuses_other_labels(names, complaint):
    with pytest.raises(ValueError, match=complaint):
        label_order(names)
