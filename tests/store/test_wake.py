"""Hints: they wake who waits in other processes, over PostgreSQL and over a broker, and nothing depends on them."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import redis
from sqlalchemy.engine import make_url

from orchestra.cli import _watch
from orchestra.client.backend import DatabaseBackend
from orchestra.handles import FlowRunHandle
from orchestra.serializers import encode
from orchestra.states import StateType
from orchestra.store import claims, runs, wake, wake_channels
from orchestra.store.database import Database, create_schema
from orchestra.store.journal import Ending
from orchestra.store.wake import RUN, SLOT, STEP, Bell, WakeChannel
from orchestra.store.wake_channels import Deaf, Ears
from tests import servers
from tests.helpers import wait_until
from tests.proxy import PoolerProxy

#: Long enough that only a hint can have ended a wait.
LONG = 60.0


@pytest.fixture(params=["postgres", "redis"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database whose hints travel on PostgreSQL, or on a broker."""
    if request.param == "postgres":
        server: servers.Postgres = request.getfixturevalue("postgres")
        name = server.create(template=request.getfixturevalue("postgres_template"))
        yield server.url(name)
        wait_until(lambda: not hint_threads(), "the threads of hints to end", 5)
        wait_until(lambda: server.connections(name) == 0, "every connection of hints to be closed", 5)
        server.drop(name)
        return
    broker: servers.Broker = request.getfixturevalue("broker")
    wake_channels.use_broker(broker.client)
    yield f"sqlite:///{os.environ['ORCHESTRA_HOME']}.db"
    wake_channels.use_broker(None)
    wait_until(lambda: not hint_threads(), "the threads of hints to end", 5)
    wait_until(lambda: subscribers(broker) == 0, "every subscription to be ended", 5)


def subscribers(broker: servers.Broker) -> int:
    """How many connections to the broker subscribe to something."""
    if not broker.running:
        return 0
    with broker.client() as client:
        return sum(int(each["sub"]) > 0 for each in client.client_list())


@pytest.fixture
def ours(url: str) -> Iterator[Database]:
    """The database of this process."""
    yield from opened(url)


@pytest.fixture
def theirs(url: str) -> Iterator[Database]:
    """The same database, as another process has it."""
    yield from opened(url)


def opened(url: str) -> Iterator[Database]:
    """A database that is closed in the end."""
    found = Database(url)
    yield found
    found.close()


def hint_threads() -> list[str]:
    """The names of threads that send or hear hints."""
    return [each.name for each in threading.enumerate() if each.name in ("orchestra-hints", "orchestra-wake")]


def hearing(bell: Bell) -> Bell:
    """The bell, once hints are heard."""
    wait_until(lambda: bell.is_live, "hints to be heard")
    bell.wait(0, 0)
    return bell


def waits_for(bell: Bell) -> threading.Thread:
    """A thread that ends when the bell rings."""
    thread = threading.Thread(target=lambda: bell.wait(LONG, LONG), daemon=True)
    thread.start()
    return thread


def has_rung(thread: threading.Thread, seconds: float = 10.0) -> bool:
    """Whether the bell rings within some time."""
    thread.join(seconds)
    return not thread.is_alive()


@pytest.mark.services
def test_a_hint_wakes_who_waits_elsewhere(ours: Database, theirs: Database) -> None:
    """Long before the waiter would have looked by itself."""
    with ours.wake.bell((RUN, "a")) as bell:
        waiting = waits_for(hearing(bell))
        theirs.wake.tell([(RUN, "b"), (STEP, "a"), (RUN, "a")])
        assert has_rung(waiting)


