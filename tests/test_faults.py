"""What can go wrong around the command line, one row a fault: nothing of the user's is lost, no file is left half, and
there are an exit code and a sentence."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from faceparse_core import images
from faceparse_core.cli import main
from faceparse_core.parsing import Parsing
from faceparse_core.rendering import Window

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

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

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
        assert "Traceback" not in self.err
        assert bool(self.err.strip()) == bool(self.code), f"exit code {self.code}, but: {self.err!r}"
        for path, data in before.items():
            assert images.is_ours(path) or path.read_bytes() == data, f"{path} of the user was changed"
        for path in self.files():
            assert not path.name.endswith(".part"), f"{path} was left over"
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
    return World(tmp_path, monkeypatch, capsys)


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


# ---------------------------------------------------------------------------------------------- names


@fault
def a_name_is_empty(world):
    assert world.run("") == 1
    assert world.run("a.jpg", "-o", "") == 2


# ---------------------------------------------------------------------------------------------- the end


@fault
def sigterm_in_the_middle(world):
    def end(picture):
        os.kill(os.getpid(), signal.SIGTERM)

    world.parser.before = end
    assert world.run("a.jpg", "b.png") == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# ---------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", FAULTS)
def test_fault(world, name):
    FAULTS[name](world)


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
