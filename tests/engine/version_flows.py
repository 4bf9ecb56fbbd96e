"""Flows that are pinned to a version of their code; `code["version"]` says which one there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from orchestra import flow, task

#: What the bodies did, in order.
effects: list[str] = []


@task
def do(what):
    effects.append(what)
    return what


@flow(version="1")
def pinned():
    do("begin")
    futures = do.map(["left", "right"])
    return [future.result() for future in futures]


@flow
def free():
    do("begin")
    return do.submit("work").result()


@contextmanager
def deployed(made, version: str | None) -> Iterator[None]:
    """As if the worker's code of a flow were of another version."""
    before = made.spec
    made._spec = replace(before, version=version)
    try:
        yield
    finally:
        made._spec = before
