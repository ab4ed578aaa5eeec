"""Our networks as ONNX graphs: in float32, in half precision, with weights of 8 bits.

The graphs are written node by node from the weights, not traced. So they need neither torch's exporter nor its version,
hold no leftovers of Python (sizes worked out anew for each picture, constants that could have been folded), and give
nodes and weights the names that they have in the network. That they compute the same as the networks is for the tests
and for the check of every export to prove.

Upsampling is by fixed factors and attention leaves the sizes open, so one graph serves all sizes that are multiples
of 32. Layer norms are nodes of their own (opset 17): taken apart, their squares overflow in half precision.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from faceparse_core import __version__
from faceparse_core.models.finder import STRIDE, FinderNetwork
from faceparse_core.models.lite import TAPS, Classifier, ConvNorm, InvertedResidual, Lite, Smooth
from faceparse_core.models.segformer import SegFormer
from faceparse_core.models.segformer_layers import Attention, Block, Head, MixMLP, Stage

OPSET = 17
# What onnxruntime 1.13 (2022) and newer read.
_IR_VERSION = 8
INPUT, OUTPUT = "pixel_values", "logits"
# Weights with fewer numbers stay in float32 where the others are of 8 bits: first and last layers, biases, norms.
_SMALL = 16384
# Endings of the names of nodes that stay in float32 where the others are in half precision.
_EXACT = (".residual", ".upsampled", ".sum", ".relu", "classifier.direct", "classifier.through")


class Weight(NamedTuple):
    """Constant numbers of a graph; ``make`` gives them when they are written, so that no copy waits in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    def to_half(self) -> Weight:
        return Weight(self.shape, np.dtype(np.float16), lambda: self.make().astype(np.float16))

    def to_int8(self, scales: np.ndarray) -> Weight:
        return Weight(self.shape, np.dtype(np.int8), lambda: np.rint(self.make() / scales).astype(np.int8))


