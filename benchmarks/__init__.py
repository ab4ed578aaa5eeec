"""What this project claims, as commands that anyone can run.

``python -m benchmarks``: speed and memory against the published pipeline. ``python -m benchmarks.fit DATA``: pictures
that are not square. ``python -m benchmarks.masks DATA``: distances, holes, refined edges. ``python -m
benchmarks.nodes``: what the ComfyUI nodes cost. ``python -m benchmarks.onnx DATA``: exports to ONNX.
"""
