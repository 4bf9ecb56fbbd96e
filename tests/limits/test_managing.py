"""Limits from the command line, from Python and by the client; on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestra import get_client
from orchestra.cli import cli
from orchestra.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from orchestra.concurrency.limits import create_limit, delete_limit, list_limits, read_holders, read_limit, update_limit
from orchestra.concurrency.sync import concurrency, rate_limit
from orchestra.errors import ConfigurationError, Conflict, LimitNotFound
from orchestra.store.database import Database
from tests.store.test_slots import acquire, process, taken

pytestmark = pytest.mark.usefixtures("database")


def gcl(*args: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, ["gcl", *args], catch_exceptions=False)


def shown(*args: str) -> Any:
    """What it prints as JSON."""
    result = gcl(*args, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_limit_is_made_changed_and_deleted_by_the_command_line() -> None:
    """Under both names of the noun."""
    assert CliRunner().invoke(cli, ["global-concurrency-limit", "create", "db", "--limit", "3"]).exit_code == 0
    assert gcl("create", "api", "-l", "5", "--slot-decay-per-second", "0.5", "--disable").exit_code == 0
    found = {each["name"]: each for each in shown("ls")}
    assert (found["db"]["limit"], found["db"]["active"]) == (3, True)
    assert (found["api"]["slot_decay_per_second"], found["api"]["active"]) == (0.5, False)

    assert gcl("update", "db", "--limit", "4").exit_code == 0
    assert [gcl(verb, "db").exit_code for verb in ("disable", "enable")] == [0, 0]
    assert shown("inspect", "db")["limit"] == 4
    assert gcl("delete", "db").exit_code == 0
    assert gcl("inspect", "db").exit_code == 3


def test_inspect_shows_who_has_slots_and_who_waits(database: Database) -> None:
    """In their order, with what a block said of its holder."""
    create_limit("db", 1)
    with concurrency("db", holder={"type": "job", "id": "42"}):
        waits = process()
        assert not acquire(database, waits)
        found = shown("inspect", "db")
        assert [(each["type"], each["id"]) for each in found["holders"]] == [("job", "42")]
        assert [(each["type"], each["id"]) for each in found["waiters"]] == [("process", waits.owner)]
        assert (found["active_slots"], found["waiting"]) == (1, 1)
        text = gcl("inspect", "db").stdout
        assert "HAS SLOTS" in text
        assert "WAITS" in text
        assert "42" in text
        assert "1" in gcl("ls").stdout
    assert [each.has_them for each in read_holders("db")] == [True]


def test_mistakes_are_told_with_what_to_do() -> None:
    """And leave everything as it is."""
    create_limit("db", 1)
    for arguments, code, text in (
        (["create", "db", "--limit", "1"], 4, "update it"),
        (["create", "new"], 2, "--limit N"),
        (["create", "cache:x", "--limit", "1"], 2, "locks"),
        (["create", "", "--limit", "1"], 2, "1 to 255 characters"),
        (["create", "new", "--limit", "-1"], 2, "-1"),
        (["update", "db"], 2, "nothing is to change"),
        (["update", "none", "--limit", "1"], 3, "orchestra gcl create none"),
        (["delete", "none"], 3, "orchestra gcl ls"),
        (["enable", "none"], 3, "no concurrency limit"),
    ):
        result = gcl(*arguments)
        assert (result.exit_code, text in result.stderr) == (code, True), result.stderr
    assert [each.name for each in list_limits()] == ["db"]


def test_limits_are_managed_from_python(database: Database) -> None:
    """Raising one serves those who wait."""
    assert create_limit("db", 1).active_slots == 0
    holders = [process(), process()]
    assert [acquire(database, each) for each in holders] == [True, False]
    assert update_limit("db", limit=2).active_slots == 2
    assert taken(database) == 2
    for error, work in (
        (Conflict, lambda: create_limit("db", 1)),
        (LimitNotFound, lambda: read_limit("none")),
        (ConfigurationError, lambda: update_limit("db")),
        (ConfigurationError, lambda: create_limit("x", -1)),
        (ConfigurationError, lambda: create_limit("x", 1, slot_decay_per_second=-1)),
    ):
        with pytest.raises(error):
            work()
    delete_limit("db")
    assert list_limits() == []


def test_a_rate_limit_shows_what_is_not_free_again() -> None:
    """And keeps that when its rate is changed."""
    create_limit("api", 5, slot_decay_per_second=0.01)
    rate_limit("api", occupy=4)
    assert 3.9 < read_limit("api").active_slots <= 4
    assert 3.9 < update_limit("api", slot_decay_per_second=0.02).active_slots <= 4


def test_the_client_has_prefects_methods() -> None:
    """Plain and awaited."""
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="db", limit=2))
        client.update_global_concurrency_limit("db", GlobalConcurrencyLimitUpdate(limit=3))
        assert client.read_global_concurrency_limit_by_name("db").limit == 3

    async def main() -> None:
        async with get_client() as client:
            assert [each.name for each in await client.read_global_concurrency_limits()] == ["db"]
            await client.delete_global_concurrency_limit_by_name("db")
            assert await client.read_global_concurrency_limits() == []

    asyncio.run(main())