class Graph:
    """Nodes and weights, added one after another. A tensor is known by its name: methods return that of the result.

    ``resolution``: the sides of the input, None where they are open; ``stride``: how many pixels of them are one of the
    logits; ``outputs``: numbers that come out beside these.
    """

    def __init__(self, labels: int, resolution: int | None, stride: int = 4):
        self.labels, self.resolution, self.stride = labels, resolution, stride
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Weight] = {}
        self.outputs: list[str] = []

    def emptied(self) -> Graph:
        """A graph with the same input and output and nothing between them."""
        return Graph(self.labels, self.resolution, self.stride)

    def write(self, file: Path) -> None:
        """Writes the graph as an ONNX file, one weight after the other."""
        side, part, stride = self.resolution, self.resolution and self.resolution // self.stride, self.stride
        given: list[str | int] = ["batch_size", 3, side or "height", side or "width"]
        result: list[str | int] = ["batch_size", self.labels, part or f"height / {stride}", part or f"width / {stride}"]
        graph = GraphProto(name="faceparse")
        graph.node.extend(self.nodes)
        graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, given))
        graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, result))
        graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in self.outputs)
        model = ModelProto(ir_version=_IR_VERSION, producer_name="faceparse", producer_version=__version__)
        model.opset_import.append(helper.make_opsetid("", OPSET))

        # A message of protobuf is its fields, one behind the other; a field that is a message, or bytes, is preceded by
        # its length. So all lengths come first, and the weights need not be in memory together.
        weights = []
        for name, weight in self.weights.items():
            header = TensorProto(name=name, dims=weight.shape, data_type=helper.np_dtype_to_tensor_dtype(weight.dtype))
            size = math.prod(weight.shape) * weight.dtype.itemsize
            start = header.SerializeToString() + _field_start(TensorProto, "raw_data", size)
            weights.append((_field_start(GraphProto, "initializer", len(start) + size) + start, size, weight))
        nodes = graph.SerializeToString()
        total = len(nodes) + sum(len(start) + size for start, size, _ in weights)
        with file.open("wb") as out:
            out.write(model.SerializeToString() + _field_start(ModelProto, "graph", total) + nodes)
            for start, _, weight in weights:
                out.write(start)
                out.write(np.ascontiguousarray(weight.make()).data)

    def node(self, kind: str, *inputs: str, name: str, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, values: Tensor, scale: float = 1.0) -> str:
        values = values.detach()
        make = (lambda: values.numpy()) if scale == 1 else (lambda: (values * scale).numpy())
        self.weights[name] = Weight(tuple(values.shape), np.dtype(np.float32), make)
        return name

    def constant(self, values: Sequence[float] | float, dtype: type = np.float32) -> str:
        """Few numbers, kept once however often they are used."""
        array: np.ndarray = np.array(values, dtype=dtype)
        name = f"constant {array.tolist()} {array.dtype}"
        self.weights[name] = Weight(array.shape, array.dtype, lambda: array)
        return name

    def convolution(self, x: str, conv: nn.Conv2d, name: str, output: str = "") -> str:
        """Images [B, C, H, W]; ``output`` names the result, where it is not to have the name of the layer."""
        inputs = [x, self.weight(f"{name}.weight", conv.weight)]
        if conv.bias is not None:
            inputs.append(self.weight(f"{name}.bias", conv.bias))
        top, left = cast(tuple[int, int], conv.padding)
        size = conv.kernel_size
        return self.node(
            "Conv", *inputs, name=output or name,
            kernel_shape=size, strides=conv.stride, pads=[top, left, top, left], group=conv.groups,
        )  # fmt: skip

    def pointwise(self, x: str, weight: Tensor, bias: Tensor | None, name: str, output: str = "") -> str:
        """A linear layer, weight [outputs, inputs], for images [B, C, H, W]."""
        inputs = [x, self.weight(f"{name}.weight", weight[:, :, None, None])]
        if bias is not None:
            inputs.append(self.weight(f"{name}.bias", bias))
        return self.node("Conv", *inputs, name=output or name, kernel_shape=[1, 1])

    def linear(self, x: str, linear: nn.Linear, name: str, scale: float = 1.0) -> str:
        """Tokens [..., C]; ``scale`` multiplies the result."""
        product = self.node("MatMul", x, self.weight(f"{name}.weight", linear.weight.T, scale), name=f"{name}.product")
        return self.node("Add", product, self.weight(f"{name}.bias", linear.bias, scale), name=name)

    def norm(self, x: str, norm: nn.LayerNorm, name: str) -> str:
        """Tokens [..., C]."""
        inputs = x, self.weight(f"{name}.weight", norm.weight), self.weight(f"{name}.bias", norm.bias)
        return self.node("LayerNormalization", *inputs, name=name, axis=-1, epsilon=norm.eps)

    def gelu(self, x: str, name: str) -> str:
        """The exact one, by the error function, in the form that onnxruntime joins into one node."""
        erf = self.node("Div", x, self.constant(math.sqrt(2)), name=f"{name}.scaled")
        erf = self.node("Erf", erf, name=f"{name}.erf")
        erf = self.node("Add", erf, self.constant(1.0), name=f"{name}.shifted")
        return self.node("Mul", self.node("Mul", x, erf, name=f"{name}.gated"), self.constant(0.5), name=name)

    def upsample(self, x: str, factor: int, name: str) -> str:
        """Images, bilinear, the samples at the centres of pixels: as torch with align_corners=False."""
        scales = self.constant([1, 1, factor, factor])
        return self.node("Resize", x, "", scales, name=name, mode="linear", coordinate_transformation_mode="half_pixel")

    def tokens(self, x: str, name: str) -> str:
        """[B, C, H, W] -> [B, H, W, C]"""
        return self.node("Transpose", x, name=name, perm=[0, 2, 3, 1])

    def image(self, x: str, name: str) -> str:
        """[B, H, W, C] -> [B, C, H, W]"""
        return self.node("Transpose", x, name=name, perm=[0, 3, 1, 2])


# ---------------------------------------------------------------------------------------------- other graphs from one


def with_peaks(graph: Graph) -> Graph:
    """The same graph with one more output for each of its tensors of floats, the largest magnitude in it.

    The output for the tensor X is called "X peak".
    """
    peaks = graph.emptied()
    peaks.nodes, peaks.weights = list(graph.nodes), graph.weights
    # onnxruntime works its way back from the last nodes: in reverse, each peak is taken while its tensor is there, and
    # not at the end, when all of them would have had to be kept.
    for node in reversed(graph.nodes):
        if node.op_type != "Shape":
            name = node.output[0]
            magnitude = peaks.node("Abs", name, name=f"{name} magnitude")
            peaks.outputs.append(peaks.node("ReduceMax", magnitude, name=f"{name} peak", keepdims=0))
    return peaks


