"""Folders larger than one machine: ``python -m benchmarks.scale PICTURES [--only rates killed folder ray]``.

PICTURES is a folder; of its pictures ``--count`` small ones are made (64 pixels, turned and mirrored), and parsed at a
small resolution, so that what lies round the network is measured, not the network.

- rates: processes on this machine against the engine in a loop, pictures a second.
- killed: a run that is killed (-9) and started again until it ends; whether every picture is there once.
- folder: ``faceparse PHOTOS``, killed (-9) in the middle and gone on with ``--skip-existing``: memory of the second run
  in its second quarter and in its last, whether a picture was done again or is missing.
- ray: two nodes on this machine, as many actors as processes, one of them killed in the middle; whether the rows equal
  the local ones, and the rate of an undisturbed run over theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from faceparse_core.scale import batch, shards

_ROOT = Path(__file__).parents[1]
_SETTINGS = shards.Settings("lite", "cpu", resolution=96, faces="image")
_WORKS = ("rates", "killed", "folder", "ray")
_WORDS = ["--model", "lite", "--device", "cpu", "--resolution", "96", "--faces", "image"]


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    arguments.add_argument("pictures", type=Path, help="folder of pictures")
    arguments.add_argument("--only", nargs="+", choices=_WORKS, default=_WORKS)
    arguments.add_argument("--count", type=int, default=5000)
    arguments.add_argument("--shard", type=int, default=100)
    arguments.add_argument("--workers", type=int, default=2)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args)
        for name in args.only:
            print(name, json.dumps(getattr(bench, name)(), indent=2), flush=True)


class Bench:
    def __init__(self, folder: Path, args: argparse.Namespace):
        self.scratch, self.args = folder, args
        self.photos = folder / "photos"
        self.photos.mkdir()
        files = sorted(path for path in args.pictures.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        small = [Image.open(path).convert("RGB").resize((64, 64)) for path in files[:200]]
        for i in range(args.count):
            turned = small[i % len(small)].rotate(i // len(small))
            turned.save(self.photos / f"{i:06d}.jpg")

    def plan(self, name: str, fresh: bool = True) -> batch.Work:
        if fresh:
            shutil.rmtree(self.scratch / name, ignore_errors=True)
        return batch.plan(str(self.photos), self.scratch / name, _SETTINGS, shard=self.args.shard)

    def rates(self) -> dict:
        rates: dict[int, list[float]] = {1: [], self.args.workers: []}
        for _ in range(2):
            for workers, own in rates.items():
                work = self.plan(f"local{workers}")
                batch.run_here(work, workers)
                own.append(_rate(work, workers))
        return {f"{workers} processes": f"{statistics.median(own):.1f} pictures/s" for workers, own in rates.items()}

    def killed(self) -> dict:
        out, chance, kills = self.scratch / "killed", random.Random(1), 0
        command = [sys.executable, "-m", "faceparse_core", "batch", str(self.photos), "--out", str(out)]
        command += ["--shard", str(self.args.shard), "--workers", str(self.args.workers), *_WORDS]
        while True:
            before = len(list(out.glob("part-*.parquet")))
            running = subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            while running.poll() is None and len(list(out.glob("part-*.parquet"))) < before + 10:
                time.sleep(0.01)
            time.sleep(chance.random() / 2)
            if running.poll() is not None:
                break
            running.send_signal(signal.SIGKILL)
            running.wait()
            kills += 1
        names = [row["path"] for row in _rows(out, ["path"])]
        return {"killed": kills, "exit code at last": running.returncode, **self._once(names)}

    def folder(self) -> dict:
        out = self.scratch / "parsed"
        command = [sys.executable, "-m", "faceparse_core", str(self.photos), "--out", str(out), *_WORDS]

        def run(until: int) -> tuple[int, list[int]]:
            """Exit code, and the memory (MB) at each second, of a run that is killed at so many results."""
            running = subprocess.Popen([*command, "--skip-existing"], cwd=_ROOT, stdout=subprocess.DEVNULL)
            memory: list[int] = []
            while running.poll() is None:
                memory.append(_resident(running.pid))
                if len(list(out.glob("*.labels.png"))) >= until:
                    running.kill()
                    return running.wait(), memory
                time.sleep(1)
            return running.returncode, memory

        run(self.args.count // 2)
        done = {path: path.stat().st_mtime_ns for path in out.glob("*.labels.png")}
        # Of a picture whose other results were not written when the run was killed, all are made again.
        done = {
            path: time
            for path, time in done.items()
            if path.with_name(path.name.replace("labels", "overlay")).is_file()
        }
        code, memory = run(self.args.count + 1)
        names = [path.name for path in out.glob("*.labels.png")]
        return {
            "exit code": code,
            "done before": len(done),
            "of these done again": sum(path.stat().st_mtime_ns != time for path, time in done.items()),
            "MB at most, second quarter and last": [
                max(memory[len(memory) // 4 : len(memory) // 2]),
                max(memory[-len(memory) // 4 :]),
            ],
            **self._once(names),
        }

    def ray(self) -> dict:
        import ray
        from ray.cluster_utils import Cluster

        from faceparse_core.scale.cluster import run_on_ray

        workers, local = self.args.workers, self.plan("here")
        batch.run_here(local, workers)
        os.environ["PYTHONPATH"] = str(_ROOT)  # for Ray's workers
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            work = self.plan("ray")
            run_on_ray(work, workers, 1, 0, lambda new, failed: None)
            again = self.plan("again")
            batch.run_here(again, workers)
            disturbed, killed = self.plan("killed-actor"), []

            def kill() -> None:
                half = len(disturbed.left) // 2
                while len(list(disturbed.out.glob("part-*.parquet"))) < half:
                    time.sleep(0.05)
                killed.append(_actor())
                os.kill(killed[0], signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            run_on_ray(disturbed, workers, 1, 0, lambda new, failed: None)
            killer.join()
        finally:
            ray.shutdown()
            cluster.shutdown()
        own, theirs = _rows(local.out), _rows(disturbed.out)
        rate, here = _rate(work, workers), [_rate(one, workers) for one in (local, again)]
        return {
            "local, before and after": [round(one, 1) for one in here],
            "Ray": f"{rate:.1f} pictures/s",
            "rate of Ray over local": round(rate / statistics.mean(here), 3),
            "actors killed in the other run": len(killed),
            "rows equal to the local run's": own == theirs,
            **self._once([row["path"] for row in theirs]),
        }

    def _once(self, names: list[str]) -> dict:
        return {
            "pictures": len(names),
            "twice": len(names) - len(set(names)),
            "lost": self.args.count - len(set(names)),
        }


def _rate(work: batch.Work, workers: int) -> float:
    """Pictures a second, from when each process has written its first shard to the last: how long they take to start is
    left out."""
    files = [shards.file_of(work.out, number) for number in work.left]
    written = sorted((file.stat().st_mtime, len(work.left[n])) for n, file in zip(work.left, files, strict=True))
    return sum(count for _, count in written[workers:]) / (written[-1][0] - written[workers - 1][0])


def _resident(process: int) -> int:
    """What a process holds in memory, in MB; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _rows(out: Path, columns: list[str] | None = None) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(out, columns=columns).to_pylist()


def _actor() -> int:
    """The process of one of our actors."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            title = (process / "cmdline").read_bytes()
            if title.startswith(b"ray::") and b"WriteShards" in title:
                return int(process.name)
    raise SystemExit("there is no actor to be killed")


if __name__ == "__main__":
    main()
