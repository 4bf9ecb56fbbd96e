"""Watching a flow run until it ends: live bars on a terminal, else a line where something changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from orchestra import clock, errors
from orchestra.cli import _support
from orchestra.states import FINAL, StateType

if TYPE_CHECKING:
    from orchestra.client.backend import Backend
    from orchestra.store import queries

#: Seconds between two looks where nothing tells of changes: the first, and the longest.
_LOOKS = (0.05, 0.5)
#: Where something does: the shortest, and the longest, in seconds.
_LEAST, _SELDOM = 0.1, 2.0
#: Seconds by which log lines may be written after the outcome.
WRITTEN_BEHIND = 1.0
#: Bars shown; the tasks beyond share the last.
_BARS = 12
_FINAL = frozenset(kind.value for kind in FINAL)
#: Exit status of a process that Ctrl-C ended, by convention.
_INTERRUPTED = 130


def until_final(at: Backend, flow_run_id: str, *, timeout: float | None = None) -> Iterator[bool]:
    """One item a look: whether the run has ended; the last one is True. Looks when it changes, else slower and slower.

    Raises:
        ResultTimeout: It has not ended within `timeout` seconds.
        FlowRunNotFound: There is no such run, or it was deleted meanwhile.
    """
    end = None if timeout is None else clock.monotonic() + timeout
    pause = _LOOKS[0]
    with at.bell(flow_run_id) as bell:
        while True:
            final = at.flow_run_state(flow_run_id).type in _FINAL
            yield final
            if final:
                return
            left = _SELDOM if end is None else end - clock.monotonic()
            if left < 0:
                raise errors.ResultTimeout(f"flow run {flow_run_id} has not ended within {timeout:g} s; it goes on")
            bell.wait(pause, min(left, _SELDOM), least=min(pause, _LEAST))
            pause = min(pause * 1.5, _LOOKS[1])


def watch(at: Backend, flow_run_id: str, *, timeout: float | None = None) -> None:
    """Show the run's progress on stderr until it ends.

    Raises:
        Failure: It did not complete (exit code RUN_FAILED).
        ResultTimeout: It has not ended within `timeout` seconds.
        FlowRunNotFound: There is no such run.
    """
    try:
        _show(at, flow_run_id, timeout)
    except KeyboardInterrupt:
        _leave(flow_run_id)
    run = at.read_flow_run(flow_run_id).run
    sentence = f"Flow run {run.name!r} ended {run.state_name} after {run.total_run_time:.3g} s"
    if run.state_type != StateType.COMPLETED:
        told = f": {run.state.message}" if run.state.message else ""
        _support.fail(_support.visible(f"{sentence}{told}"), _support.ExitCode.RUN_FAILED)
    _support.say(sentence)


def _leave(flow_run_id: str) -> NoReturn:
    _support.say(f"The run goes on. Look again with `orchestra flow-run watch {flow_run_id}`")
    raise SystemExit(_INTERRUPTED)


def _show(at: Backend, flow_run_id: str, timeout: float | None) -> None:
    run = at.read_flow_run(flow_run_id).run
    _support.say(f"Flow run {run.name!r} of flow {run.flow_name!r}")
    if _support.in_terminal():
        with _progress() as progress:
            bars = _Bars(progress)
            for _ in until_final(at, flow_run_id, timeout=timeout):
                bars.show(at.flow_run_state(flow_run_id), at.step_counts(flow_run_id))
    else:
        lines = _Changes()
        for _ in until_final(at, flow_run_id, timeout=timeout):
            lines.show(at.flow_run_state(flow_run_id), at.step_counts(flow_run_id))


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[states]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


class _Bars:
    """One bar for the run and one for each of its tasks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def show(self, state: queries.StateRecord, counts: list[queries.StepCount]) -> None:
        """Bring the bars to what is counted now."""
        self._set("[bold]run[/bold]", counts, escape(hint(state)))
        for name, of_task in by_task(counts).items():
            self._set(escape(name), of_task, escape(summary(of_task)))

    def _set(self, name: str, counts: list[queries.StepCount], states: str) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=None, states="")
        done, total = progress_of(counts)
        self._progress.update(self._bars[name], completed=done, total=total or None, states=states)


class _Changes:
    """A line for each change of the run's state, and now and then for its steps."""

    #: Seconds between two lines that differ in counts only.
    EVERY = 5.0

    def __init__(self) -> None:
        self._state = ""
        self._counted = ""
        self._next = 0.0

    def show(self, state: queries.StateRecord, counts: list[queries.StepCount]) -> None:
        """Print what is new."""
        done, total = progress_of(counts)
        counted = f"{done}/{total} steps"
        changed = state.name != self._state
        if changed or (counted != self._counted and clock.monotonic() >= self._next):
            _support.say(_support.visible(f"{hint(state)}, {counted}"))
            self._state, self._counted, self._next = state.name, counted, clock.monotonic() + self.EVERY


def hint(state: queries.StateRecord) -> str:
    """The state's name, with why it stands still where a person must act."""
    if state.type == StateType.PAUSED:
        return f"{state.name}: {state.message or 'waits for `orchestra flow-run resume`'}"
    return state.name


def by_task(counts: list[queries.StepCount]) -> dict[str, list[queries.StepCount]]:
    """Counts by task name in order of asking; beyond the first few, all together."""
    found: dict[str, list[queries.StepCount]] = {}
    for count in counts:
        name = count.name if count.name in found or len(found) < _BARS else "others"
        found.setdefault(name, []).append(count)
    return found


def progress_of(counts: list[queries.StepCount]) -> tuple[int, int]:
    """How many steps have ended, and how many there are."""
    return sum(c.count for c in counts if c.state_type in _FINAL), sum(c.count for c in counts)


def summary(counts: list[queries.StepCount]) -> str:
    """The steps that have not completed, by state: "3 Running, 1 Failed"."""
    found: dict[str, int] = {}
    for count in counts:
        if count.state_type != StateType.COMPLETED:
            found[count.state_name] = found.get(count.state_name, 0) + count.count
    return ", ".join(f"{number} {name}" for name, number in found.items())