def halved(graph: Graph, exact: Collection[str] = ()) -> Graph:
    """The graph in half precision; input and output stay float32.

    In float32 stay layer norms, the residual stream and the last layers, where rounding moves the borders between
    labels, and whatever touches a tensor that is named in ``exact``.
    """
    half, exact = graph.emptied(), set(exact)
    kinds: dict[str, int] = {INPUT: TensorProto.FLOAT}  # what numbers the computed tensors hold

    def taken(name: str, kind: int) -> str:
        """The name of the tensor with numbers of this kind, made where it is not there yet."""
        suffix = " half" if kind == TensorProto.FLOAT16 else " float"
        if name in graph.weights:
            weight = graph.weights[name]
            if weight.dtype != np.float32 or kind == TensorProto.FLOAT:
                half.weights[name] = weight
                return name
            half.weights[name + suffix] = weight.to_half()
            return name + suffix
        if kinds[name] in (kind, TensorProto.INT64):
            return name
        if name + suffix not in kinds:
            kinds[half.node("Cast", name, name=name + suffix, to=kind)] = kind
        return name + suffix

    for node in graph.nodes:
        tensors = (*node.input, *node.output)
        float32 = node.op_type == "LayerNormalization" or node.name.endswith(_EXACT) or OUTPUT in tensors
        kind = TensorProto.FLOAT if float32 or not exact.isdisjoint(tensors) else TensorProto.FLOAT16
        if node.op_type == "Shape":
            inputs, kind = list(node.input), TensorProto.INT64
        elif node.op_type == "Resize":  # its scales are float32 by the standard
            inputs = [taken(node.input[0], kind), "", taken(node.input[2], TensorProto.FLOAT)]
        else:
            inputs = [taken(name, kind) for name in node.input]
        kinds[node.output[0]] = kind
        half.nodes.append(_with_inputs(node, inputs))
    return half


def with_small_weights(graph: Graph) -> Graph:
    """The graph with its large weights as whole numbers of 8 bits and one scale for each channel of the result.

    It computes in float32: a runtime unpacks the weights once, when it loads the file, as it does with everything that
    follows from constants. So a quarter of the size costs no time, needs no pictures to calibrate by, and rounds
    nothing but weights. (Multiplying in 8 bits was slower than in float32 in browsers, and moves more labels.)
    """
    small = graph.emptied()
    small.weights = dict(graph.weights)
    for node in graph.nodes:
        name = node.input[1] if node.op_type in ("Conv", "MatMul") else ""
        if name in graph.weights and math.prod(graph.weights[name].shape) >= _SMALL:
            weight = small.weights.pop(name)
            channels = 0 if node.op_type == "Conv" else 1
            scales = _scales(weight.make(), channels)
            small.weights[f"{name}.int8"] = weight.to_int8(scales)
            small.weights[f"{name}.scales"] = Weight(scales.shape, scales.dtype, scales.copy)
            small.node("Cast", f"{name}.int8", name=f"{name}.float", to=TensorProto.FLOAT)
            small.node("Mul", f"{name}.float", f"{name}.scales", name=name)
        small.nodes.append(node)
    return small


def _scales(values: np.ndarray, channels: int) -> np.ndarray:
    """What 1 stands for in each channel, so that its largest weight becomes 127; float32, ready to multiply."""
    others = tuple(axis for axis in range(values.ndim) if axis != channels)
    return np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)


def _with_inputs(node: NodeProto, inputs: list[str]) -> NodeProto:
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.input[:] = inputs
    return changed


def _field_start(message: type[GraphProto | ModelProto | TensorProto], name: str, length: int) -> bytes:
    """What precedes a field that is a message or bytes: its number and kind, and its length, as varints."""
    return _varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    *low, last = [(value >> shift) & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(part | 128 for part in low), last])


# ---------------------------------------------------------------------------------------------- the networks


def build(network: nn.Module, resolution: int | None = None) -> Graph:
    """The graph of a network in float32, as it is folded for inference. A SegFormer's weights are its own, not copies.

    ``network``: a Lite or a SegFormer, loaded with ``trainable=True``: its head is folded here, the network stays as
    it is. Input ``pixel_values``, float32 [B, 3, H, W], normalised; output ``logits``, float32 [B, labels, H/4, W/4].
    Or a FinderNetwork, whose output, [B, 15, H/8, W/8], has that name, too.
    ``resolution`` fixes H and W; without it they may be any multiples of 32.

    Raises ValueError for another network, or one in another form.
    """
    with torch.no_grad():
        if isinstance(network, Lite) and isinstance(network.stem.norm, nn.BatchNorm2d):
            graph = Graph(network.config.num_labels, resolution)
            _lite(graph, copy.deepcopy(network).fold())
        elif isinstance(network, SegFormer) and not network.folded:
            graph = Graph(network.config.num_labels, resolution)
            _segformer(graph, network)
        elif isinstance(network, FinderNetwork) and isinstance(network.head[0].pointwise.norm, nn.BatchNorm2d):
            graph = Graph(network.output.out_channels, resolution, STRIDE)
            _finder(graph, copy.deepcopy(network).fold())
        else:
            raise ValueError(
                f"only Lite and SegFormer in their trainable form become ONNX graphs, not this {type(network).__name__}"
            )
    return graph


