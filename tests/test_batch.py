"""Folders and datasets in shards: every picture once, whatever happens on the way."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from faceparse_core import FaceParser  # noqa: E402
from faceparse_core.cli import main  # noqa: E402
from faceparse_core.export import runs  # noqa: E402
from faceparse_core.scale import batch, shards, sources  # noqa: E402

SMALL = ["--model", "lite", "--device", "cpu", "--resolution", "96", "--faces", "image"]
SETTINGS = shards.Settings("lite", "cpu", resolution=96, faces="image")


@pytest.fixture(scope="module")
def photos(portrait, tmp_path_factory) -> Path:
    """Seven small pictures, one of them in a folder, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    face = Image.open(portrait.with_name("closeup.jpg")).resize((64, 48))
    for i in range(6):
        face.rotate(10 * i).save(folder / f"{i}.png")
    face.save(folder / "more" / "6.jpg")
    (folder / "3.bad.png").write_text("no picture")
    (folder / "notes.md").write_text("no picture either")
    return folder


def rows(out: Path) -> list[dict]:
    return pq.read_table(out).to_pylist()


def test_a_folder(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["batch", str(photos), "--out", str(out), "--shard", "3", "--png", *SMALL]) == 1
    assert "1 pictures failed" in capsys.readouterr().err
    assert sorted(path.name for path in out.glob("*.parquet")) == [f"part-0000{i}.parquet" for i in range(3)]
    found = rows(out)
    assert [Path(row["path"]).name for row in found] == [
        "0.png", "1.png", "2.png", "3.bad.png", "3.png", "4.png", "5.png", "6.jpg"
    ]  # fmt: skip
    bad = found.pop(3)
    assert "not a picture" in bad["error"] and bad["width"] is bad["labels"] is None
    parser = FaceParser("lite", "cpu", resolution=96)
    for row in found:
        assert row["error"] is None
        parsing = parser.parse(row["path"], faces="image")
        (figures,) = parsing.figures()
        labels = runs.decoded({label["id"]: label["counts"] for label in row["labels"]}, row["height"], row["width"])
        assert (labels == parsing.labels[0].numpy()).all()
        assert (np.asarray(Image.open(out / row["png"])) == labels).all()
        assert row["faces"] == json.loads(json.dumps(figures["faces"]))
        assert {label["name"]: label["pixels"] for label in row["labels"]} == {
            name: values["pixels"] for name, values in figures["labels"].items()
        }


def test_what_is_there_is_not_done_again(photos, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["batch", str(photos), "--out", str(out), "--shard", "3", *SMALL]
    main(words)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (out / "part-00001.parquet").unlink()
    (out / ".part-00001.0.part").write_text("half a shard")
    assert main(words) == 1  # the one with the bad picture is done again
    assert "5 of 8 pictures were done already" in capsys.readouterr().err
    changed = [path.name for path, then in before.items() if path.stat().st_mtime_ns != then]
    assert changed == ["part-00001.parquet"] and not list(out.glob(".*.part")) and len(rows(out)) == 8
    for other in (["--shard", "4"], ["--png"], ["--fit", "pad"]):
        assert main([*words, *other]) == 1
        assert "was begun with other" in capsys.readouterr().err
    Image.new("RGB", (9, 9)).save(photos / "more" / "new.png")
    try:
        assert main(words) == 1
        assert "was begun with other pictures, names" in capsys.readouterr().err
    finally:
        (photos / "more" / "new.png").unlink()


def test_nothing_of_others_is_written_over(photos, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["batch", str(photos), "--out", str(tmp_path), *SMALL]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_every_kind_of_source_gives_the_same(photos, tmp_path):
    files = sorted(photos.glob("?.png"))
    (tmp_path / "list.txt").write_text("\n".join(map(str, files)) + "\n")
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        for file in files:
            archive.add(file, f"{file.stem}.png")
            text = tarfile.TarInfo(f"{file.stem}.json")
            text.size = 2
            archive.addfile(text, io.BytesIO(b"{}"))
    data = [{"image": {"bytes": file.read_bytes(), "path": file.name}, "raw": file.read_bytes(), "path": str(file)}
            for file in files]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "some.parquet", row_group_size=4)
    wanted = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    for source, column in (
        (f"{photos}/?.png", "image"),
        (tmp_path / "list.txt", "image"),
        (tmp_path / "some.tar", "image"),
        (tmp_path / "some.parquet", "image"),
        (tmp_path / "some.parquet", "raw"),
        (tmp_path / "some.parquet", "path"),
    ):
        items = sources.items(str(source), column)
        assert len({item.name for item in items}) == 6
        assert all((sources.load(item).numpy() == want).all() for item, want in zip(items, wanted, strict=True)), source


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "there are no pictures"),
        ("*.jpeg", "there are no pictures"),
        ("notes.md", "neither a picture"),
        ("damaged.tar", "no tar"),
        ("other.parquet", "has no column 'image': give --column, one of picture"),
    ],
)
def test_sources_that_are_none(tmp_path, monkeypatch, source, said):
    monkeypatch.chdir(tmp_path)
    Path("notes.md").write_text("text")
    Path("damaged.tar").write_bytes(b"x" * 1000)
    pq.write_table(pa.table({"picture": [b"x"]}), "other.parquet")
    with pytest.raises((ValueError, FileNotFoundError), match=said.replace("[", r"\[")):
        sources.items(source)