@pytest.mark.services
def test_who_watches_a_run_on_the_command_line_is_told_of_its_end(
    ours: Database, theirs: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flow-run watch` and `logs --follow` look when something changes, and seldom in between."""
    monkeypatch.setattr(_watch, "_LOOKS", (LONG, LONG))
    monkeypatch.setattr(_watch, "_SELDOM", LONG)
    create_schema(theirs)
    new = runs.NewRun(flow_name="etl", path="proj:etl", name="a-run", parameters=encode({}), queue="etl")
    runs.create(theirs, new)
    claimed = claims.claim_run(theirs, new.id)
    assert claimed is not None
    looks: list[bool] = []
    watching = threading.Thread(
        target=lambda: looks.extend(_watch.until_final(DatabaseBackend(ours), new.id)), daemon=True
    )
    watching.start()

    with ours.wake.bell((RUN, "another"), (STEP, "another")) as bell:
        hearing(bell)
        ending = Ending(StateType.COMPLETED, "Completed", result=encode(1))
        runs.finish(theirs, claimed.claim, ending, [], window=lambda queue: 16)
        assert has_rung(watching)
    assert looks[-1] is True
    assert len(looks) < 10


@pytest.mark.services
def test_hints_of_other_things_wake_nobody(ours: Database, theirs: Database) -> None:
    """Neither those of another id nor those of another kind."""
    with ours.wake.bell((RUN, "a")) as bell, ours.wake.bell((RUN, "b"), (STEP, "b")) as other:
        hearing(other)
        waiting = waits_for(hearing(bell))
        theirs.wake.tell([(RUN, "b"), (STEP, "a")])
        assert has_rung(waits_for(other))
        assert not has_rung(waiting, 0.2)
        theirs.wake.tell([(RUN, "a")])
        assert has_rung(waiting)


@pytest.mark.services
def test_more_hints_than_a_message_holds_wake_everybody(ours: Database, theirs: Database) -> None:
    """It says "any of them", in place of ten thousand ids."""
    with ours.wake.bell((RUN, "the last")) as bell:
        waiting = waits_for(hearing(bell))
        theirs.wake.tell([(RUN, f"{number:036}") for number in range(10_000)])
        assert has_rung(waiting)


@pytest.mark.services
def test_a_rolled_back_transaction_gives_no_hint(ours: Database, theirs: Database) -> None:
    """What was not committed is nothing to look at; what is noted with a commit is told after it."""

    def fail(connection: Any) -> None:
        wake.note(connection, RUN, "a")
        raise RuntimeError

    with ours.wake.bell((RUN, "a"), (SLOT, "a")) as bell:
        waiting = waits_for(hearing(bell))
        with pytest.raises(RuntimeError):
            theirs.write(fail)
        assert not has_rung(waiting, 0.2)
        theirs.write(lambda connection: wake.note(connection, SLOT, "a"))
        assert has_rung(waiting)


@pytest.mark.services
@pytest.mark.slow
def test_a_channel_whose_server_restarts_is_heard_again(
    request: pytest.FixtureRequest, url: str, ours: Database, theirs: Database
) -> None:
    """Meanwhile who waits is told that hints are not heard, and looks often."""
    with ours.wake.bell((RUN, "a")) as bell:
        waiting = waits_for(hearing(bell))
        if url.startswith("sqlite"):
            broker: servers.Broker = request.getfixturevalue("broker")
            broker.kill()
            assert has_rung(waiting)
            assert not bell.is_live
            broker.start()
        else:
            server: servers.Postgres = request.getfixturevalue("postgres")
            server.terminate_backends(str(make_url(url).database))
            assert has_rung(waiting)
        waiting = waits_for(hearing(bell))

        def rings() -> bool:
            theirs.wake.tell([(RUN, "a")])
            return has_rung(waiting, 0.1)

        wait_until(rings, "a hint to arrive again")


@pytest.mark.services
def test_nobody_waits_and_nothing_listens(ours: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection and the thread end soon after the last who waited."""
    monkeypatch.setattr(wake, "_IDLE", 0.1)
    with ours.wake.bell((RUN, "a")) as bell:
        hearing(bell)
        assert "orchestra-wake" in hint_threads()
    wait_until(lambda: not hint_threads(), "both threads to end")
    with ours.wake.bell((RUN, "a")) as bell:
        hearing(bell)


@pytest.mark.services
class Slow:
    """A channel that sends when it is let; notes what happened to it."""

    def __init__(self) -> None:
        self.begun, self.let, self.story = threading.Event(), threading.Event(), list[str]()

    def send(self, texts: Mapping[str, str]) -> None:
        """Wait until it is let."""
        self.begun.set()
        assert self.let.wait(20)
        self.story.append("sent")

    def open(self) -> contextlib.AbstractContextManager[Ears]:
        """Nothing is heard."""
        raise Deaf("by no means")

    def close(self) -> None:
        """Note it."""
        self.story.append("closed")


def test_who_closes_waits_for_hints_that_are_under_way() -> None:
    """Else the connection that they travel on would be given back to a pool that is gone, and stay open."""
    slow = Slow()
    channel = WakeChannel(lambda: slow)
    channel.tell([(RUN, "a")])
    assert slow.begun.wait(20)
    closing = threading.Thread(target=channel.close)
    closing.start()
    # Longer than the last hints of a process that ends are waited for.
    closing.join(1.0)
    slow.let.set()
    closing.join(20)
    assert slow.story == ["sent", "closed"]


def test_a_forked_child_tells_by_its_own_connection(ours: Database) -> None:
    """And the parent goes on hearing by its own."""
    with ours.wake.bell((RUN, "a")) as bell:
        waiting = waits_for(hearing(bell))
        if (child := os.fork()) == 0:
            try:
                ours.abandon()
                ours.wake.tell([(RUN, "a")])
                ours.wake.flush()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert has_rung(waiting)


#: A script that waits, and ends while its process still listens; what is registered first is called last.
_SCRIPT = """
import atexit, threading

atexit.register(lambda: print([each.name for each in threading.enumerate()]))
from orchestra.store.database import database

bell = database().wake.bell(("run", "a"))
while not bell.is_live:
    bell.wait(0.05, 0.05)
bell.close()
"""


@pytest.mark.services
def test_a_process_that_ends_closes_the_connection_by_which_it_hears(
    postgres: servers.Postgres, postgres_template: str
) -> None:
    """It is not left to the end of the interpreter, which would only drop it."""
    name = postgres.create(template=postgres_template)
    env = {**os.environ, "ORCHESTRA_DATABASE_URL": postgres.url(name)}
    command = [sys.executable, "-X", "dev", "-c", _SCRIPT]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LONG)

    assert "orchestra-wake" not in ended.stdout
    assert "MainThread" in ended.stdout
    assert "ResourceWarning" not in ended.stderr
    postgres.drop(name)


@pytest.mark.services
def test_a_run_ends_for_who_waits_though_its_hint_was_lost(
    request: pytest.FixtureRequest, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits looks by itself within two seconds."""
    from tests.conftest import forget

    monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
    forget()
    if url.startswith("sqlite"):
        wake_channels.use_broker(request.getfixturevalue("broker").client)
    from orchestra.store.database import database

    new = runs.NewRun(flow_name="etl", path="proj:etl", name="a-run", parameters=encode({}), queue="etl")
    runs.create(database(), new)
    claimed = claims.claim_run(database(), new.id)
    assert claimed is not None
    found: list[StateType] = []
    thread = threading.Thread(target=lambda: found.append(FlowRunHandle(new.id).wait(LONG).type), daemon=True)
    thread.start()
    with database().wake.bell((RUN, "another")) as bell:
        hearing(bell)
        silent = Database(url)
        monkeypatch.setattr(silent.wake, "tell", lambda hints: None)
        ending = Ending(StateType.COMPLETED, "Completed", result=encode(1))
        runs.finish(silent, claimed.claim, ending, [], window=lambda queue: 16)
        silent.close()
        thread.join(3 * wake.BACKSTOP)
    assert found == [StateType.COMPLETED]
    forget()


def test_where_there_is_no_channel_nothing_starts(home: Any) -> None:
    """A script on SQLite alone: no thread and no connection, and who waits looks often."""
    alone = Database(f"sqlite:///{home}.db")
    alone.write(lambda connection: wake.note(connection, RUN, "a"))
    with alone.wake.bell((RUN, "a")) as bell:
        assert not bell.is_live
        bell.wait(0.001, LONG)
        assert hint_threads() == []
    alone.close()


@pytest.mark.services
def test_behind_a_pooler_nobody_listens(
    postgres: servers.Postgres, postgres_template: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PgBouncer would hand the connection that listens to others: it is told once, and who waits looks often."""
    name = postgres.create(template=postgres_template)
    url = make_url(postgres.url(name))
    proxy = PoolerProxy(url.port or 5432)
    pooled = Database(url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False))
    with caplog.at_level(logging.INFO, "orchestra.store"), pooled.wake.bell((RUN, "a")) as bell:
        wait_until(lambda: "pooler" in caplog.text, "it to be told")
        assert not bell.is_live
    pooled.close()
    proxy.close()
    wait_until(lambda: postgres.connections(name) == 0, "the connections to be closed", 5)
    postgres.drop(name)


@pytest.mark.services
def test_a_broker_that_is_away_costs_no_work(broker: servers.Broker, home: Any) -> None:
    """Writing goes on at once; the hint is lost."""
    broker.kill()
    wake_channels.use_broker(lambda: redis.Redis(port=broker.port))
    alone = Database(f"sqlite:///{home}.db")
    alone.write(lambda connection: wake.note(connection, RUN, "a"))
    with alone.wake.bell((RUN, "a")) as bell:
        bell.wait(0.001, LONG)
        assert not bell.is_live
    wake_channels.use_broker(None)
    alone.close()
