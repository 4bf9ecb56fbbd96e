"""`orchestra events`: events are listed, followed and told on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestra import get_client
from orchestra.cli import cli
from orchestra.store import behind, events, work_pools
from orchestra.store.database import database
from tests.helpers import wait_until


def call(*words: str) -> Any:
    """What a command gives."""
    return CliRunner().invoke(cli, ["events", *words])


def names(*words: str) -> list[str]:
    """The names of the events that `ls` lists."""
    return [event["event"] for event in json.loads(call("ls", *words, "-o", "json").stdout)]


@pytest.fixture
def told() -> None:
    """Some events."""
    work_pools.create(database(), "gpu", "process")
    for name in ("order.created", "order.shipped"):
        call("emit", name, "--resource-id", "order.1")
    behind.flush()


def test_an_event_is_told_and_listed(told: None) -> None:
    """Its id is printed; what it happened to may be given in several ways."""
    given = (
        "-r",
        "order.2",
        "-r",
        "customer=7",
        "--related",
        '{"prefect.resource.id": "a", "prefect.resource.role": "b"}',
    )
    made = call("emit", "order.paid", *given, "--payload", '{"parts": 2}')

    (event,) = json.loads(call("ls", "--resource", "order.2", "-o", "json").stdout)
    assert event["id"] == made.stdout.strip()
    assert event["resource"] == {"orchestra.resource.id": "order.2", "customer": "7"}
    assert event["related"] == [{"orchestra.resource.id": "a", "orchestra.resource.role": "b"}]
    assert event["payload"] == {"parts": 2}


def test_events_are_listed_by_what_is_asked_of_them(told: None) -> None:
    """The newest first, page by page; `event` is the same as `events`."""
    assert names() == ["order.shipped", "order.created", "orchestra.work-pool.created"]
    assert names("--event", "order.*") == ["order.shipped", "order.created"]
    assert names("--resource", "orchestra.work-pool.*") == ["orchestra.work-pool.created"]
    assert names("--since", "2000-01-01", "--until", "1h") == []
    first = call("ls", "--limit", "2")
    assert names("--after", first.stderr.split()[-1]) == ["orchestra.work-pool.created"]
    assert "order.shipped" in CliRunner().invoke(cli, ["event", "ls"]).stdout


def test_the_client_reads_events(told: None) -> None:
    """As `ls` does."""
    with get_client(sync_client=True) as client:
        page = client.read_events(events=["order.*"], limit=1)
        rest = client.read_events(events=["order.*"], after=page.next)

    assert [event.event for event in (*page, *rest)] == ["order.shipped", "order.created"]
    assert rest.next is None


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("emit", "order.created"), "--resource-id"),
        (("emit", "", "--resource-id", "x"), "at least 1 character"),
        (("emit", "x", "--resource-id", "x", "--payload", "["), "--payload"),
        (("emit", "x", "--resource-id", "x", "--payload", "[]"), "must be a JSON object"),
        (("ls", "--since", "soon"), "is no time"),
        (("ls", "--after", "x"), "is no cursor"),
        (("stream", "--output-file", "/none/such", "--run-once"), "/none/such"),
    ],
)
def test_what_cannot_be_done_is_said(words: tuple[str, ...], what: str) -> None:
    """In one sentence, with an exit code that is not 0."""
    done = call(*words)

    assert done.exit_code != 0
    assert what in done.stderr


def test_a_stream_ends_after_one_event_if_asked(tmp_path: Path, told: None) -> None:
    """Into a file, if asked."""
    file = tmp_path / "events.jsonl"

    assert call("stream", "--run-once", "--since", "1h", "--output", "json", "--output-file", str(file)).exit_code == 0
    assert json.loads(file.read_text())["event"] == "orchestra.work-pool.created"
    assert "order.created" in call("stream", "--run-once", "--since", "1h", "-e", "order.*").stdout


@pytest.mark.slow
def test_a_stream_shows_events_as_they_come_until_it_is_interrupted(home: Path) -> None:
    """Ctrl-C is no failure."""
    command = [sys.executable, "-m", "orchestra", "events", "stream", "--format", "json", "--since", "1m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy()) as stream:
        assert stream.stdout is not None
        os.set_blocking(stream.stdout.fileno(), False)
        row = events.new("order.created", {events.ID: "order.1"})
        database().write(lambda connection: events.record(connection, row))
        shown = wait_until(lambda: stream.stdout.read(), "an event", 20)
        stream.send_signal(signal.SIGINT)
        assert stream.wait(10) == 0
        assert stream.stderr is not None
        assert stream.stderr.read() == b""

    assert json.loads(shown)["event"] == "order.created"
