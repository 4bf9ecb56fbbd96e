"""The wrappers around arguments under the module name that Prefect users know; they live in `orchestra.annotations`."""

from __future__ import annotations

from orchestra.annotations import *  # noqa: F403 - the wrappers, and nothing else
