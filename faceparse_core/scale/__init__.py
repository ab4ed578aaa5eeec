"""Parsing for many: the endpoint that answers over HTTP, and folders, lists and datasets of any size.

Nothing in here is imported unless somebody asks for it, for it stands on packages that only its extras bring.
"""

__all__: list[str] = []