def _lite(graph: Graph, network: Lite) -> None:
    """See ``models.lite``."""
    x = _conv_norm(graph, INPUT, network.stem, "stem")
    taps = []
    for i, stage in enumerate(network.stages):
        for j, block in enumerate(cast(Iterable[InvertedResidual], stage)):
            x = _inverted_residual(graph, x, block, f"stages.{i}.{j}")
        if i in TAPS:
            taps.append(x)
    y = _top_down(graph, taps, network)
    if not isinstance(network.classifier, Classifier):
        graph.convolution(y, cast(nn.Conv2d, network.classifier), "classifier", output=OUTPUT)
        return
    direct = graph.convolution(y, network.classifier.direct, "classifier.direct")
    y = _widened(graph, y, network.classifier, "classifier")
    through = graph.convolution(y, network.classifier.through, "classifier.through")
    graph.node("Add", direct, through, name=OUTPUT)


def _top_down(graph: Graph, taps: Sequence[str], network: Lite | FinderNetwork) -> str:
    """See ``models.lite.top_down``."""
    y, blocks = "", getattr(network, "blocks", ())
    for i in reversed(range(len(taps))):
        merged = _conv_norm(graph, taps[i], cast(ConvNorm, network.lateral[i]), f"lateral.{i}")
        if y:
            merged = graph.node("Add", merged, graph.upsample(y, 2, f"merged.{i}.coarse"), name=f"merged.{i}")
        y = _smoothed(graph, merged, cast(Smooth, network.smooth[i]), f"smooth.{i}")
        if len(blocks) and isinstance(blocks[i], InvertedResidual):
            y = _inverted_residual(graph, y, blocks[i], f"blocks.{i}")
    return y


def _smoothed(graph: Graph, x: str, module: Smooth, name: str) -> str:
    return _conv_norm(
        graph, _conv_norm(graph, x, module.depthwise, f"{name}.depthwise"), module.pointwise, f"{name}.pointwise"
    )


def _finder(graph: Graph, network: FinderNetwork) -> None:
    """See ``models.finder``."""
    x = _conv_norm(graph, INPUT, cast(ConvNorm, network.body[0]), "body.0")
    for i, stage in enumerate(cast(Iterable[Iterable[InvertedResidual]], network.body[1:]), start=1):
        eighth = x
        for j, block in enumerate(stage):
            x = _inverted_residual(graph, x, block, f"body.{i}.{j}")
    coarse = x
    for i, block in enumerate(cast(Iterable[InvertedResidual], network.coarse)):
        coarse = _inverted_residual(graph, coarse, block, f"coarse.{i}")
    y = _top_down(graph, (eighth, x, coarse), network)
    for i, smooth in enumerate(cast(Iterable[Smooth], network.head)):
        y = _smoothed(graph, y, smooth, f"head.{i}")
    graph.convolution(y, cast(nn.Conv2d, network.output), "output", output=OUTPUT)


def _inverted_residual(graph: Graph, x: str, block: InvertedResidual, name: str) -> str:
    y = _conv_norm(graph, _widened(graph, x, block, name), block.project, f"{name}.project")
    return graph.node("Add", x, y, name=name) if block.residual else y


def _widened(graph: Graph, x: str, block: InvertedResidual | Classifier, name: str) -> str:
    if isinstance(block.expand, ConvNorm):
        x = _conv_norm(graph, x, block.expand, f"{name}.expand")
    return _conv_norm(graph, x, block.depthwise, f"{name}.depthwise")


def _conv_norm(graph: Graph, x: str, module: ConvNorm, name: str) -> str:
    x = graph.convolution(x, module.conv, name)
    if not module.activation:
        return x
    return graph.node("Clip", x, graph.constant(0.0), graph.constant(6.0), name=f"{name}.relu6")


