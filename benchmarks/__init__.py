"""What this project claims, as commands that anyone can run.

``python -m benchmarks.engine``: time, memory, import. ``python -m benchmarks.fit DATA``: pictures that are not square.
"""
