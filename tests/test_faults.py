"""What can go wrong around the command line, one row a fault: nothing of the user's is lost, no file is left half, and
there are an exit code and a sentence."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import signal
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from faceparse_core import checkpoints, images
from faceparse_core.checkpoints import downloads, table
from faceparse_core.checkpoints.downloads import RemoteFile
from faceparse_core.cli import main
from faceparse_core.parsing import Parsing
from faceparse_core.rendering import Window
from tests.fuzz.campaigns import tiny_model
from tests.fuzz.servers import Hub

command = importlib.import_module("faceparse_core.cli.parse")  # the function has the same name
FAULTS: dict[str, Callable[[World], None]] = {}


def fault(case: Callable[[World], None]) -> Callable[[World], None]:
    FAULTS[case.__name__] = case
    return case


class StandIn:
    """In the place of the parser: sees hair above and skin below, in no time. ``before`` gets each picture."""

    checkpoint, device, precision, resolution = SimpleNamespace(name="stand-in"), "cpu", "fp32", 64

    def __init__(self):
        self.before: Callable[[torch.Tensor], None] = lambda image: None

    def parse(self, image, faces="auto"):
        self.before(image)
        height, width = image.shape[:2]
        logits = torch.zeros(19, 16, 16)
        logits[13, :8], logits[1, 8:] = 9, 9
        return Parsing([logits], [Window(0, 0, width, height)], [(height, width)])


class World:
    """A folder with the user's files, and the command line."""

    def __init__(self, folder: Path, monkeypatch, capsys):
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.parser = StandIn()
        monkeypatch.setattr(command, "face_parser", lambda args: self.parser)
        for name in ("a.jpg", "b.png", "c.webp"):
            Image.effect_noise((40, 30), 50).convert("RGB").save(folder / name)
        self.code: int = -1
        self.out = self.err = ""
        self.count = 0
        self.ignore: set[Path] = set()
        self.hub = Hub(tiny_model())
        files = [RemoteFile(name, len(data), self.hub.sha256(name)) for name, data in tiny_model().items()]
        files.sort(key=lambda file: file.name == table.WEIGHTS)
        monkeypatch.setitem(
            table.PUBLISHED, "tiny", table.Published("me/tiny", "main", tuple(files), "none", ("tiny",))
        )
        monkeypatch.setattr(downloads, "_PAUSE", 0.0)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def seen(self) -> int:
        """How many pictures were seen before."""
        self.count += 1
        return self.count - 1

    def stdout(self, encoding: str) -> None:
        """An output that can show nothing else; ``out`` is what was written there."""
        self.encoded = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        self.monkeypatch.setattr(sys, "stdout", self.encoded)

    def download(self, faults: list[str], address: str = "") -> int:
        """``faceparse download`` from a server with these faults."""
        self.hub.faults = list(faults)
        self.monkeypatch.setenv("HF_ENDPOINT", address or self.hub.url)
        self.monkeypatch.setenv("FACEPARSE_HOME", str(self / "home"))
        self.monkeypatch.setenv("HF_HUB_CACHE", str(self / "hub"))
        for name in ("FACEPARSE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            self.monkeypatch.delenv(name, raising=False)
        self.ignore = {path for path in (self / "home").rglob("*")}
        code = self.run("download", "tiny")
        for name, data in tiny_model().items():
            file = self / "home" / "tiny" / name
            assert not file.exists() or file.read_bytes() == data
            assert file.exists() or code
        return code

    @contextlib.contextmanager
    def largest_file(self, size: int):
        """No file may become larger: the system says so as it says that a disk is full."""
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def while_writing(self, act) -> None:
        """``act`` happens when a part of a picture has been written."""

        def save(picture, file, **options):
            file.write(b"\x89PNG half of it")
            file.flush()
            if isinstance(act, type):
                raise act
            act()

        self.monkeypatch.setattr(Image.Image, "save", save)

    def own(self, name: str) -> Path:
        """A picture that the user made, which looks like one of ours by its name."""
        Image.new("RGB", (7, 5), (1, 2, 3)).save(self / name)
        return self / name

    def run(self, *arguments: object) -> int:
        """Runs the command and checks what is to be so whatever happens."""
        before = {path: path.read_bytes() for path in self.files()}
        try:
            self.code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            self.code = stopped.code
        self.out, self.err = self.capsys.readouterr()
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is getattr(self, "encoded", None):
            self.out = self.encoded.buffer.getvalue().decode(self.encoded.encoding)
        assert "Traceback" not in self.err
        assert self.err.strip() or not self.code, f"exit code {self.code}, and not a word"
        for path, data in before.items():
            assert path in self.ignore or images.is_ours(path) or path.read_bytes() == data, f"{path} was changed"
        for path in self.files():
            assert path.suffix != ".part" or "home" in path.parts, f"{path} was left over"
            if path not in before and path.suffix == ".png":
                Image.open(path).load()
        return self.code

    def files(self) -> list[Path]:
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.is_symlink()]

    def names(self) -> set[str]:
        return {path.name for path in self.files()}


