"""All operations that an application has, whichever routers they are in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any


def operations(app: Any) -> set[tuple[str, str]]:
    """Each as (method, path), with "x" for every parameter of the path."""
    found = set(_walked(app.routes, ""))
    # The walk knows how FastAPI nests routers: what its own document names must be among what was found.
    named = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert named <= found
    return {(method, re.sub(r"\{[^}]*\}", "x", path)) for method, path in found}


def _walked(routes: Any, before: str) -> Iterator[tuple[str, str]]:
    for route in routes:
        if included := getattr(route, "original_router", None):
            yield from _walked(included.routes, before + route.include_context.prefix)
        elif methods := getattr(route, "methods", None):
            # OpenAPI's form of a path has no `:path`.
            yield from ((method, before + route.path_format) for method in methods)
