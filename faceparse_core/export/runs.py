"""COCO's run lengths of masks, as pycocotools reads and writes them, from label maps.

A mask is the lengths of its runs down the columns, from left to right: first of what is not in it, then of what is, and
so on. Packed into text, each length (from the fourth on its difference to the one two places before) is written in
digits of five bits, the lowest first, with a sixth that says whether more follow.
"""

from __future__ import annotations

import numpy as np

from faceparse_core.labels import NUM_LABELS

# Digits of five bits that a length of 63 bits may need.
_MOST_DIGITS = 13


def encoded(labels: np.ndarray) -> dict[int, str]:
    """Of each label in a map, uint8 [H, W], its mask as packed run lengths; labels that are not there are left out."""
    flat = np.asarray(labels).T.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], len(flat))
    values = flat[starts]
    masks = {}
    for label in np.unique(values).tolist():
        own = values == label
        edges = np.stack((starts[own], ends[own]), 1).ravel()
        lengths = np.diff(edges, prepend=0)
        rest = len(flat) - int(edges[-1])
        masks[label] = packed(np.append(lengths, rest) if rest else lengths)
    return masks


def packed(lengths: np.ndarray) -> str:
    """Run lengths, whole numbers [N], as COCO's text."""
    left = np.array(lengths, dtype=np.int64)
    left[3:] -= np.asarray(lengths, dtype=np.int64)[1:-2]
    digits = np.zeros((len(left), _MOST_DIGITS), np.uint8)
    used = np.zeros(digits.shape, bool)
    unfinished = np.ones(len(left), bool)
    for place in range(_MOST_DIGITS):
        used[:, place] = unfinished
        digit = left & 31
        left >>= 5
        unfinished = unfinished & np.where(digit & 16, left != -1, left != 0)
        digits[:, place] = (digit | unfinished * 32) + 48
        if not unfinished.any():
            break
    return digits[used].tobytes().decode("ascii")


def unpacked(text: str) -> np.ndarray:
    """The run lengths, int64 [N], in COCO's text. ValueError if it is none."""
    try:
        digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise ValueError("these are no run lengths of COCO: they hold letters that are none of its digits") from None
    if not len(digits):
        return digits
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError(
            "these are no run lengths of COCO: they hold letters that are none of its digits, or end early"
        )
    ends = np.flatnonzero(digits < 32)
    starts = np.append(0, ends[:-1] + 1)
    counts = ends - starts + 1
    if counts.max() > _MOST_DIGITS:
        raise ValueError("these are no run lengths of COCO: one has too many digits")
    places = np.arange(len(digits)) - np.repeat(starts, counts)
    lengths = np.add.reduceat((digits & 31) << 5 * places, starts)
    lengths -= np.where(digits[ends] & 16, np.int64(1) << np.minimum(5 * counts, 62), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def mask(lengths: np.ndarray | str, height: int, width: int) -> np.ndarray:
    """The mask, bool [H, W], of run lengths, packed or not. ValueError if they do not fill ``height`` x ``width``."""
    if isinstance(lengths, str):
        lengths = unpacked(lengths)
    lengths = np.asarray(lengths, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"these run lengths do not fill a mask of {width}x{height} pixels")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def decoded(masks: dict[int, str], height: int, width: int) -> np.ndarray:
    """The label map, uint8 [H, W], of packed run lengths by label; 0 where none of them is."""
    labels = np.zeros((height, width), np.uint8)
    for label, text in masks.items():
        if not 0 <= label < NUM_LABELS:
            raise ValueError(f"there is no label {label}: they go from 0 to {NUM_LABELS - 1}")
        labels[mask(text, height, width)] = label
    return labels
