"""Flows whose results are files of a storage that is told them."""

from __future__ import annotations

from orchestra import flow, task
from tests.crash import ledger


@task
def make(n: int) -> bytes:
    """That many bytes."""
    with ledger.entry():
        return b"x" * n


@task
def size(value: bytes) -> int:
    """How many bytes there are."""
    with ledger.entry():
        return len(value)


@flow
def sizes(storage: str, n: int) -> list[int]:
    """A result of a direct call and one of a submitted call, both read by other tasks."""
    kept = make.with_options(result_storage=storage)
    direct = kept(n)
    submitted = kept.submit(n + 1)
    return [size(direct), size.submit(submitted).result(), len(submitted.result())]
