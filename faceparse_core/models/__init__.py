"""Networks: tensors in, tensors out. They know nothing of files, devices or users; ``checkpoints`` fills them.

A file a network, and what quickens them: ``packed`` on processors, ``cuda_graphs`` on GPUs. Others use the modules that
are named here.
"""

__all__ = [
    "LARGEST_SIDE",
    "MEAN",
    "STD",
    "cuda_graphs",
    "finder",
    "hair",
    "hub",
    "lite",
    "onnx",
    "segformer",
    "segformer_layers",
    "segformer_names",
]

LARGEST_SIDE = 4096
"""No network is given pictures with a longer side."""

# Of the pixels of ImageNet in 0..1, red, green, blue: what our networks want them normalised with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
