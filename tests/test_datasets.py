"""Public data sets in drawn miniatures with their original names, brought into our layout."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from faceparse_core.cli import main
from faceparse_core.labels import LABELS
from faceparse_core.training.data import UNTOLD, read_names, read_pair
from faceparse_core.training.datasets import subjects_sides

IDS = {label.name: label.id for label in LABELS}


def part(path, box, side=64):
    mask = np.zeros((side, side), np.uint8)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


@pytest.fixture
def celebamask(tmp_path):
    """Three portraits at twice the size of their masks; in the third left and right are not the subject's."""
    root = tmp_path / "CelebAMask-HQ"
    (root / "CelebA-HQ-img").mkdir(parents=True)
    rows = [(0, 119613), (2001, 162771), (29999, 202599)]
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx           orig_idx      orig_file\n" + "".join(f"{n:<13} {o:<13} {o + 1:06d}.jpg\n" for n, o in rows)
    )
    for number, _ in rows:
        Image.new("RGB", (128, 128), (number % 256, 90, 90)).save(root / "CelebA-HQ-img" / f"{number}.jpg")
        folder = root / "CelebAMask-HQ-mask-anno" / str(number // 2000)
        part(folder / f"{number:05d}_skin.png", (16, 16, 48, 60))
        left, right = ("r", "l") if number == 29999 else ("l", "r")
        part(folder / f"{number:05d}_{right}_eye.png", (20, 24, 28, 28))
        part(folder / f"{number:05d}_{left}_eye.png", (36, 24, 44, 28))
        part(folder / f"{number:05d}_hair.png", (16, 8, 48, 22))
    return root


def test_celebamask_hq_as_published(celebamask, tmp_path, capsys):
    out = tmp_path / "data"
    assert main(["data", "celebamask-hq", str(celebamask), "--out", str(out), "--size", "64"]) == 0
    assert "1 train, 1 val, 1 test" in capsys.readouterr().out
    assert [read_names(out, split) for split in ("train", "val", "test")] == [["00000"], ["02001"], ["29999"]]
    for name in ("00000", "02001", "29999"):
        image, mask = read_pair(out, name)
        assert image.shape == (64, 64, 3)
        assert mask[40, 32] == IDS["skin"] and mask[18, 32] == IDS["hair"], "hair lies over skin"
        assert mask[26, 24] == IDS["r_eye"] and mask[26, 40] == IDS["l_eye"], "left is the subject's"
    # What is there is not made again, what is missing is.
    (out / "masks" / "02001.png").unlink()
    before = (out / "masks" / "00000.png").stat().st_mtime_ns
    assert main(["data", "celebamask-hq", str(celebamask), "--out", str(out), "--size", "64"]) == 0
    assert (out / "masks" / "02001.png").exists() and (out / "masks" / "00000.png").stat().st_mtime_ns == before


def test_lapa_tells_its_eleven_classes_and_no_more(tmp_path):
    root, out = tmp_path / "LaPa", tmp_path / "data"
    for number, split in enumerate(("train", "val", "test")):
        for folder in ("images", "labels", "landmarks"):
            (root / split / folder).mkdir(parents=True)
        Image.new("RGB", (40, 60)).save(root / split / "images" / f"{number}_0.jpg")
        mask = np.zeros((60, 40), np.uint8)
        mask[10:50, 5:35] = 1
        mask[20:24, 8:14], mask[20:24, 26:32] = 4, 5
        mask[:10] = 10
        Image.fromarray(mask).save(root / split / "labels" / f"{number}_0.png")
    assert main(["data", "lapa", str(root), "--out", str(out)]) == 0
    _, mask = read_pair(out, "1_0")
    assert mask.shape == (60, 40) and mask[55, 20] == UNTOLD and mask[3, 3] == IDS["hair"]
    assert mask[22, 10] == IDS["r_eye"] and mask[22, 28] == IDS["l_eye"]


def test_what_is_not_as_published_is_said(tmp_path, celebamask, capsys):
    assert main(["data", "celebamask-hq", str(tmp_path), "--out", str(tmp_path / "a")]) == 1
    assert "CelebA-HQ-img" in capsys.readouterr().err
    (celebamask / "CelebA-HQ-img" / "2001.jpg").unlink()
    assert main(["data", "celebamask-hq", str(celebamask), "--out", str(tmp_path / "b")]) == 1
    assert "2001.jpg is missing" in capsys.readouterr().err
    assert main(["data", "imagenet", str(tmp_path), "--out", str(tmp_path / "c")]) == 1
    assert "celebamask-hq, lapa" in capsys.readouterr().err


def test_sides_are_decided_by_the_majority_of_pairs():
    mask = np.zeros((8, 8), np.uint8)
    mask[1, 1], mask[1, 6], mask[2, 1], mask[2, 6], mask[3, 6], mask[3, 1] = 4, 5, 6, 7, 8, 9
    mended = subjects_sides(mask)
    assert (mended[1, 6], mended[2, 6], mended[3, 1]) == (4, 6, 8)
    assert (subjects_sides(mended) == mended).all()
