"""Log lines of runs on the command line: which of them, and how they are written."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from orchestra import clock
from orchestra.cli import _support, _watch

if TYPE_CHECKING:
    from orchestra.client.backend import Backend
    from orchestra.store.logs import LogLine

F = TypeVar("F", bound=Callable[..., Any])

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
#: Lines read at once.
_PAGE = 1000


def options(command: F) -> F:
    """`--head`, `--tail`, `--level`, `--reverse` and `--follow`."""
    head = click.option(
        "--head", "-n", "--num-logs", type=click.IntRange(min=1), metavar="N", help="Only the first N lines."
    )
    reverse = click.option("--reverse", is_flag=True, help="The last of them first.")
    tail = click.option("--tail", type=click.IntRange(min=1), metavar="N", help="Only the last N lines.")
    level = click.option(
        "--level", type=click.Choice(_LEVELS, case_sensitive=False), help="Only lines of this level and above."
    )
    follow = click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the run has ended.")
    return head(tail(level(reverse(follow(command)))))


def show(
    at: Backend,
    flow_run_id: str,
    task_run_id: str | None,
    *,
    head: int | None,
    tail: int | None,
    level: str | None,
    reverse: bool,
    follow: bool,
    output: str,
) -> None:
    """Print lines of a flow run, or of one of its task runs, as the options say.

    Raises:
        UsageError: The options contradict each other.
    """
    if head and (tail or follow):
        raise click.UsageError("--head goes with neither --tail nor --follow")
    if reverse and follow:
        raise click.UsageError("--reverse does not go with --follow: the last line is not there yet")
    shown = Lines(at, flow_run_id, task_run_id, logging.getLevelName(level) if level else None)
    lines = shown.follow(tail) if follow else shown.last(tail) if tail else shown.first(head)
    if reverse:
        lines = reversed(list(lines))
    if output == "text":
        _print_text(lines, Names(at, flow_run_id))
    elif follow:
        _print_json_lines(lines)
    else:
        _support.emit_json([line.record() for line in lines])


class Lines:
    """The log lines that were asked for, in the order of their time."""

    def __init__(self, at: Backend, flow_run_id: str, task_run_id: str | None, level: int | None) -> None:
        self._at, self._run_id, self._step_id, self._level = at, flow_run_id, task_run_id, level

    def first(self, most: int | None) -> Iterator[LogLine]:
        """From the beginning, page by page."""
        last, left = 0, most
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            page = self._read(after_id=last, limit=size)
            yield from sorted(page, key=lambda line: line.timestamp)
            if len(page) < size:
                return
            last, left = page[-1].id, None if left is None else left - size

    def last(self, count: int) -> Iterator[LogLine]:
        """The newest `count` lines."""
        yield from sorted(self._read(tail=count), key=lambda line: line.timestamp)

    def follow(self, tail: int | None) -> Iterator[LogLine]:
        """New lines as they come, until the run has ended and all are given."""
        following = self._at.tail(self._run_id, step_id=self._step_id, level=self._level)
        yield from following.poll()[-tail if tail else 0 :]
        for final in _watch.until_final(self._at, self._run_id):
            yield from following.poll()
            if final:
                # Lines are written behind the outcome by up to a second.
                time.sleep(_watch.WRITTEN_BEHIND)
                yield from following.poll()

    def _read(self, **page: int) -> list[LogLine]:
        return self._at.read_logs(self._run_id, step_id=self._step_id, level=self._level, **page)


class Names:
    """Who wrote a line: the flow run, or a task run by its name."""

    def __init__(self, at: Backend, flow_run_id: str) -> None:
        self._at, self._run_id = at, flow_run_id
        self._names: dict[str, str] = {}

    def of(self, line: LogLine) -> str:
        """The writer's name; read anew when a task run is met that was not there before."""
        if line.step_id is None:
            return "flow run"
        if line.step_id not in self._names:
            self._names = {line.step_id: line.step_id} | self._at.task_run_names(self._run_id)
        return self._names[line.step_id]


def _print_text(lines: Iterator[LogLine], names: Names) -> None:
    for line in lines:
        moment = clock.to_datetime(line.timestamp)
        when = moment.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if moment else ""
        _support.emit(_support.visible(f"{when} | {line.level_name:<7} | {names.of(line)} - {line.message}"))


def _print_json_lines(lines: Iterator[LogLine]) -> None:
    for line in lines:
        _support.emit(json.dumps(_support.jsonable(line.record())))
