"""Parsing: what the network saw, and everything that is rendered from it.

The source of truth is the small logits, a stride-4 map for each window, with the place the window has in its image.
Labels and masks are rendered from them at the image's size, when they are asked for (see ``rendering``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from faceparse_core import images as pictures
from faceparse_core import rendering
from faceparse_core.errors import enough_memory, number
from faceparse_core.faces import (
    Face,
    Look,
    Scene,
    background,
    bounding_box,
    draw,
    extras,
    face_between,
    find_faces,
    framing,
    has_face,
    look_between,
    nearest,
    resampled,
)
from faceparse_core.labels import LABELS, NUM_LABELS, resolve
from faceparse_core.rendering import Window

if TYPE_CHECKING:
    from faceparse_core.images import Images

# What the masks of an image without a face may be.
NO_FACE = ("what is there", "empty mask", "whole image", "last frame's", "between", "error")
# The longer side, in cells, of a look at a whole image that is put together of several.
_CELLS = 256

# The longest side of the label map in which is looked whether there is a face: the network saw no more than half of it.
_GLANCE = 1024


@dataclass(frozen=True)
class Details:
    """An image whose ``faces`` were searched, and the ``scene`` that was put together of them; without a scene the look
    at the whole image is all that there is."""

    faces: tuple[Face, ...]
    scene: Scene | None = None

    def to(self, device: str | torch.device) -> Details:
        if not self.scene:
            return self
        looks = tuple(Look(look.logits.to(device), look.window) for look in self.scene.looks)
        return replace(self, scene=replace(self.scene, looks=looks))


class Parsing:
    """The parsing of a batch of images, one window for each, or several of those that were parsed face by face.

    ``logits``: float32 [19, h, w] for each image, on the device that computed them; ``windows``: where each lies in
    its image; ``sizes``: (height, width) of each image. ``len(parsing)`` is the number of images, ``parsing[i]`` the
    parsing of one of them, and iterating gives these one by one. ``filled``: the indices of images whose masks are all
    1, whatever the region (see ``where_no_face``). ``details``: of each image None, or its faces and what was seen of
    them; that lies over its logits, which are background then.

    What is rendered comes as CPU tensors. Images that differ in size cannot be one tensor: take ``parsing[i]``.
    """

    def __init__(
        self,
        logits: Sequence[Tensor],
        windows: Sequence[Window],
        sizes: Sequence[tuple[int, int]],
        filled: Iterable[int] = (),
        details: Sequence[Details | None] = (),
    ):
        self.logits, self.windows, self.sizes = (
            list(logits),
            list(windows),
            [(height, width) for height, width in sizes],
        )
        self.filled = frozenset(filled)
        self.details = list(details) or [None] * len(self.sizes)

    @classmethod
    def joined(cls, parts: Sequence[Parsing]) -> Parsing:
        """Several parsings, one after the other, as one."""
        if len(parts) == 1:
            return parts[0]
        joined = cls(
            [logits for part in parts for logits in part.logits],
            [window for part in parts for window in part.windows],
            [size for part in parts for size in part.sizes],
            details=[details for part in parts for details in part.details],
        )
        if all("labels" in part.__dict__ for part in parts):
            joined.labels = torch.cat([part.labels for part in parts])
        return joined

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Parsing:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a parsing of {len(self)}")
        index %= len(self)
        filled = [0] if index in self.filled else []
        one = Parsing([self.logits[index]], [self.windows[index]], [self.sizes[index]], filled, [self.details[index]])
        if "labels" in self.__dict__:  # rendered already
            one.labels = self.labels[index][None]
        return one

    def __iter__(self) -> Iterator[Parsing]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def labels(self) -> Tensor:
        """The most likely label of each pixel, uint8 [B, H, W], ids 0..18. Rendered once."""
        height, width = self._one_size()
        labels = torch.empty(len(self), height, width, dtype=torch.uint8)

        def render(i: int) -> None:
            for look, (rows, columns), place in self._layers(i):
                size = rows.stop - rows.start, columns.stop - columns.start
                labels[i, rows, columns] = rendering.labels(look.logits, place, size)

        self._for_each(render)
        return labels

    def small_labels(self, longest: int) -> Tensor:
        """``labels`` of the images made so small that no side is longer than this, uint8 [B, h, w]: to look at, at a
        fraction of the cost. Those of images that are no larger are ``labels``."""
        height, width = self._one_size()
        scale = longest / max(height, width)
        if scale >= 1:
            return self.labels
        size = max(1, round(height * scale)), max(1, round(width * scale))
        down, across = size[0] / height, size[1] / width

        def smaller(window: Window) -> Window:
            return Window(window.x * across, window.y * down, window.width * across, window.height * down, window.angle)

        def on_pixels(window: Window) -> Window:
            x, y, right, bottom = (
                round(v) for v in (window.x, window.y, window.x + window.width, window.y + window.height)
            )
            return Window(x, y, right - x, bottom - y)

        details = []
        for one in self.details:
            if one and one.scene:
                # What is painted lies on whole pixels, and on none if it is too small to be seen.
                looks = [Look(look.logits, on_pixels(smaller(look.window))) for look in one.scene.looks]
                looks = tuple(look for look in looks if look.window.width and look.window.height)
                one = Details((), replace(one.scene, looks=looks))
            details.append(one)
        return Parsing(
            self.logits, [smaller(window) for window in self.windows], [size] * len(self), (), details
        ).labels

    def mask(self, region: str, *, soft: bool = False, face: int | str = "all") -> Tensor:
        """The mask of a region, float32 [B, H, W].

        ``region``: names of labels, groups and drawn regions joined by ``+`` and ``-``, see ``labels.resolve``. Hard
        masks are 0 or 1 by the most likely label; ``soft`` ones are the summed class probabilities, in [0, 1], each
        within 1/512 of the exact one. Of a label of which a drawn region (``labels.DRAWN``) is a part, that part
        counts. ``face``: whose: ``"all"``, ``"largest"``, or the index of a face; the mask of an image that has no such
        face is empty. Raises ``ValueError`` for a name or a face that cannot be.
        """
        return self.masks([region], soft=soft, face=face)[0]

    @enough_memory("the masks cannot be drawn")
    def masks(self, regions: Sequence[str], *, soft: bool = False, face: int | str = "all") -> Tensor:
        """The masks of several regions, float32 [R, B, H, W], in one pass: soft ones for little more than one."""
        if not (face in ("all", "largest") or (isinstance(face, int) and face >= 0)):
            raise ValueError(f"face must be 'all', 'largest' or an index from 0 on, not {face!r}")
        resolved = [resolve(region) for region in regions]
        chosen = torch.zeros(len(regions), NUM_LABELS)
        for row, region in zip(chosen, resolved, strict=True):
            row[list(region.ids)] = 1
        shapes = tuple({shape for region in resolved for shape in region.shapes})
        height, width = self._one_size()
        masks = pictures.empty(len(regions), len(self), height, width)
        if shapes or not soft:
            self.labels  # noqa: B018 - rendered before the threads ask for them

        def render(i: int) -> None:
            drawings = [draw(self.labels[i], one, shapes) for one in self[i].faces[0]] if shapes else []
            if soft:
                for look, (rows, columns), place in self._layers(i):
                    part = masks[:, i, rows, columns]
                    rendering.soft_masks(look.logits, place, [region.ids for region in resolved], part)
                    for mask, region in zip(part, resolved, strict=True):
                        for label, there, extra in extras(region, drawings, rows, columns, soft=True):
                            y, x = (side.start for side in there)
                            share = pictures.empty(1, *mask[there].shape)
                            shifted = replace(place, x=place.x - x, y=place.y - y)
                            rendering.soft_masks(look.logits, shifted, [[label]], share)
                            mask[there] = (mask[there] + extra * share[0]).clamp_(0, 1)
            else:

                def fill(rows: slice) -> None:
                    labels = self.labels[i, rows]
                    masks[:, i, rows] = chosen[:, labels.int()]
                    for mask, region in zip(masks[:, i, rows], resolved, strict=True):
                        for label, there, extra in extras(region, drawings, rows, slice(0, width), soft=False):
                            mask[there] = (mask[there] + extra * (labels[there] == label)).clamp_(0, 1)

                rendering.spread(fill, rendering.row_bands((height, width), 8))
            if face != "all":
                self._leave_one(masks[:, i], i, face)

        self._for_each(render)
        masks[:, list(self.filled)] = 1
        return masks

    def _for_each(self, render: Callable[[int], None]) -> None:
        """Calls ``render`` with the index of each image. On the CPU each thread does some of them if they are as many
        as these; else they come one after the other, each done by all threads."""
        on_cpu = all(logits.device.type == "cpu" for logits in self.logits)
        if on_cpu and len(self) >= rendering.threads_at_hand():
            rendering.spread(render, range(len(self)))
            return
        for i in range(len(self)):
            render(i)

    def _layers(self, index: int) -> Iterator[tuple[Look, tuple[slice, slice], Window]]:
        """Everything of an image that is rendered: looks, the rows and columns they cover, and their windows in these;
        what comes later lies over what came before."""
        height, width = self.sizes[index]
        look = Look(self.logits[index], self.windows[index])
        yield look, (slice(0, height), slice(0, width)), look.window
        details = self.details[index]
        for look in details.scene.looks if details and details.scene else ():
            x, y, width, height = (
                round(v) for v in (look.window.x, look.window.y, look.window.width, look.window.height)
            )
            yield look, (slice(y, y + height), slice(x, x + width)), Window(0, 0, width, height)

    def _leave_one(self, masks: Tensor, index: int, face: int | str) -> None:
        """Of an image's masks [R, H, W] leave what belongs to one of its faces."""
        faces = self[index].faces[0]
        if face == "largest" and faces:
            face = max(faces, key=lambda face: face.width * face.height).index
        place = next((place for place, one in enumerate(faces) if one.index == face), None)
        if place is None:
            masks.zero_()
            return
        details = self.details[index]
        scene = details.scene if details else None
        if scene:
            owner, window = scene.owner, scene.window
        else:
            height, width = self.sizes[index]
            window = Window(0, 0, width, height)
            owner = nearest([framing(face) for face in faces], window)
        if (owner != place).any():
            alone = F.one_hot(owner.long(), len(faces) + 1).permute(2, 0, 1).float()
            owners = rendering.labels(alone, window, self.sizes[index])
            for rows in rendering.row_bands(owners.shape, 8):
                masks[:, rows] *= owners[rows] == place

    def repeated(self, times: int) -> Parsing:
        """The parsing of a single image as that of a batch in which it comes so many times."""
        if len(self) != 1:
            raise ValueError(f"only the parsing of a single image can be repeated, not that of {len(self)}")
        batch = Parsing(
            self.logits * times,
            self.windows * times,
            self.sizes * times,
            range(times) if self.filled else (),
            self.details * times,
        )
        batch.labels = self.labels.expand(times, -1, -1)
        return batch

    def to(self, device: str | torch.device) -> Parsing:
        """This parsing with its logits on ``device``; what is rendered already stays so."""
        details = [details and details.to(device) for details in self.details]
        moved = Parsing([logits.to(device) for logits in self.logits], self.windows, self.sizes, self.filled, details)
        if "labels" in self.__dict__:
            moved.labels = self.labels
        return moved

    def where_no_face(self, rule: str) -> Parsing:
        """This parsing with images in which there is no face replaced.

        ``rule``: ``"what is there"``: nothing is replaced, hair of somebody who is turned away stays hair; ``"empty
        mask"``: nothing but background; ``"whole image"``: their masks are all 1, whatever the region; ``"last
        frame's"``: the parsing of the last image before them that has a face, else as ``"empty mask"``; ``"between"``:
        what lies between the last image with a face and the next, or that one of them that there is; ``"error"``: a
        ``ValueError`` that names them. The images must be of one size.
        """
        if rule not in NO_FACE:
            raise ValueError(f"unknown rule {rule!r} for images without a face: choose one of {', '.join(NO_FACE)}")
        if rule == "what is there":
            return self
        found = [
            bool(details.faces) if details else has_face(labels)
            for labels, details in zip(self.small_labels(_GLANCE), self.details, strict=True)
        ]
        without = [i for i, there in enumerate(found) if not there]
        if not without:
            return self
        if rule == "error":
            raise ValueError(f"there is no face in {_image_list(without, len(self))}")
        result = Parsing(self.logits, self.windows, self.sizes, without if rule == "whole image" else (), self.details)
        rendered = "labels" in self.__dict__
        if rendered:
            result.labels = self.labels.clone()
        for i in without:
            held = rule in ("last frame's", "between")
            before = next((k for k in range(i, -1, -1) if held and found[k]), None)
            after = next((k for k in range(i, len(found)) if rule == "between" and found[k]), None)
            if before is not None and after is not None:
                look, face = self._between(before, after, (i - before) / (after - before))
                result.logits[i], result.windows[i], result.details[i] = look.logits, look.window, Details((face,))
                if rendered:
                    result.labels[i] = rendering.labels(look.logits, look.window, self.sizes[i])
            elif (other := after if before is None else before) is not None:
                result.logits[i], result.windows[i] = self.logits[other], self.windows[other]
                result.details[i] = self.details[other]
                if rendered:
                    result.labels[i] = self.labels[other]
            else:
                height, width = self.sizes[i]
                result.logits[i], result.windows[i] = background(self.logits[i].device), Window(0, 0, width, height)
                result.details[i] = None
                if rendered:
                    result.labels[i] = 0
        return result

    def _between(self, before: int, after: int, share: float) -> tuple[Look, Face]:
        """What lies at this share of the way from one image to another: a look at it, and its largest face."""
        first, second = (max(self[i].faces[0], key=lambda face: face.width * face.height) for i in (before, after))
        look = look_between(self._as_one(before), self._as_one(after), (first, second), share)
        return look, face_between(first, second, share)

    def _as_one(self, index: int) -> Look:
        """Everything that was seen of an image as one look at the whole of it."""
        details = self.details[index]
        if not (details and details.scene):
            return Look(self.logits[index], self.windows[index])
        height, width = self.sizes[index]
        down, across = (math.ceil(_CELLS * side / max(height, width)) for side in (height, width))
        whole = Look(self.logits[index].expand(-1, down, across).clone(), Window(0, 0, width, height))
        for look in details.scene.looks:
            left, top = (round(v) for v in (look.window.x * across / width, look.window.y * down / height))
            right = math.ceil((look.window.x + look.window.width) * across / width)
            bottom = math.ceil((look.window.y + look.window.height) * down / height)
            whole.logits[:, top:bottom, left:right] = resampled(look, whole).logits[:, top:bottom, left:right]
        return whole

    @property
    def areas(self) -> Tensor:
        """Pixels of each label, int64 [B, 19]."""
        return torch.stack([torch.bincount(labels.flatten(), minlength=NUM_LABELS) for labels in self.labels])

    @property
    def faces(self) -> list[list[Face]]:
        """The faces of each image, ``[]`` where there is none; those of images that were parsed face by face are in the
        order that was asked for, others from the largest to the smallest."""
        return [
            list(details.faces) if details else find_faces(one.labels[0])
            for one, details in zip(self, self.details, strict=True)
        ]

    def boxes(self, region: str, *, face: int | str = "all") -> list[tuple[int, int, int, int] | None]:
        """Of each image the box of a region, (x, y, width, height) in pixels; None where it is empty. ``face``: whose,
        as in ``mask``."""
        return [bounding_box(mask.any(1), mask.any(0)) for mask in self.mask(region, face=face).bool()]

    def figures(self) -> list[dict]:
        """Of each image, ready for JSON: its size, its faces, and of each label that is there (the background left
        out) the pixels, the share of the image, the box and the centre, in pixels from the upper left corner."""
        figures = []
        for labels, (height, width), faces in zip(self.labels, self.sizes, self.faces, strict=True):
            down, across = torch.arange(height), torch.arange(width)
            # Pixels of each label by row and by column: area, box and centre follow from these.
            cells = labels.long() * height + down[:, None]
            rows = torch.bincount(cells.flatten(), minlength=NUM_LABELS * height).view(NUM_LABELS, height)
            cells = labels.long() * width + across
            columns = torch.bincount(cells.flatten(), minlength=NUM_LABELS * width).view(NUM_LABELS, width)
            areas = rows.sum(1).tolist()
            figures.append(
                {
                    "width": width,
                    "height": height,
                    "faces": [vars(face) for face in faces],
                    "labels": {
                        label.title: {
                            "pixels": areas[label.id],
                            "share": round(areas[label.id] / (height * width), 6),
                            "box": bounding_box(rows[label.id] > 0, columns[label.id] > 0),
                            "centre": [
                                round((counts[label.id] * places).sum().item() / areas[label.id] + 0.5, 1)
                                for counts, places in ((columns, across), (rows, down))
                            ],
                        }
                        for label in LABELS[1:]
                        if areas[label.id]
                    },
                }
            )
        return figures

    @enough_memory("the overlay cannot be drawn")
    def overlay(self, images: Images, *, opacity: float = 0.6) -> Tensor:
        """The images with each label's colour laid over them, float32 [B, H, W, 3] in [0, 1]; the background stays.

        ``images``: the images that were parsed, in any form that ``parse`` takes; ``opacity`` in [0, 1].
        """
        number("opacity", opacity, 0, 1)
        images = pictures.load(images)
        if [tuple(image.shape[:2]) for image in images] != self.sizes:
            raise ValueError("overlay needs the images that were parsed: their number and sizes must be the parsing's")
        colours = torch.tensor([label.colour for label in LABELS]) / 255
        strength = torch.tensor([0.0, *[float(opacity)] * (NUM_LABELS - 1)])
        overlay = pictures.empty(*self.labels.shape, 3)
        for out, image, labels in zip(overlay, images, self.labels, strict=True):
            rendering.lay_over(image, labels, colours, strength, out)
        return overlay

    def _one_size(self) -> tuple[int, int]:
        if len(set(self.sizes)) > 1:
            raise ValueError(
                f"the {len(self)} images have different sizes and cannot be one tensor: "
                "take parsing[i] for one image, or loop over the parsing"
            )
        return self.sizes[0]


def _image_list(indices: Sequence[int], total: int) -> str:
    """The images in words, counted from 0."""
    if total == 1:
        return "the image"
    names = ", ".join(map(str, indices[:8])) + (f" … ({len(indices)} in all)" if len(indices) > 8 else "")
    return f"image{'s' * (len(indices) > 1)} {names} of {total} (counted from 0)"
