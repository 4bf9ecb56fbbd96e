"""The errors under the module name that Prefect users know; they live in `orchestra.errors`."""

from __future__ import annotations

from orchestra import errors
from orchestra.errors import *  # noqa: F403 - the whole tree, and nothing else

__all__ = sorted(
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, (errors.OrchestraError, errors.Signal))
)
