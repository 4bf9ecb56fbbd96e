"""A pytest plugin for Celery's own tests: every app that they make has orchestra installed."""

from __future__ import annotations

from typing import Any

from celery import Celery

import orchestra.celery

_plain = Celery.on_init


def _on_init(self: Any) -> None:
    """Called by Celery at the end of `Celery.__init__`."""
    _plain(self)
    orchestra.celery.install(self)


# Here alone, in somebody else's tests, a method is put in another's place: there is no other way to reach every app.
Celery.on_init = _on_init
