"""Faces: finding them, framing windows and putting these together, tracking, drawn regions, crops.

    from faceparse_core.faces import crop_faces, paste_faces

Others use what is named here.
"""

from faceparse_core.faces.between import face_between, look_between
from faceparse_core.faces.crops import FaceCrops, Place, crop_faces, paste_faces
from faceparse_core.faces.face import ORDERS, Face, arranged, bounding_box, fills, framing, from_boxes, wrapped
from faceparse_core.faces.finder import WEIGHTS, Finder
from faceparse_core.faces.frames import Found, Framed, Layout, framed, layout
from faceparse_core.faces.labelled import find_faces, has_face
from faceparse_core.faces.landmarks import Axes, face_axes
from faceparse_core.faces.regions import Drawing, draw, extras
from faceparse_core.faces.tracking import Tracker
from faceparse_core.faces.windows import (
    Look,
    Scene,
    Seen,
    are_shown,
    background,
    compose,
    cut,
    cuts,
    nearest,
    resampled,
)

__all__ = [
    "ORDERS",
    "WEIGHTS",
    "Axes",
    "Drawing",
    "Face",
    "FaceCrops",
    "Finder",
    "Found",
    "Framed",
    "Layout",
    "Look",
    "Place",
    "Scene",
    "Seen",
    "Tracker",
    "are_shown",
    "arranged",
    "background",
    "bounding_box",
    "compose",
    "crop_faces",
    "cut",
    "cuts",
    "draw",
    "extras",
    "face_axes",
    "face_between",
    "fills",
    "find_faces",
    "framed",
    "framing",
    "from_boxes",
    "has_face",
    "layout",
    "look_between",
    "nearest",
    "paste_faces",
    "resampled",
    "wrapped",
]
