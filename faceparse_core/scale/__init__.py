"""Parsing for many: the endpoint that answers over HTTP, and folders, lists and datasets of any size.

``server`` is the endpoint (extra ``serve``): ``asking`` and ``answers`` are what goes in and out, ``guard`` stands
before, ``desk`` puts the pictures of many callers into shared batches, ``editing`` is what may be changed. ``batch``
(extra ``batch``) makes ``shards`` of ``sources``, by processes or, in ``cluster``, by Ray; ``parse_dataset`` is for a
Ray Dataset of one's own. Nothing that stands on an extra is imported unless somebody asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faceparse_core.scale.cluster import parse_dataset

__all__ = ["answers", "asking", "batch", "cluster", "parse_dataset", "server", "shards"]


def __getattr__(name: str):
    if name != "parse_dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from faceparse_core.scale.cluster import parse_dataset

    return parse_dataset
