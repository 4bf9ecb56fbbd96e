"""The server: the REST API under `/api`, and the admin view beside it. It never imports users' code.

`create_app()` gives the ASGI application; `orchestra server start` runs it.
"""

from __future__ import annotations

from typing import Any

from orchestra import lazy

__all__ = ["create_app"]


def create_app(**options: Any) -> Any:
    """The ASGI application; as `orchestra.server.app.create_app`, which is loaded now and not before."""
    return lazy.resolve("orchestra.server.app:create_app")(**options)
