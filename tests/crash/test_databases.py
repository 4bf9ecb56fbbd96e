"""The database restarts, drops its clients, or answers a COMMIT with silence: nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.crash.conftest import LEASE, Arena
from tests.helpers import session_members, wait_until
from tests.proxy import LossyProxy

pytestmark = pytest.mark.services

postgres_only = pytest.mark.parametrize("standing_arena", ["postgres"], indirect=True)
sqlite_only = pytest.mark.parametrize("standing_arena", ["sqlite"], indirect=True)


def restart(arena: Arena) -> None:
    """Stop the server at once, as by a crash, and start it again."""
    arena.postgres.restart()


def terminate(arena: Arena) -> None:
    """End every connection, three times in a row."""
    name = arena.database_url.rpartition("/")[2]
    for _ in range(3):
        assert arena.postgres.terminate_backends(name) > 0
        wait_until(lambda: arena.postgres.connections(name), "clients to come back")


@postgres_only
@pytest.mark.parametrize("fault", [restart, terminate])
def test_flows_of_every_shape_survive_a_fault_of_postgresql(arena: Arena, every_shape: Any, fault: Any) -> None:
    """Everything pauses and goes on; no run fails because of it."""
    runs = every_shape()
    wait_until(lambda: len(arena.lines(*runs.ids)) > 15, "the runs to be under way")

    fault(arena)

    runs.check()


@postgres_only
def test_a_database_away_for_longer_than_the_lease_expires_nobody(arena: Arena, every_shape: Any) -> None:
    """When it is back, those who could not renew are given a lease's time to do so."""
    runs = every_shape()
    wait_until(lambda: len(arena.lines(*runs.ids)) > 15, "the runs to be under way")

    arena.postgres.halt(signal.SIGINT)
    gone_at = time.monotonic()
    wait_until(lambda: time.monotonic() - gone_at > LEASE + 1, "the lease to be over", LEASE + 5)
    arena.postgres.start()

    runs.check()
    assert runs.restarts() == []


@postgres_only
def test_nothing_of_a_worker_is_left_when_it_dies_while_the_database_is_away(arena: Arena) -> None:
    """Its sweeper's process waits for the database, and nobody is there to end it."""
    worker = arena.start_worker().wait_ready()
    arena.postgres.halt()
    try:
        os.kill(worker.pid, signal.SIGKILL)
        worker.popen.wait(10)
        wait_until(lambda: not session_members(worker.pid), "all of the worker to end", 30)
    finally:
        arena.postgres.start()


@pytest.fixture
def proxied(arena: Arena) -> Iterator[LossyProxy]:
    """Two workers that reach PostgreSQL through a proxy which can lose answers."""
    arena.ensure(workers=0)
    proxy = LossyProxy(arena.postgres.port)
    through = arena.database_url.replace(f":{arena.postgres.port}/", f":{proxy.port}/")
    for worker in [arena.start_worker(ORCHESTRA_DATABASE_URL=through) for _ in range(2)]:
        worker.wait_ready()
    yield proxy
    arena.ensure(workers=0)
    proxy.close()


@postgres_only
def test_a_commit_whose_answer_was_lost_counts_once(arena: Arena, every_shape: Any, proxied: LossyProxy) -> None:
    """The transaction is tried again, and recognises what it has already done."""
    runs = every_shape()
    for seen in range(0, 40, 4):
        wait_until(lambda seen=seen: len(arena.lines(*runs.ids)) > seen, f"over {seen} lines in the ledger")
        proxied.lose(2)

    runs.check()
    assert proxied.lost >= 10
    assert runs.restarts() == []
    assert not any("taken over" in worker.log() for worker in arena.workers)


@sqlite_only
def test_a_file_locked_by_another_process_is_waited_for(arena: Arena, every_shape: Any) -> None:
    """Somebody holds an exclusive transaction for as long as a lease; nothing fails."""
    runs = every_shape()
    wait_until(lambda: len(arena.lines(*runs.ids)) > 15, "the runs to be under way")

    with closing(sqlite3.connect(arena.database_url.removeprefix("sqlite:///"), timeout=10)) as other:
        other.execute("BEGIN EXCLUSIVE")
        locked_at = time.monotonic()
        wait_until(lambda: time.monotonic() - locked_at > LEASE, "the lease to be over")
        other.rollback()

    runs.check()