@pytest.fixture
def world(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = World(tmp_path, monkeypatch, capsys)
    yield made
    made.hub.shutdown()
    made.hub.server_close()


# ---------------------------------------------------------------------------------------------- overwriting


@fault
def the_second_picture_is_named_like_the_first_ones_mask(world):
    world.own("v.jpg"), world.own("v.mask.png")
    assert world.run("v.jpg", "v.mask.png", "--region", "hair") == 1
    assert "v.mask.png would overwrite a picture" in world.err
    assert "v.mask.mask.png" in world.names()  # the other one is parsed all the same


@fault
def a_mask_of_ours_is_a_picture_this_time(world):
    assert world.run("a.jpg", "--region", "hair") == 0
    before = (world / "a.mask.png").read_bytes()
    assert world.run("a.jpg", "a.mask.png", "--region", "skin") == 1
    assert (world / "a.mask.png").read_bytes() == before


@fault
def the_users_own_overlay_lies_beside_the_picture(world):
    world.own("a.overlay.png")
    assert world.run(world.folder, "--json") == 1
    assert "a.overlay.png is there already" in world.err and "--force" in world.err
    assert "b.labels.png" in world.names() and "a.labels.png" not in world.names()


@fault
def the_file_to_write_is_the_users(world):
    world.own("hair.png")
    assert world.run("a.jpg", "--region", "hair", "-o", "hair.png") == 1


@fault
def the_file_to_write_is_a_link_to_the_users(world):
    world.own("mine.png")
    (world / "hair.png").symlink_to(world / "mine.png")
    assert world.run("a.jpg", "--region", "hair", "-o", "hair.png") == 1
    assert (world / "hair.png").is_symlink()


@fault
def the_file_to_write_is_a_link_to_nothing(world):
    (world / "hair.png").symlink_to(world / "missing.png")
    assert world.run("a.jpg", "--region", "hair", "-o", "hair.png") == 1
    assert (world / "hair.png").is_symlink()


@fault
def the_picture_is_named_in_another_way(world):
    assert world.run("b.png", "--region", "hair", "-o", world.folder / ".." / world.folder.name / "b.png") == 1


@fault
def two_pictures_have_one_name(world):
    world.own("a.png")
    assert world.run("a.jpg", "a.png") == 1
    assert "already written for a.jpg" in world.err


@fault
def one_of_the_faces_files_is_the_users(world):
    world.own("a.mask.0.png")
    world.monkeypatch.setattr(Parsing, "faces", [[SimpleNamespace(index=0, x=1)]])
    assert world.run("a.jpg", "--region", "hair", "--face", "each") == 1


@fault
def what_is_there_is_a_damaged_png(world):
    (world / "a.labels.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    assert world.run("a.jpg") == 1


@fault
def a_picture_of_ours_was_saved_anew_by_another_program(world):
    assert world.run("a.jpg") == 0
    Image.open(world / "a.labels.png").convert("RGB").save(world / "a.labels.png")
    assert world.run("a.jpg") == 1


@fault
def the_confusion_of_evaluate_would_replace_the_users(world):
    world.own("confusion.png")
    assert world.run("evaluate", world.folder, "--confusion", "confusion.png") == 1
    assert "--force" in world.err


@fault
def a_folder_has_the_name_of_the_file(world):
    (world / "a.labels.png").mkdir()
    assert world.run(world.folder) == 1
    assert "b.labels.png" in world.names() and "a.overlay.png" not in world.names()


# ---------------------------------------------------------------------------------------------- names


@fault
def a_name_is_empty(world):
    assert world.run("") == 1
    assert world.run("a.jpg", "-o", "") == 2


@fault
def a_name_is_too_long_for_a_file(world):
    assert world.run("x" * 300 + ".jpg", "a.jpg") == 1
    assert "a.labels.png" in world.names()


@fault
def a_name_leaves_no_room_for_that_of_the_labels(world):
    world.own("y" * 248 + ".png")
    assert world.run(world.folder) == 1
    assert "too long" in world.err and "c.labels.png" in world.names()


@fault
def a_name_that_the_terminal_cannot_show(world):
    Image.new("RGB", (9, 9)).save(world / "smile \U0001f600.png")
    Image.new("RGB", (9, 9)).save(os.fsdecode(bytes(world / "not utf \u00e9.png").replace(b"\xc3\xa9", b"\xe9")))
    world.stdout("ascii")
    assert world.run(world.folder) == 0
    assert "smile \\U0001f600.png" in world.out and "c.labels.png" in world.names()


@fault
def help_in_the_c_locale(world):
    world.stdout("ascii")
    assert world.run("--help") == 0
    assert "--region" in world.out


@fault
def there_is_no_home_directory(world):
    def none(path):
        raise RuntimeError("Could not determine home directory.")

    world.monkeypatch.setattr(Path, "expanduser", none)
    for name in ("FACEPARSE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        world.monkeypatch.delenv(name, raising=False)
    assert world.run("models") == 0 and "lite" in world.out
    assert world.run("download") == 1 and "Set FACEPARSE_HOME" in world.err
    assert checkpoints.find("auto").name == "lite"


# ---------------------------------------------------------------------------------------------- pictures


@fault
def a_pipe_is_called_a_picture(world):
    os.mkfifo(world / "aa.jpg")
    assert world.run(world.folder) == 1
    assert "pipes" in world.err and "c.labels.png" in world.names()


@fault
def a_picture_is_cut_off(world):
    (world / "aa.jpg").write_bytes((world / "a.jpg").read_bytes()[:300])
    assert world.run(world.folder) == 1
    assert "1 of 4 pictures failed" in world.err and "c.labels.png" in world.names()


@fault
def a_picture_is_empty(world):
    (world / "aa.jpg").touch()
    assert world.run(world.folder) == 1 and "c.labels.png" in world.names()


@fault
def a_folder_is_called_a_picture(world):
    (world / "aa.jpg").mkdir()
    assert world.run(world.folder) == 1 and "c.labels.png" in world.names()


@fault
def a_link_leads_nowhere(world):
    (world / "aa.jpg").symlink_to(world / "gone.jpg")
    assert world.run(world.folder) == 1 and "c.labels.png" in world.names()


@fault
def a_picture_goes_away_in_the_middle(world):
    world.parser.before = lambda image: (world / "b.png").rename(world / "elsewhere.png") if not world.seen() else None
    world.ignore = {world / "b.png"}
    assert world.run(world.folder) == 1 and "c.labels.png" in world.names()


@fault
def a_picture_claims_to_be_endless(world):
    (world / "aa.ppm").write_bytes(b"P6 99999999 99999999 255 ")
    assert world.run(world / "aa.ppm", "a.jpg") == 1 and "a.labels.png" in world.names()


# ---------------------------------------------------------------------------------------------- memory, disk, network


@fault
def there_is_no_memory_for_one_picture(world):
    def full(image):
        if world.seen() == 1:
            raise MemoryError

    world.parser.before = full
    assert world.run(world.folder) == 1 and "not enough memory" in world.err and "c.labels.png" in world.names()


@fault
def torch_has_no_memory_for_one_picture(world):
    def full(image):
        if world.seen() == 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    world.parser.before = full
    assert world.run(world.folder) == 1 and "not enough memory" in world.err and "c.labels.png" in world.names()


@fault
def the_model_gives_no_numbers(world):
    def broken(image):
        raise checkpoints.CheckpointError("x.onnx cannot be run: what it gives is no numbers")

    world.parser.before = broken
    assert world.run(world.folder) == 1 and "no numbers" in world.err


@fault
def the_disk_is_full(world):
    Image.effect_noise((200, 200), 90).save(world / "aa.png")
    with world.largest_file(10_000):
        assert world.run("aa.png", "a.jpg") == 1
    assert "cannot write the picture" in world.err
    assert {"a.labels.png"} <= world.names() and "aa.overlay.png" not in world.names()


@fault
def the_folder_cannot_be_made(world):
    assert world.run("a.jpg", "-o", "b.png/out") == 1


@fault
def the_folder_goes_away_in_the_middle(world):
    world.parser.before = lambda image: shutil.rmtree(world / "out") if world.seen() else None
    assert world.run("a.jpg", "b.png", "-o", "out") == 1
    assert "no folder" in world.err


@fault
def a_download_that_is_cut_off_for_good(world):
    assert world.download(["ok", "ok", "cut", *["nothing"] * 9]) == 1
    assert "bytes are kept" in world.err and world.download([]) == 0


@fault
def a_download_that_is_cut_off_again_and_again(world):
    assert world.download(["cut"] * 3) == 0


@fault
def a_download_from_a_login_page(world):
    assert world.download(["login"] * 9) == 1 and "login" in world.err


@fault
def a_download_of_another_file(world):
    assert world.download(["other"] * 9) == 1 and "sha256" in world.err


@fault
def a_download_of_a_length_that_is_none(world):
    assert world.download(["length abc"] * 9) == 1 and "Content-Length" in world.err


@fault
def a_download_that_stalls(world):
    world.monkeypatch.setattr(downloads, "_STALL", 0.1)
    assert world.download(["stall"] * 2) == 0


@fault
def a_download_that_cannot_be_asked_for(world):
    assert world.download([], address="http://127.0.0.1:9") == 1 and "cannot download" in world.err


@fault
def a_download_onto_a_full_disk(world):
    with world.largest_file(500):
        assert world.download([]) == 1
    assert "cannot write" in world.err and world.download([]) == 0


@fault
def a_download_through_a_link_of_somebody_else(world):
    mine = world.own("mine.png")
    folder = world / "home" / "tiny"
    folder.mkdir(parents=True)
    file = table.PUBLISHED["tiny"].weights
    (folder / f"{file.name}.{file.sha256[:8]}.part").symlink_to(mine)
    assert world.download([]) == 0


# ---------------------------------------------------------------------------------------------- the end


@fault
def sigterm_in_the_middle(world):
    def end(picture):
        os.kill(os.getpid(), signal.SIGTERM)

    world.parser.before = end
    assert world.run("a.jpg", "b.png") == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@fault
def interrupted_in_the_middle(world):
    def stop(picture):
        raise KeyboardInterrupt

    world.parser.before = stop
    assert world.run("a.jpg") == 130


@fault
def interrupted_while_a_file_is_written(world):
    assert world.run("a.jpg") == 0
    before = (world / "a.overlay.png").read_bytes()
    world.while_writing(KeyboardInterrupt)
    assert world.run("a.jpg") == 130
    assert (world / "a.overlay.png").read_bytes() == before  # the old file, whole


@fault
def killed_while_a_file_is_written(world):
    assert world.run("a.jpg") == 0
    before = (world / "a.overlay.png").read_bytes()
    child = os.fork()
    if not child:
        world.while_writing(lambda: os.kill(os.getpid(), signal.SIGKILL))
        main(["a.jpg", "b.png"])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert (world / "a.overlay.png").read_bytes() == before and "b.labels.png" not in world.names()
    for left in world.folder.glob(".*.part"):  # of this nothing can be taken away by whoever is dead
        left.unlink()
    assert world.run("a.jpg", "b.png", "--skip-existing") == 0 and "b.labels.png" in world.names()


@fault
def two_runs_at_once(world):
    codes = []
    threads = [threading.Thread(target=lambda: codes.append(main([str(world.folder)]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert world.run(world.folder, "--skip-existing") == 0 and "3 of 3 pictures were done" in world.out


@fault
def output_is_closed(world):
    world.monkeypatch.setattr(sys, "stdout", None)
    assert main(["a.jpg"]) == 0 and "a.overlay.png" in world.names()


@fault
def output_is_full(world):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        world.monkeypatch.setattr(sys, "stdout", full)
        assert main(["a.jpg"]) == 1
        world.monkeypatch.undo()
    assert "No space" in world.capsys.readouterr().err and "a.overlay.png" in world.names()


@fault
def nobody_reads_the_output(world):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        world.monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["a.jpg"]) == 1
        world.monkeypatch.undo()
    assert "Traceback" not in world.capsys.readouterr().err and "a.overlay.png" in world.names()


# ---------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_fault(world, name):
    FAULTS[name](world)


def test_there_are_forty():
    assert len(FAULTS) >= 40


def test_many_pictures_in_flat_memory(world, monkeypatch):
    """What a run remembers of a picture are a few names."""
    monkeypatch.setattr(images, "load", lambda path: [torch.zeros(8, 8, 3, dtype=torch.uint8)])
    monkeypatch.setattr(images, "save", lambda picture, path: path)
    monkeypatch.setattr(command, "pictures_in", lambda given: [Path(f"{n}.jpg") for n in range(400)])
    monkeypatch.setattr(command, "_picture", lambda *given: None)
    held = []

    def look(image):
        if world.seen() in (100, 390):
            held.append(tracemalloc.get_traced_memory()[0])

    world.parser.before = look
    tracemalloc.start()
    try:
        assert main(["folder"]) == 0
    finally:
        tracemalloc.stop()
    world.capsys.readouterr()
    assert (held[1] - held[0]) / 290 < 2500  # bytes a picture, with the lines that this test's output is kept in


def test_what_is_ours_is_written_again(world):
    assert world.run("a.jpg") == 0 and world.run("a.jpg") == 0
    assert images.is_ours(world / "a.labels.png") and images.is_ours(world / "a.overlay.png")
    assert not images.is_ours(world / "b.png") and not images.is_ours(world / "missing.png")


def test_force(world):
    own = world.own("hair.png")
    assert main(["a.jpg", "--region", "hair", "-o", "hair.png", "--force"]) == 0
    assert images.is_ours(own)
    # Two results under one name are one too few, with it or without.
    world.own("a.png")
    assert main(["a.jpg", "a.png", "--force"]) == 1


def test_skip_existing(world):
    seen = []
    world.parser.before = lambda image: seen.append(image.shape)
    assert world.run("a.jpg", "b.png") == 0 and len(seen) == 2
    (world / "b.overlay.png").unlink()
    assert world.run(world.folder, "--skip-existing") == 0 and len(seen) == 4  # b, which was not finished, and c
    assert "1 of 3 pictures were done" in world.out
    assert world.run(world.folder, "--skip-existing", "--json") == 0 and len(seen) == 4
    # Of two pictures with one name the second is not taken for done because the first is.
    world.own("a.png")
    assert world.run("a.jpg", "a.png", "--skip-existing") == 1 and "already written" in world.err
