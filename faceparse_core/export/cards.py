"""What lies around an exported graph: the kinds of files, their config, their card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from faceparse_core import __version__
from faceparse_core.checkpoints import Checkpoint
from faceparse_core.labels import LABELS
from faceparse_core.models.segformer import SegFormer

# The entry in config.json by which an earlier export is known.
OURS = "faceparse"


@dataclass(frozen=True)
class Kind:
    """A precision: its file, the share of pixels that must keep their label, what the card says of it."""

    file: str
    agreement: float
    note: str


PRECISIONS = {
    "fp32": Kind("model.onnx", 0.9999, "float32"),
    "fp16": Kind("model_fp16.onnx", 0.998, "half precision; norms, residual stream and last layers in float32"),
    "int8": Kind("model_quantized.onnx", 0.985, "weights of 8 bits, unpacked at loading; computes in float32"),
}


@dataclass(frozen=True)
class Exported:
    """A file that was made and checked; it was written if it ``passed``.

    ``agreement`` is the share of pixels whose label is that of the engine in float32, over all pictures, ``worst`` that
    of the worst picture; ``seconds`` what parsing one picture took here; ``size`` in bytes.
    """

    precision: str
    size: int
    agreement: float
    worst: float
    seconds: float

    @property
    def file(self) -> str:
        return f"onnx/{PRECISIONS[self.precision].file}"

    @property
    def passed(self) -> bool:
        return self.agreement >= PRECISIONS[self.precision].agreement


def config_of(checkpoint: Checkpoint, network: nn.Module) -> dict:
    """Transformers.js finds its class for semantic segmentation by these names, whatever the network is."""
    names = [label.name for label in LABELS]
    config = {"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"], "num_channels": 3}
    if isinstance(network, SegFormer):
        config = network.config.to_dict()
        del config["num_labels"]  # transformers counts the names
    return {
        **config,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        OURS: {"architecture": checkpoint.architecture, "source": checkpoint.name, "version": __version__},
    }


def card(checkpoint: Checkpoint, results: Sequence[Exported], resolution: int | None, scope: str) -> str:
    side = resolution or checkpoint.resolution
    licence = checkpoint.note.removeprefix("licence: ") or "that of the weights from which it was exported"
    rows = "\n".join(
        f"| `{result.file}` | {result.size / 1e6:.1f} MB | {PRECISIONS[result.precision].note} "
        f"| {result.agreement:.3%} |"
        for result in results
    )
    return _CARD.format(
        name=checkpoint.name,
        licence=licence,
        kind={"lite": "EfficientNet-Lite0 with a small head", "segformer": "SegFormer"}[checkpoint.architecture],
        rows=rows,
        scope=scope,
        side=side,
        quarter=side // 4,
        lengths=f"H and W are {side}" if resolution else f"H and W are multiples of 32, {side} at best",
        mean=list(checkpoint.mean),
        std=list(checkpoint.std),
        file=results[0].file,
        dtype=_DTYPES[results[0].precision],
        labels=", ".join(f"{label.id} {label.title}" for label in LABELS),
        version=__version__,
    )


_DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}  # as Transformers.js calls them
_CARD = """\
---
license: other
library_name: transformers.js
pipeline_tag: image-segmentation
tags: [face-parsing, onnx]
---
# {name}, for ONNX Runtime and Transformers.js

Face parsing: the 19 labels of CelebAMask-HQ for every pixel. {kind}, exported with faceparse {version}.
Licence: {licence}.

| file | size | numbers | labels as before |
| --- | --- | --- | --- |
{rows}

The last column is the share of pixels that have the label that the network has in PyTorch, float32; checked on
{scope}.

Input `pixel_values`, float32 [B, 3, H, W]: RGB in 0..1, less the mean {mean}, divided by the deviation {std};
{lengths}. Output `logits`, float32 [B, 19, H/4, W/4]. Upsample the logits (bilinear, half-pixel centres) before
you take the largest: the other way round draws other borders.

In a browser or Node:

```js
import {{ pipeline }} from "@huggingface/transformers";

const parse = await pipeline("image-segmentation", "THIS_FOLDER", {{ dtype: "{dtype}" }});
const parts = await parse("portrait.jpg"); // [{{ label: "hair", mask: RawImage }}, …]
```

In Python, with faceparse: `FaceParser("THIS_FOLDER").parse("portrait.jpg").labels`. With ONNX Runtime alone:

```python
import numpy as np
import onnxruntime
from PIL import Image

picture = Image.open("portrait.jpg").convert("RGB")
small = np.asarray(picture.resize(({side}, {side}), Image.BILINEAR), np.float32) / 255
pixels = (small - np.float32({mean})) / np.float32({std})
session = onnxruntime.InferenceSession("{file}")
(logits,) = session.run(["logits"], {{"pixel_values": pixels.transpose(2, 0, 1)[None]}})
maps = [np.asarray(Image.fromarray(one).resize(picture.size, Image.BILINEAR)) for one in logits[0]]
labels = np.argmax(maps, axis=0)
```

Labels (left and right are the subject's): {labels}.
"""
