"""Training and measuring networks. Development tools: the engine never imports them, only their commands do.

A file a subject; the command line uses ``train`` and ``evaluate``, benchmarks also ``data`` and ``metrics``.
"""

__all__ = ["data", "evaluate", "metrics", "train"]
