"""Stand-in for ComfyUI's V3 API: the little of it that the nodes use."""

from . import _io as io
from . import _ui as ui

__all__ = ["ComfyExtension", "InputImpl", "io", "ui"]


class ComfyExtension:
    async def on_load(self):
        pass

    async def get_node_list(self):
        raise NotImplementedError


class InputImpl:
    VideoFromFile = None
