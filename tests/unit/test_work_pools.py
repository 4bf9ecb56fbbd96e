"""What a work pool can be told of how its runs are carried out, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra import sizes
from orchestra import work_pools as types
from orchestra.errors import ConfigurationError
from orchestra.work_pools import ProcessPool


def job(**variables: Any) -> dict[str, Any]:
    """The job of a run in a pool of type process."""
    return types.job_of(ProcessPool.base_job_template(), variables)


def check(**variables: Any) -> None:
    """Set these variables for a deployment to such a pool."""
    types.check_job("process", ProcessPool.base_job_template(), variables, "deployment 'etl/nightly'")


@pytest.mark.parametrize(
    ("variables", "apart"),
    [
        ({}, False),
        ({"isolation": "worker"}, False),
        ({"isolation": "subprocess"}, True),
        ({"env": {"A": "1"}}, True),
        ({"memory_limit": "1GiB"}, True),
        ({"grace_seconds": 3}, False),
    ],
)
def test_a_run_has_a_process_of_its_own_where_it_needs_one(variables: dict[str, Any], apart: bool) -> None:
    """Where it is said, or where something is set that only such a process can have."""
    check(**variables)

    assert ProcessPool.in_subprocess(job(**variables)) is apart


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"isolation": "worker", "env": {"A": "1"}, "timeout_seconds": 5}, "env, timeout_seconds can be set for"),
        ({"isolation": "container"}, "'isolation'"),
        ({"memory_limit": "much"}, "'memory_limit'"),
        ({"memory_limit": 0}, "'memory_limit'"),
        ({"timeout_seconds": 0}, "'timeout_seconds'"),
        ({"env": {"A": 1}}, "'env.A'"),
        ({"memory": "1GiB"}, "'memory'"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_set(variables: dict[str, Any], told: str) -> None:
    """By name, before there is a run."""
    with pytest.raises(ConfigurationError, match=told):
        check(**variables)


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (512, 512),
        ("512", 512),
        ("512B", 512),
        ("512MiB", 512 * 2**20),
        ("1.5 GiB", 1536 * 2**20),
        ("2kB", 2000),
        ("64m", 64 * 2**20),
        ("1Ki", 1024),
    ],
)
def test_sizes_are_read_as_people_write_them(written: int | str, count: int) -> None:
    """Thousands, 1024s, and Docker's letters."""
    assert sizes.parse(written) == count


@pytest.mark.parametrize("written", ["", "much", "-1", "1 parsec", "MiB", "1.MiB"])
def test_what_is_no_size_is_refused(written: str) -> None:
    """With an example of one."""
    with pytest.raises(ConfigurationError, match="512MiB"):
        sizes.parse(written)
