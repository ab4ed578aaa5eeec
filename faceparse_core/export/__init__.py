"""Export to ONNX: graphs written from our weights, checked against the engine, with the files that lie around them.

Others use what is named here. ``graphs`` needs onnx, an extra: it is imported only when something is exported.
"""

from faceparse_core.export.cards import PRECISIONS, Exported
from faceparse_core.export.exporting import export

__all__ = ["PRECISIONS", "Exported", "export"]
