"""The server: the REST API under `/api`, and the admin view beside it. It never imports users' code.

`create_app()` gives the ASGI application; `orchestra server start` runs it.
"""

from __future__ import annotations

from orchestra.server.app import create_app

__all__ = ["create_app"]
