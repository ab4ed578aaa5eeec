"""What is done with masks: a picture and masks of it in, the picture with something changed out.

    from faceparse_core import edits
    edits.recolour("portrait.jpg", hair, "#7a1f2b")

Everything outside the mask of an edit stays as it is, to the bit. Edits know tensors, labels and faces, and nothing of
the network that told them. ``face_figures`` changes nothing, and tells what is seen of faces. Others use what is named
here; ``several`` does what the command line and the endpoint are asked for.
"""

from faceparse_core.edits import several
from faceparse_core.edits.anchors import POINTS, Anchors, find_anchors
from faceparse_core.edits.backdrop import blur_background, replace_background
from faceparse_core.edits.colours import Colour, rgb
from faceparse_core.edits.curves import as_csv, blinks, blinks_of, plot
from faceparse_core.edits.figures import NOTE, face_figures
from faceparse_core.edits.look import FINISHES, LOOKS, Look, look
from faceparse_core.edits.makeup import make_up
from faceparse_core.edits.privacy import AREAS, CELLS, WAYS, hidden_area, hide
from faceparse_core.edits.recolour import recolour
from faceparse_core.edits.skin import smooth_skin
from faceparse_core.edits.tone import TONES, to_cielab, tone_class, typology_angle
from faceparse_core.edits.wardrobe import Piece, piece, piece_names
from faceparse_core.edits.wearing import try_on

__all__ = [
    "AREAS",
    "CELLS",
    "FINISHES",
    "LOOKS",
    "NOTE",
    "POINTS",
    "TONES",
    "WAYS",
    "Anchors",
    "Colour",
    "Look",
    "Piece",
    "as_csv",
    "blinks",
    "blinks_of",
    "blur_background",
    "face_figures",
    "find_anchors",
    "hidden_area",
    "hide",
    "look",
    "make_up",
    "piece",
    "piece_names",
    "plot",
    "recolour",
    "replace_background",
    "rgb",
    "several",
    "smooth_skin",
    "to_cielab",
    "tone_class",
    "try_on",
    "typology_angle",
]
