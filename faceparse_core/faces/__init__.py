"""Faces: finding them, framing windows and putting these together, tracking, drawn regions, crops.

    from faceparse_core.faces import crop_faces, paste_faces

Others use what is named here.
"""

from faceparse_core.faces.between import face_between, look_between
from faceparse_core.faces.crops import FaceCrops, Place, crop_faces, paste_faces
from faceparse_core.faces.face import ORDERS, Face, arranged, bounding_box, fills, framing, from_boxes
from faceparse_core.faces.finder import Found, look_again, search, settle
from faceparse_core.faces.finding import WEIGHTS, Finder
from faceparse_core.faces.labelled import find_faces, has_face
from faceparse_core.faces.landmarks import Axes, face_axes
from faceparse_core.faces.regions import Drawing, draw, extras
from faceparse_core.faces.tracking import Tracker
from faceparse_core.faces.windows import Look, Scene, background, compose, cut, nearest, padded, resampled

__all__ = [
    "ORDERS",
    "WEIGHTS",
    "Axes",
    "Drawing",
    "Face",
    "FaceCrops",
    "Finder",
    "Found",
    "Look",
    "Place",
    "Scene",
    "Tracker",
    "arranged",
    "background",
    "bounding_box",
    "compose",
    "crop_faces",
    "cut",
    "draw",
    "extras",
    "face_axes",
    "face_between",
    "fills",
    "find_faces",
    "framing",
    "from_boxes",
    "has_face",
    "look_again",
    "look_between",
    "nearest",
    "padded",
    "paste_faces",
    "resampled",
    "search",
    "settle",
]
