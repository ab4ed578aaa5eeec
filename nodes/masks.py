"""Masks from masks."""

from __future__ import annotations

from comfy_api.latest import io

from faceparse_core.masks import DIRECTIONS, METHODS, OPERATIONS, UNITS, combine, cut_out, edit, refine

from . import host
from .inputs import share
from .parsing import CATEGORY
from .shown import shown


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
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, masks, operation) -> io.NodeOutput:
        # Of the sockets mask0, mask1 … those that are connected, in the order of their numbers.
        names = sorted((name for name, mask in masks.items() if mask is not None), key=lambda name: int(name[4:]))
        combined = combine([masks[name] for name in names], operation)
        return io.NodeOutput(host.give(combined), ui=shown(combined))


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
                io.Int.Input(
                    "keep_largest",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Keeps so many of the largest pieces; 0 keeps all. 1 for the main person of a crowd.",
                ),
                _pixels("close", "Fills gaps and bays that a disc of this radius does not fit into."),
                _pixels("open", "Removes hairs, spikes and bridges that a disc of this radius does not fit into."),
                _pixels("smooth", "Straightens jags of the outline of up to this many pixels."),
                _pixels("blur", "Blurs all of the mask in the end, by a Gaussian of this standard deviation."),
            ],
            outputs=[io.Mask.Output("mask")],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, mask, grow, feather, direction, fill_holes, remove_specks,
        keep_largest=0, close=0.0, open=0.0, smooth=0.0, blur=0.0,
    ) -> io.NodeOutput:  # fmt: skip
        edited = edit(
            mask,
            grow=grow,
            feather=feather,
            direction=direction,
            fill_holes=fill_holes,
            remove_specks=remove_specks,
            keep_largest=keep_largest,
            close_radius=close,
            open_radius=open,
            smooth_radius=smooth,
            blur_sigma=blur,
            progress=host.Progress(),
        )
        return io.NodeOutput(host.give(edited), ui=shown(edited))


class RefineMask(io.ComfyNode):
    """Image, mask -> mask with its edge where the image's is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseRefineMask",
            display_name="Refine Mask",
            category=CATEGORY,
            description="Draws the edge of a mask to where the colours of the image change. Give it soft masks.",
            search_aliases=["guided filter", "matting", "hair matting", "edge refine", "alpha matte", "mask detail"],
            inputs=[
                io.Image.Input("image", tooltip="The picture from which the mask was made, of the same size."),
                io.Mask.Input("mask", tooltip="The mask to refine; best a soft one of Select Labels."),
                io.Boolean.Input(
                    "hair",
                    default=True,
                    tooltip="On for hair and fur: it looks farther and keeps fine strands half transparent. Off for "
                    "skin, lips and clothes, whose edges are sharp.",
                ),
                io.Float.Input(
                    "radius",
                    default=1.5,
                    min=0.1,
                    max=1000.0,
                    step=0.1,
                    tooltip="How far the edge may move. Raise it if strands are cut off; lower it if the mask leaks "
                    "into a background of the same colour.",
                ),
                io.Combo.Input(
                    "unit",
                    options=list(UNITS),
                    default=UNITS[0],
                    tooltip="What the radius is measured in. percent of the size of what the mask shows suits pictures "
                    "of any size; pixels is for one picture.",
                ),
                share("strength", 1.0, "Lower it to mix in the mask as it was."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="guided suits any mask. network is for the hair of one head: it first puts the outline "
                    "where hair ends, also that of a rough mask. closed_form solves for what shines through, with "
                    "PyMatting, which must be installed (pip install pymatting): slower.",
                ),
            ],
            outputs=[io.Mask.Output("mask")],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, image, mask, hair, radius, unit, strength, method=METHODS[0]) -> io.NodeOutput:
        refined = refine(
            image, mask, radius=radius, unit=unit, strength=strength, hair=hair, method=method, progress=host.Progress()
        )
        return io.NodeOutput(host.give(refined), ui=shown(refined))


class CutOut(io.ComfyNode):
    """Image, mask -> what the mask shows, without the colours of the background in its edge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceParseCutOut",
            display_name="Cut Out",
            category=CATEGORY,
            description="Cuts out what a mask shows, and takes the colours of the old background out of its soft edge, "
            "so that no halo is left on a new one.",
            search_aliases=["remove background", "alpha", "transparent", "rgba", "foreground", "defringe", "halo"],
            inputs=[
                io.Image.Input("image", tooltip="The picture from which the mask was made, of the same size."),
                io.Mask.Input("mask", tooltip="What stays."),
                io.Boolean.Input(
                    "clean_colours",
                    default=True,
                    tooltip="Off leaves the picture's own colours, with what shone through from behind.",
                ),
            ],
            outputs=[
                io.Image.Output("rgba", tooltip="The picture with transparency, for Save Image."),
                io.Image.Output("image", tooltip="The colours alone, for Image Composite Masked with the mask."),
                io.Mask.Output("mask", tooltip="The mask, as it came in."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, image, mask, clean_colours) -> io.NodeOutput:
        rgba = cut_out(image, mask, clean_colours=clean_colours, progress=host.Progress())
        return io.NodeOutput(host.give(rgba), host.give(rgba[..., :3]), host.give(rgba[..., 3]), ui=shown(rgba))


def _pixels(name: str, tooltip: str) -> io.Float.Input:
    """A length in pixels among the advanced inputs, 0 at first."""
    return io.Float.Input(
        name, default=0.0, min=0.0, max=4096.0, step=0.5, optional=True, advanced=True, tooltip=f"Pixels. {tooltip}"
    )
