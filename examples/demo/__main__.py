"""The demo: a real pipeline on real workers, one of which is killed in the middle (`make demo`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from examples.demo import expected
from orchestra import identifiers
from orchestra.handles import FlowRunHandle
from orchestra.store import logs, queries, workers
from orchestra.store.database import database

PIPELINE = Path(__file__).parent.parent / "etl_seattle"
#: How many steps each task of the pipeline makes.
STEPS = {
    "extract": 4,
    "clean_hours": 2,
    "count_rain": 1,
    "locate_airport": 2,
    "join": 1,
    "compare_month": 12,
    "load": 1,
}
#: The task whose worker is killed, and how many of its steps have ended by then.
VICTIM, ENOUGH = "compare_month", 3
#: Seconds between two looks at the run, and after which the demo gives up.
LOOK_EVERY, PATIENCE = 0.2, 180.0
#: Seconds in which the stack has to be there, and everything of it to be gone.
START_WITHIN, END_WITHIN = 30.0, 15.0

console = Console(highlight=False)


class Failed(Exception):
    """The demo did not show what it should."""


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="An empty folder to run in; a fresh one if not given.")
@click.option("--resamples", default=40_000, show_default=True, help="Bootstrap resamples a month: how long it takes.")
def main(home: Path | None, resamples: int) -> None:
    """Run the pipeline on an embedded stack, kill a worker process, and check the answer."""
    home = home or Path(tempfile.mkdtemp(prefix="orchestra-demo-"))
    _set_environment(home)
    try:
        run = _demo(home, resamples)
        _check_nothing_runs(home)
    except Failed as failed:
        sys.exit(f"The demo failed: {failed}. What was printed is in {home / 'dev.log'}")
    _say_where_to_look(home, run)


def _set_environment(home: Path) -> None:
    for name in [name for name in os.environ if name.startswith("ORCHESTRA_")]:
        del os.environ[name]
    os.environ |= {
        "ORCHESTRA_HOME": str(home),
        # Short, so that nobody has to wait 30 s for what the killed process was doing.
        "ORCHESTRA_LEASE_SECONDS": "3",
        "ORCHESTRA_SWEEP_SECONDS": "1",
        "PYTHONPATH": os.pathsep.join([str(PIPELINE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    sys.path.insert(0, str(PIPELINE))


def _demo(home: Path, resamples: int) -> FlowRunHandle:
    console.print(f"[bold]1.[/] An embedded stack in {home}: a broker, a worker of two processes")
    with _stack(home):
        from etl import etl

        console.print("[bold]2.[/] The pipeline: 22,355 rows of four files, 23 steps; one fails the first time")
        run = etl.delay(database=str(home / "weather.db"), resamples=resamples)
        killed = _watch(run)
        months = run.result(timeout=PATIENCE)
    _check(run, months, killed)
    console.print(_table(months))
    return run


@contextlib.contextmanager
def _stack(home: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "orchestra", "dev", "--flows", "etl", "--concurrency", "2", "--no-beat"]
    with (home / "dev.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for_worker(process)
        yield
    finally:
        # As Ctrl-C does in its terminal.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_WITHIN)
        process.kill()
        process.wait()


def _wait_for_worker(stack: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_WITHIN
    while not workers.live(database()):
        if stack.poll() is not None or time.monotonic() > end:
            raise Failed("the embedded stack did not start")
        time.sleep(LOOK_EVERY)


# -- watching and killing ----------------------------------------------------------------------------------------


class Bars:
    """One progress bar for each task of the pipeline."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._bars: dict[str, TaskID] = {
            name: progress.add_task(name, total=total, note="") for name, total in STEPS.items()
        }

    def show(self, counts: list[queries.StepCount]) -> dict[str, int]:
        """Draw what has ended; returns how many steps of each task that is."""
        done = dict.fromkeys(STEPS, 0)
        notes: dict[str, list[str]] = {name: [] for name in STEPS}
        for count in counts:
            if count.name in done and count.state_type == "COMPLETED":
                done[count.name] += count.count
            elif count.name in done:
                notes[count.name].append(f"{count.count} {count.state_name}")
        for name, bar in self._bars.items():
            self.progress.update(bar, completed=done[name], note=", ".join(notes[name]))
        return done


@dataclass(frozen=True, slots=True)
class Kill:
    """What stood in the journal when a process was killed."""

    step: queries.TaskRun
    pid: int
    ended: frozenset[str]


