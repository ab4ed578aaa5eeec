"""Networks: tensors in, tensors out. They know nothing of files, devices or users; ``checkpoints`` fills them."""
