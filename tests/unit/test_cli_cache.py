"""`orchestra cache`: what is kept for later calls is listed and cleared."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from orchestra.cli import cli
from orchestra.store import cache
from orchestra.store.cache import Keeping, NewEntry
from orchestra.store.database import database
from orchestra.store.tables import cache_entries


def call(*words: str) -> Any:
    """What a command gives."""
    return CliRunner().invoke(cli, ["cache", *words])


@pytest.fixture(autouse=True)
def kept() -> None:
    """Three entries, one of which has expired."""
    for key, task, expires in (("a" * 64, "load", None), ("b" * 64, "load", 3600.0), ("c" * 64, "clean", 3600.0)):
        cache.keep(database(), Keeping(NewEntry(key, f"day-{key[0]}", f"shop:{task}", task, expires_in=expires)), b"j1")
    over = sa.update(cache_entries).where(cache_entries.c.task_name == "clean").values(expires_at=1.0)
    database().write(lambda connection: connection.execute(over).rowcount)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "cba"),
        (("--task", "load"), "ba"),
        (("--task", "shop:clean"), "c"),
        (("--key", "day-a"), "a"),
        (("--key", "bbb"), "b"),
        (("--expired",), "c"),
        (("--older-than", "1h"), ""),
        (("--limit", "1"), "c"),
    ],
)
def test_entries_are_listed_by_what_is_asked_of_them(words: tuple[str, ...], found: str) -> None:
    """The newest first."""
    listed = json.loads(call("ls", *words, "-o", "json").stdout)

    assert [entry["key"][0] for entry in listed] == list(found)


def test_entries_are_cleared_by_the_same_filters() -> None:
    """And all of them only where that is confirmed."""
    assert "1 cached result deleted" in call("clear", "--expired").output
    assert "1 cached result deleted" in call("clear", "--key", "day-a").output
    assert call("clear").exit_code != 0
    assert "1 cached result deleted" in call("clear", "--yes").output


def test_an_age_that_is_none_is_refused() -> None:
    """With an example."""
    told = call("ls", "--older-than", "soon")

    assert told.exit_code == 2
    assert "'soon' is no length of time" in told.output