def test_a_process_that_is_killed_is_replaced(photos, tmp_path):
    work = batch.plan(f"{photos}/?.png", tmp_path / "out", SETTINGS, shard=1)
    killed: list[int] = []

    def told(new: int, failed: int) -> None:
        if not killed:
            killed.append(next(_children()))
            os.kill(killed[0], signal.SIGKILL)

    batch.run_here(work, 2, told)
    assert killed and [Path(row["path"]).name for row in rows(work.out)] == [f"{i}.png" for i in range(6)]
    assert not batch.plan(f"{photos}/?.png", work.out, SETTINGS, shard=1).left


def _children():
    import multiprocessing

    return (child.pid for child in multiprocessing.active_children())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_and_started_again_nothing_is_lost_and_nothing_twice(photos, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "faceparse_core", "batch", f"{photos}/?.png", "--out", str(out), "--shard", "1"]
    running = subprocess.Popen([*command, *SMALL], cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(out.glob("*.parquet")) and running.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    running.kill()
    running.wait()
    left = batch.plan(f"{photos}/?.png", out, SETTINGS, shard=1)
    assert left.done >= 1
    batch.run_here(left, 1)
    assert [Path(row["path"]).name for row in rows(out)] == [f"{i}.png" for i in range(6)]


def test_two_at_once(photos, tmp_path, capsys):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"):
        assert main(["batch", str(photos), "--out", str(tmp_path), *SMALL]) == 1
    assert "another run is writing" in capsys.readouterr().err


def test_nothing_heavy_is_imported_unless_asked_for():
    code = (
        "import faceparse_core.scale as s, faceparse_core.cli, sys; s.parse_dataset; heavy = {'ray', 'fastapi', "
        "'uvicorn', 'pyarrow', 'prometheus_client', 'starlette'}; print(heavy & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert run.stdout.strip() == "set()", run.stderr


# ---------------------------------------------------------------------------------------------- run lengths


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (37, 53)])
def test_run_lengths_are_those_of_coco(size):
    mask = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(sum(size))
    for blocks in (1, 16):
        labels = np.kron(random.integers(0, 19, size), np.ones((blocks, blocks), int)).astype(np.uint8)
        packed = runs.encoded(labels)
        for label, text in packed.items():
            assert text == mask.encode(np.asfortranarray(labels == label))["counts"].decode()
            assert (runs.mask(text, *labels.shape) == (labels == label)).all()
        assert (runs.decoded(packed, *labels.shape) == labels).all()


@pytest.mark.parametrize("text", ["~~", "é", "0P", "55", "o" * 40 + "0"])
def test_what_is_no_run_lengths_is_told(text):
    with pytest.raises(ValueError, match="run lengths"):
        runs.mask(text, 4, 4)
