"""What leaves for other programs: networks as ONNX graphs, checked; labels in the formats that annotators use.

Others use what is named here. ``graphs`` needs onnx, an extra: it is imported only when something is exported.
``formats`` reads and writes sets of labelled pictures, ``runs`` COCO's run lengths.
"""

from faceparse_core.export import formats, runs
from faceparse_core.export.cards import PRECISIONS, Exported
from faceparse_core.export.exporting import export
from faceparse_core.export.finder import export_finder

__all__ = ["PRECISIONS", "Exported", "export", "export_finder", "formats", "runs"]