def _segformer(graph: Graph, network: SegFormer) -> None:
    """See ``models.segformer``. Between the convolutions a map is tokens, [B, H, W, C], as there."""
    head = cast(Head, network.head).fold()
    x, maps = INPUT, []
    for i, stage in enumerate(cast(Iterable[Stage], network.stages)):
        name = f"stages.{i}"
        x = graph.tokens(graph.convolution(x, stage.embed.conv, f"{name}.embed.conv"), f"{name}.embed.tokens")
        x = graph.norm(x, stage.embed.norm, f"{name}.embed.norm")
        if graph.resolution:
            side = graph.resolution >> (i + 2)
            shape = graph.constant([0, side, side, network.config.hidden_sizes[i]], np.int64)
        else:
            shape = graph.node("Shape", x, name=f"{name}.shape")
        for j, block in enumerate(cast(Iterable[Block], stage.blocks)):
            here = f"{name}.blocks.{j}"
            y = _attention(
                graph, graph.norm(x, block.norm1, f"{here}.norm1"), shape, block.attention, f"{here}.attention"
            )
            x = graph.node("Add", x, y, name=f"{here}.attention.residual")
            y = graph.norm(x, block.norm2, f"{here}.norm2")
            y = _mix_mlp(graph, y, block.mlp, f"{here}.mlp")
            x = graph.node("Add", x, y, name=f"{here}.mlp.residual")
        x = graph.image(graph.norm(x, stage.norm, f"{name}.norm"), f"{name}.image")
        # A shift stays what it is when upsampled; the coarsest map has the fewest pixels to add it to.
        shift = head.classify.shift if i == len(network.stages) - 1 else None
        maps.append(graph.pointwise(x, head.merged[i], shift, f"head.{i}"))
    total = ""
    for i in reversed(range(1, len(maps))):
        fine = graph.upsample(maps[i], 1 << i, f"head.{i}.upsampled")
        total = fine if not total else graph.node("Add", total, fine, name=f"head.{i}.sum")
    total = graph.node("Relu", graph.node("Add", total, maps[0], name="head.0.sum"), name="head.relu")
    graph.pointwise(total, head.classify.weight, head.classify.bias, "head.classifier", output=OUTPUT)


def _attention(graph: Graph, x: str, shape: str, attention: Attention, name: str) -> str:
    source = x
    if attention.reduce is not None:
        source = graph.convolution(graph.image(x, f"{name}.image"), attention.reduce, f"{name}.reduce")
        source = graph.norm(graph.tokens(source, f"{name}.reduced"), attention.reduce_norm, f"{name}.reduce_norm")
    width, heads = attention.query.in_features, attention.heads
    split = graph.constant([0, -1, heads, width // heads], np.int64)

    def parts(tokens: str, part: str, order: list[int]) -> str:
        """[B, H, W, C] -> [B, H * W, heads, C / heads] in another order"""
        divided = graph.node("Reshape", tokens, split, name=f"{name}.{part}.heads")
        return graph.node("Transpose", divided, name=f"{name}.{part}.parts", perm=order)

    scale = (width // heads) ** -0.5
    query = parts(graph.linear(x, attention.query, f"{name}.query", scale), "query", [0, 2, 1, 3])
    key = parts(graph.linear(source, attention.key, f"{name}.key"), "key", [0, 2, 3, 1])
    value = parts(graph.linear(source, attention.value, f"{name}.value"), "value", [0, 2, 1, 3])
    weights = graph.node(
        "Softmax", graph.node("MatMul", query, key, name=f"{name}.scores"), name=f"{name}.softmax", axis=-1
    )
    attended = graph.node("MatMul", weights, value, name=f"{name}.attended")
    attended = graph.node("Transpose", attended, name=f"{name}.attended.tokens", perm=[0, 2, 1, 3])
    return graph.linear(
        graph.node("Reshape", attended, shape, name=f"{name}.attended.map"), attention.out, f"{name}.out"
    )


def _mix_mlp(graph: Graph, x: str, mlp: MixMLP, name: str) -> str:
    """As an image from end to end: then the narrow map is transposed, not the wide one."""
    x = graph.image(x, f"{name}.image")
    x = graph.pointwise(x, mlp.expand.weight, mlp.expand.bias, f"{name}.expand")
    x = graph.gelu(graph.convolution(x, mlp.depthwise, f"{name}.depthwise"), f"{name}.gelu")
    return graph.tokens(graph.pointwise(x, mlp.project.weight, mlp.project.bias, f"{name}.project"), f"{name}.tokens")