def _watch(run: FlowRunHandle) -> Kill:
    """Show the run until it ends, and kill the process of one of its steps."""
    columns = (
        TextColumn("   {task.description:<15}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    killed: Kill | None = None
    end = time.monotonic() + PATIENCE
    with Progress(*columns, console=console) as progress:
        bars = Bars(progress)
        while not (over := run.ready()) and time.monotonic() < end:
            done = bars.show(queries.step_counts(database(), run.id))
            if killed is None and done[VICTIM] >= ENOUGH:
                killed = _kill_one(run)
            time.sleep(LOOK_EVERY)
        bars.show(queries.step_counts(database(), run.id))
    if not over:
        raise Failed(f"the run has not ended after {PATIENCE:g} s: it is {run.state.name}")
    if killed is None:
        raise Failed("the run ended before a worker process could be killed; give it more --resamples")
    return killed


def _kill_one(run: FlowRunHandle) -> Kill | None:
    """kill -9 the process that runs a step of the victim task; None if none runs at this moment."""
    for step in _steps(run):
        if step.name.startswith(VICTIM) and step.worker and not step.end_time:
            _, pid, _ = identifiers.process_of(step.worker)
            # Stopped first, so that the step cannot end between the look and the kill.
            os.kill(pid, signal.SIGSTOP)
            time.sleep(LOOK_EVERY)
            ended = frozenset(step.id for step in _steps(run) if step.end_time)
            if step.id in ended:
                os.kill(pid, signal.SIGCONT)
                return None
            os.kill(pid, signal.SIGKILL)
            console.print(f"[bold]3.[/] [red]kill -9 {pid}[/], the worker process that runs {step.name}")
            return Kill(step, pid, ended)
    return None


def _steps(run: FlowRunHandle) -> tuple[queries.TaskRun, ...]:
    return queries.list_task_runs(database(), flow_run_id=run.id, limit=100).items


# -- checking ----------------------------------------------------------------------------------------------------


def _check(run: FlowRunHandle, months: list[dict[str, Any]], kill: Kill) -> None:
    steps = _steps(run)
    faults = expected.faults(months)
    faults += [f"{step.name} is {step.state_name}" for step in steps if step.state_type != "COMPLETED"]
    faults += [f"{step.name} was run again after it had ended" for step in steps if _ran_again(run, step, kill)]
    if sum(STEPS.values()) != len(steps):
        faults.append(f"there are {len(steps)} steps instead of {sum(STEPS.values())}")
    again = next(step for step in steps if step.id == kill.step.id)
    if again.worker is None or identifiers.process_of(again.worker)[1] == kill.pid:
        faults.append(f"{again.name} was not run again")
    if faults:
        raise Failed("; ".join(faults))
    retried = next(step for step in steps if step.run_count > 1)
    console.print("[bold]4.[/] The answer is right: plain Python comes to the same.")
    console.print(f"   {again.name} was run again elsewhere; the {len(kill.ended)} steps that had ended were not.")
    console.print(f"   {retried.name} failed the first time and was retried.")


def _ran_again(run: FlowRunHandle, step: queries.TaskRun, kill: Kill) -> bool:
    """Whether a step that had ended before the kill wrote its line a second time."""
    if step.id not in kill.ended or not step.name.startswith(VICTIM):
        return False
    return len(logs.read(database(), run.id, step_id=step.id)) > 1


def _check_nothing_runs(home: Path) -> None:
    end = time.monotonic() + END_WITHIN
    while left := _processes_of(home):
        if time.monotonic() > end:
            raise Failed(f"still running: {left}")
        time.sleep(LOOK_EVERY)
    console.print("[bold]5.[/] Nothing is left running.")


def _processes_of(home: Path) -> list[int]:
    """Pids of other processes that were started with this ORCHESTRA_HOME (by /proc; nothing is found without it)."""
    mark = f"ORCHESTRA_HOME={home}\0".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environment.read_bytes() and environment.parent.name != str(os.getpid()):
                found.append(int(environment.parent.name))
    return found


# -- what people see at the end ----------------------------------------------------------------------------------


def _table(months: list[dict[str, Any]]) -> Table:
    table = Table(title="How much warmer is San Francisco than Seattle? (°C)", title_justify="left")
    for name in ("month", "Seattle", "San Francisco", "difference", "95 % interval", "rainy days in Seattle"):
        table.add_column(name, justify="right")
    for row in months:
        cells = [row["month"], row["seattle"], row["san_francisco"], f"{row['difference']:+.2f}"]
        table.add_row(*map(str, cells), f"{row['low']:+.2f} … {row['high']:+.2f}", str(row["rainy_days_seattle"]))
    return table


def _say_where_to_look(home: Path, run: FlowRunHandle) -> None:
    console.print(f"\nLook further:\n  export ORCHESTRA_HOME={home}", soft_wrap=True)
    if shutil.which("orchestra") is None:
        # `make demo` runs in a virtual environment that the caller's shell does not know.
        console.print(f"  export PATH={Path(sys.executable).parent}:$PATH", soft_wrap=True)
    for command in ("inspect", "logs", "canvas"):
        console.print(f"  orchestra flow-run {command} {run.id}", soft_wrap=True)
    console.print(f"  orchestra task-run ls --flow-run {run.id}", soft_wrap=True)
    console.print(f"  sqlite3 {home / 'weather.db'} 'select * from months'", soft_wrap=True)


if __name__ == "__main__":
    main()
