"""What is done with masks: a picture and masks of it in, the picture with something changed out.

Everything outside the mask of an edit stays as it is, to the bit. Edits know tensors, labels and faces, and nothing of
the network that told them.
"""

__all__: list[str] = []
