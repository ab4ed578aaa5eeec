"""Training and measuring networks. Development tools: the engine never imports them, only their commands do.

A file a subject. The command line uses ``train``, ``evaluate`` and ``datasets``, benchmarks also ``covers``, ``data``
and ``metrics``. Data go from ``data`` (folders, batches) through ``painting`` (a picture), ``covers`` (what lies before
a face) and ``wear`` (what happens to it) to ``train`` and its ``losses``; those of the network that finds faces from
``photos`` (folders) through ``scenes`` (pictures, batches) to ``finder``. ``running`` is what all trainings do alike.
"""

__all__ = ["covers", "data", "datasets", "evaluate", "finder", "metrics", "photos", "train"]
