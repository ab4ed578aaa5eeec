"""Ray: two nodes on this machine, one of its workers killed. Skipped where ray is missing."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from faceparse_core.scale import batch, parse_dataset, shards

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = shards.Settings("lite", "cpu", resolution=96, faces="image")


@pytest.fixture(scope="module")
def cluster():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)  # for the workers
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    yield ray
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    face = Image.open(ROOT / "samples" / "closeup.jpg").resize((64, 48))
    for i in range(24):
        face.rotate(5 * i).save(folder / f"{i:02d}.png")
    (folder / "bad.png").write_text("no picture")
    return folder


def test_a_worker_is_killed_and_all_is_as_in_a_local_run(cluster, photos, tmp_path):
    import pyarrow.parquet as pq

    from faceparse_core.scale.cluster import run_on_ray

    here = batch.plan(str(photos), tmp_path / "here", SETTINGS, shard=3)
    batch.run_here(here, 1)
    there = batch.plan(str(photos), tmp_path / "there", SETTINGS, shard=3)
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            if list(there.out.glob("part-*.parquet")):
                for process in workers():
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    told: list[tuple[int, int]] = []
    run_on_ray(there, 2, 1, 0, lambda new, failed: told.append((new, failed)))
    killer.join()
    assert killed
    assert (sum(new for new, _ in told), sum(failed for _, failed in told)) == (25, 1)
    own, theirs = (pq.read_table(work.out).to_pylist() for work in (here, there))
    assert theirs == own and len(theirs) == 25
    assert not batch.plan(str(photos), there.out, SETTINGS, shard=3).left


def workers() -> list[int]:
    """The processes of our actors that are at work."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"WriteShards" in title:
                found.append(int(process.name))
    return found


def test_a_dataset_of_ones_own(cluster, photos, tmp_path):
    from faceparse_core import FaceParser

    files = cluster.data.read_binary_files(str(photos), include_paths=True)
    rows = parse_dataset(files, model="lite", resolution=96, faces="image", batch_size=4).take_all()
    assert sorted(Path(row["path"]).name for row in rows) == sorted(path.name for path in photos.iterdir())
    parser = FaceParser("lite", "cpu", resolution=96)
    for row in rows:
        if Path(row["path"]).name == "bad.png":
            assert "no picture" in row["error"] and row["width"] is None
        else:
            (figures,) = parser.parse(row["path"], faces="image").figures()
            pixels = {label["name"]: label["pixels"] for label in row["labels"]}
            assert set(pixels) == set(figures["labels"]) and row["error"] is None
    arrays = cluster.data.read_images([str(photos / "00.png")])
    (row,) = parse_dataset(arrays, model="lite", resolution=96, faces="image").take_all()
    assert (row["width"], row["height"]) == (64, 48) and "path" not in row
    with pytest.raises(ValueError, match="no column 'picture': it has"):
        parse_dataset(files, column="picture")


def test_without_ray_it_says_what_to_install(monkeypatch):
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("ray is installed")
    with pytest.raises(ImportError, match=r"faceparse\[ray\]"):
        parse_dataset(None)
