"""What is done with masks: a picture and masks of it in, the picture with something changed out.

    from faceparse_core import edits
    edits.recolour("portrait.jpg", hair, "#7a1f2b")

Everything outside the mask of an edit stays as it is, to the bit. Edits know tensors, labels and faces, and nothing of
the network that told them. Others use what is named here.
"""

from faceparse_core.edits.anchors import POINTS, Anchors, find_anchors
from faceparse_core.edits.backdrop import blur_background, replace_background
from faceparse_core.edits.colours import Colour, rgb
from faceparse_core.edits.figures import NOTE, as_csv, blinks, face_figures, plot
from faceparse_core.edits.privacy import AREAS, CELLS, WAYS, hidden_area, hide
from faceparse_core.edits.recolour import recolour
from faceparse_core.edits.tone import TONES, to_cielab, tone_class, typology_angle
from faceparse_core.edits.wearing import Piece, piece, piece_names, try_on

__all__ = [
    "AREAS",
    "CELLS",
    "NOTE",
    "POINTS",
    "TONES",
    "WAYS",
    "Anchors",
    "Colour",
    "Piece",
    "as_csv",
    "blinks",
    "blur_background",
    "face_figures",
    "find_anchors",
    "hidden_area",
    "hide",
    "piece",
    "piece_names",
    "plot",
    "recolour",
    "replace_background",
    "rgb",
    "to_cielab",
    "tone_class",
    "try_on",
    "typology_angle",
]
