"""The known checkpoints: which weights there are, where they are published, and which lie in the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faceparse_core.checkpoints.downloads import RemoteFile
from faceparse_core.models import MEAN, STD


@dataclass(frozen=True)
class Checkpoint:
    """Weights that were found, not loaded yet.

    ``path`` is a folder or a file, ``architecture`` one of "lite", "segformer", "transformers" and "onnx".
    ``resolution`` is the side of the square that the network was trained on, rounded up to a multiple of 32; pixels
    in 0..1 are normalised with ``mean`` and ``std`` (red, green, blue). ``note`` is what a user should know: the
    licence of published weights.
    """

    name: str
    path: Path
    architecture: str
    resolution: int = 512
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    note: str = ""


@dataclass(frozen=True)
class Published:
    """A checkpoint on the hub, pinned. ``files`` ends with the weights, so that a folder with weights is complete."""

    repository: str
    revision: str
    files: tuple[RemoteFile, ...]
    licence: str
    folders: tuple[str, ...]  # names under which its folder may lie in a model folder; a download takes the first

    @property
    def weights(self) -> RemoteFile:
        return self.files[-1]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


WEIGHTS = "model.safetensors"
BEST = "segformer-b5"
BUNDLED = "lite"
BUNDLED_FILE = Path(__file__).parents[1] / "weights" / "lite.safetensors"
BUNDLED_LICENCE = "trained on CelebAMask-HQ: non-commercial research and education, says its model card"

PUBLISHED = {
    BEST: Published(
        repository="jonathandinu/face-parsing",
        revision="758b82e15a0178c9db39c1ff666a8b56e3a550c8",
        files=(
            RemoteFile("config.json", 1_689, "01d82e818569beda6aec804642e34ce187bed43326337d52ce370ff015964d68"),
            RemoteFile(
                "preprocessor_config.json", 374, "e5a25d8fc054bf780be930e161b47d188bec1b0bf0a44fd5fdfb3f3312c0be0b"
            ),
            RemoteFile(WEIGHTS, 338_580_732, "c2bec795a8c243db71bd95be538fd62559003566466c71237e45c99b920f4b62"),
        ),
        licence="non-commercial research and education, says its model card",
        folders=(BEST, "face-parsing"),
    )
}
