"""The ComfyUI nodes: a node is its schema and a few lines that call ``faceparse_core``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .edits import Background, FacePrivacy, Recolour
from .faces import CropFaces, PasteFaces
from .figures import FaceFigures
from .makeup import MakeUp, SmoothSkin
from .masks import CutOut, MaskCombine, MaskFeather, RefineMask
from .parsing import ParseFace, ParsingInfo, PreviewParsing
from .samples import SamplePortrait
from .selecting import SelectLabels
from .wearing import TryOn


class FaceParseExtension(ComfyExtension):
    async def on_load(self) -> None:
        host.register_model_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ParseFace, SelectLabels, MaskCombine, MaskFeather, RefineMask, CutOut, PreviewParsing, ParsingInfo,
            CropFaces, PasteFaces, Recolour, MakeUp, SmoothSkin, Background, FacePrivacy,
            TryOn, FaceFigures, SamplePortrait,
        ]  # fmt: skip
