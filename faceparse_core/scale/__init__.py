"""Parsing for many: the endpoint that answers over HTTP, and folders, lists and datasets of any size.

``server`` is the endpoint (extra ``serve``): ``asking`` and ``answers`` are what goes in and out, ``guard`` stands
before, ``desk`` puts the pictures of many callers into shared batches. Nothing in here that stands on an extra is
imported unless somebody asks for it.
"""

__all__ = ["answers", "asking", "server"]
