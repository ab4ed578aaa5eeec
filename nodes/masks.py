"""Masks from masks."""

from __future__ import annotations

from comfy_api.latest import io

from faceparse_core.masks import DIRECTIONS, OPERATIONS, combine, refine

from . import host
from .parsing import CATEGORY


class MaskCombine(io.ComfyNode):
    """Masks -> mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseMaskCombine",
            display_name="Mask Combine",
            category=CATEGORY,
            description="One mask of several. They must be of one size; a single mask goes with a batch.",
            search_aliases=["add masks", "merge masks", "mask union", "mask intersection", "subtract mask"],
            inputs=[
                io.Autogrow.Input(
                    "masks",
                    template=io.Autogrow.TemplatePrefix(
                        io.Mask.Input("mask", tooltip="Connect as many as you need: a new socket comes with each."),
                        prefix="mask",
                        min=2,
                        max=32,
                    ),
                    tooltip="The masks; for subtract and difference their order counts.",
                ),
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    default=OPERATIONS[0],
                    tooltip="union: in any of them; intersect: in all; subtract: in the first, in none of the others; "
                    "difference: in one but not the other; multiply and average: for soft masks.",
                ),
            ],
            outputs=[io.Mask.Output("mask")],
        )

    @classmethod
    def execute(cls, masks, operation) -> io.NodeOutput:
        # Of the sockets mask0, mask1 … those that are connected, in the order of their numbers.
        names = sorted((name for name, mask in masks.items() if mask is not None), key=lambda name: int(name[4:]))
        return io.NodeOutput(host.give(combine([masks[name] for name in names], operation)))


class MaskFeather(io.ComfyNode):
    """Mask -> mask with another edge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseMaskFeather",
            display_name="Mask Feather",
            category=CATEGORY,
            description="Grows or shrinks a mask and softens its edge; before that it fills holes and removes specks.",
            search_aliases=[
                "grow mask",
                "shrink mask",
                "expand mask",
                "blur mask",
                "soften mask",
                "dilate",
                "erode",
                "fill holes",
                "remove islands",
                "clean mask",
            ],
            inputs=[
                io.Mask.Input("mask", tooltip="Any mask, one or a batch, hard or soft."),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-4096,
                    max=4096,
                    tooltip="Pixels by which the edge moves outwards, or inwards if negative. Grow where a rim of the "
                    "old content shows after inpainting; shrink where background shows.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Width of the soft edge in pixels. Raise it until the seam is gone.",
                ),
                io.Combo.Input(
                    "direction",
                    options=list(DIRECTIONS),
                    default=DIRECTIONS[0],
                    tooltip="Where the soft edge lies. inward never touches what is outside of the mask, outward "
                    "leaves all of the mask at full strength.",
                ),
                io.Boolean.Input(
                    "fill_holes",
                    default=False,
                    tooltip="On if the mask has holes inside that should belong to it, as eyes in a mask of skin.",
                ),
                io.Int.Input(
                    "remove_specks",
                    default=0,
                    min=0,
                    max=100_000_000,
                    tooltip="Removes separate pieces of fewer pixels than this; 0 keeps all. Raise it if stray bits "
                    "show far from the face.",
                ),
            ],
            outputs=[io.Mask.Output("mask")],
        )

    @classmethod
    def execute(cls, mask, grow, feather, direction, fill_holes, remove_specks) -> io.NodeOutput:
        refined = refine(
            mask,
            grow=grow,
            feather=feather,
            direction=direction,
            fill_holes=fill_holes,
            remove_specks=remove_specks,
            progress=host.Progress(),
        )
        return io.NodeOutput(host.give(refined))
