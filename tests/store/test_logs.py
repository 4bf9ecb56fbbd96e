"""Log lines in the database: what is kept of them, and how they are read and followed."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from orchestra import settings
from orchestra.store import behind, logs
from orchestra.store.database import Database
from tests.store.rows import add_run


def keep(run_id: str, message: str, **options: Any) -> bool:
    """Keep a line, at level INFO unless said otherwise."""
    return logs.keep(run_id, message, **{"level": logging.INFO, "logger": "x", "timestamp": time.time(), **options})


def stored(database: Database, run_id: str, **options: Any) -> list[str]:
    """The messages that are read back."""
    assert behind.flush()
    return [line.message for line in logs.read(database, run_id, **options)]


def test_a_line_comes_back_as_it_was_logged(database: Database) -> None:
    """Level, logger, time and task run are kept beside the message."""
    run_id = add_run(database)

    keep(run_id, "grüße 🦦", level=logging.ERROR, logger="orchestra.task_runs", timestamp=12.125, step_id="step")
    behind.flush()

    (line,) = logs.read(database, run_id)
    assert (line.message, line.level_name, line.logger, line.timestamp, line.step_id) == (
        "grüße 🦦",
        "ERROR",
        "orchestra.task_runs",
        12.125,
        "step",
    )


def test_lines_of_other_runs_are_not_read(database: Database) -> None:
    """Each run has its own lines."""
    one, other = add_run(database), add_run(database)

    keep(one, "mine")
    keep(other, "theirs")

    assert stored(database, one) == ["mine"]


def test_nul_and_lone_surrogates_are_escaped(database: Database) -> None:
    """No text fails, nor does it cost the other lines of its batch."""
    run_id = add_run(database)

    for text in ("before", "a\0b", "\ud800", "\udcff\0", "after"):
        keep(run_id, text)

    assert stored(database, run_id) == ["before", "a\\x00b", "\\ud800", "\\udcff\\x00", "after"]


@pytest.mark.parametrize("text", ["x" * 5000, "ü" * 5000, "🦦" * 5000, "\0" * 5000, "\ud800" * 5000])
def test_a_long_line_is_cut_with_a_mark(text: str) -> None:
    """A line fits the limit in bytes, mark included, whatever is in it."""
    settings.override(log_line_max_bytes=1000)

    cut = logs.fit(text)

    assert cut.endswith("… [truncated]")
    assert 990 <= len(cut.encode()) <= 1000


@pytest.mark.parametrize("text", ["", "x" * 1000, "ü" * 500, "🦦" * 250])
def test_a_line_of_the_longest_length_is_not_cut(text: str) -> None:
    """The limit itself is allowed."""
    settings.override(log_line_max_bytes=1000)

    assert text == logs.fit(text)


def test_a_run_keeps_so_many_lines_and_says_where_it_stopped(database: Database) -> None:
    """Growth is bounded, visibly."""
    settings.override(log_run_max_lines=10)
    run_id = add_run(database)

    kept = [keep(run_id, f"line {number}") for number in range(30)]

    assert kept == [True] * 11 + [False] * 19
    *lines, last = stored(database, run_id)
    assert [f"line {number}" for number in range(10)] == lines
    assert "10 are kept" in last


def test_body_lines_beyond_the_bound_are_not_kept_by_a_later_process(database: Database) -> None:
    """The ordinal tells how many lines other processes have kept."""
    settings.override(log_run_max_lines=10)
    run_id = add_run(database)

    assert keep(run_id, "ninth", line=("body", 9))
    keep(run_id, "tenth", line=("body", 10))

    assert "tenth" not in stored(database, run_id)


def test_pages_follow_each_other(database: Database) -> None:
    """The last id of a page leads to the next."""
    run_id = add_run(database)
    for number in range(7):
        keep(run_id, f"line {number}")
    behind.flush()

    first = logs.read(database, run_id, limit=4)
    second = logs.read(database, run_id, limit=4, after_id=first[-1].id)

    assert [f"line {number}" for number in range(7)] == [line.message for line in first + second]


def test_a_tail_is_the_last_lines_in_order(database: Database) -> None:
    """The end of a log, oldest first."""
    run_id = add_run(database)
    for number in range(7):
        keep(run_id, f"line {number}")

    assert stored(database, run_id, tail=2) == ["line 5", "line 6"]


def test_lines_are_filtered_by_level_and_by_task_run(database: Database) -> None:
    """Only what was asked for."""
    run_id = add_run(database)
    keep(run_id, "flow info")
    keep(run_id, "task info", step_id="one")
    keep(run_id, "task error", step_id="one", level=logging.ERROR)
    keep(run_id, "other error", step_id="two", level=logging.ERROR)

    assert stored(database, run_id, level=logging.WARNING) == ["task error", "other error"]
    assert stored(database, run_id, step_id="one") == ["task info", "task error"]


def test_replay_learns_how_many_lines_of_each_branch_are_written(database: Database) -> None:
    """Up to the highest ordinal, a gap of dropped lines included; task lines do not count."""
    run_id = add_run(database)
    for branch, ordinal in (("body", 0), ("body", 1), ("body", 3), ("body.1", 0)):
        keep(run_id, "line", line=(branch, ordinal))
    keep(run_id, "of a task", step_id="step")
    behind.flush()

    assert database.read(lambda connection: logs.written_lines(connection, run_id)) == {"body": 4, "body.1": 1}
    assert database.read(lambda connection: logs.written_lines(connection, "no such run")) == {}


def test_following_gives_each_line_once(database: Database) -> None:
    """A poll gives what is new since the one before."""
    run_id = add_run(database)
    tail = logs.Tail(database, run_id)
    keep(run_id, "one")
    behind.flush()
    assert [line.message for line in tail.poll()] == ["one"]

    keep(run_id, "two")
    keep(run_id, "three")
    behind.flush()

    assert [line.message for line in tail.poll()] == ["two", "three"]
    assert tail.poll() == []


@pytest.mark.services
def test_following_sees_lines_that_were_committed_late(database: Database) -> None:
    """Of two processes the one with the lower id may commit last; its line is not missed."""
    if database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    run_id = add_run(database)
    tail = logs.Tail(database, run_id)
    row = {"run_id": run_id, "logger": "x", "level": 20, "message": "early id", "timestamp": time.time()}

    def write_late(connection: Any) -> list[str]:
        connection.execute(logs.logs.insert().values(row))
        keep(run_id, "late id")
        behind.flush()
        return [line.message for line in tail.poll()]

    assert database.write(write_late) == ["late id"]
    assert [line.message for line in tail.poll()] == ["early id"]
