"""A module that a worker cannot import and live: as one whose compiled part crashes the process."""

from __future__ import annotations

import os

from orchestra import flow, task

if "TEST_IMPORT_IS_DEADLY" in os.environ:
    os._exit(139)


@task
def one() -> int:
    """One."""
    return 1


@flow
def lives() -> int:
    """One, from a direct call."""
    return one()
