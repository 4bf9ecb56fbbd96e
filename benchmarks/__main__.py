"""`python -m benchmarks`: one table, all in one run, orchestra beside bare Celery of the same shape."""

from __future__ import annotations

import contextlib
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import servers
from benchmarks.rows import ROWS, Row, seconds
from benchmarks.stack import SLOTS, Client, Subject, Wrong, running, subjects

#: Measured seconds: of a row, of a subject, one figure a round.
Figures = dict[tuple[str, str], list[float]]

IMPORTS = {"celery": "from celery import Celery", "sqlite": "from orchestra import flow, task"}


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Rounds; each row's figure is the median of them.")
@click.option("--only", multiple=True, type=click.Choice([row.name for row in ROWS]), help="Measure these rows only.")
@click.option("--postgres/--no-postgres", default=True, help="Measure on PostgreSQL too, where there is one.")
def main(rounds: int, only: tuple[str, ...], postgres: bool) -> None:
    """Measure orchestra beside bare Celery; exit code 1 if anything comes to a wrong answer."""
    rows = [row for row in ROWS if not only or row.name in only]
    with tempfile.TemporaryDirectory(prefix="orchestra-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            with _clients(folder, postgres=postgres) as (found, clients):
                figures = _measure(rows, rounds, clients)
        except Wrong as wrong:
            _show_logs(folder)
            sys.exit(str(wrong))
    Console(width=None if sys.stdout.isatty() else 150).print(table(rows, found, figures, rounds))


@contextlib.contextmanager
def _clients(folder: Path, *, postgres: bool) -> Iterator[tuple[list[Subject], dict[str, Client]]]:
    with contextlib.ExitStack() as stack:
        valkey = stack.enter_context(servers.valkey(folder))
        database = stack.enter_context(servers.postgresql()) if postgres else None
        found = subjects(valkey, folder, database)
        yield found, {subject.name: stack.enter_context(running(subject, folder)) for subject in found}


def _measure(rows: Sequence[Row], rounds: int, clients: dict[str, Client]) -> Figures:
    warm_up = next(row for row in ROWS if row.name == "latency")
    for client in clients.values():
        client.measure(warm_up)
    figures: Figures = defaultdict(list)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for turn in progress.track(range(rounds), description="rounds"):
            for row in rows:
                for name in _in_turn(list(clients), turn):
                    if row.name == "import":
                        _measure_import(row, name, figures)
                    elif name != "celery" or row.celery:
                        figures[row.name, name].append(clients[name].measure(row))
    return figures


def _in_turn(names: list[str], turn: int) -> list[str]:
    # Who goes first changes from round to round, so that a slow minute of the machine hits nobody alone.
    start = turn % len(names)
    return names[start:] + names[:start]


def _measure_import(row: Row, name: str, figures: Figures) -> None:
    if name not in IMPORTS:
        return
    code = f"import time; began = time.perf_counter(); {IMPORTS[name]}; print(time.perf_counter() - began)"
    for _ in range(row.repeat):
        taken = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        figures[row.name, name].append(float(taken))


def table(rows: Sequence[Row], found: Sequence[Subject], figures: Figures, rounds: int) -> Table:
    """The figures beside each other, with ratios and bars."""
    title = f"medians of {rounds} rounds, {SLOTS} worker processes each, Python {platform.python_version()}"
    result = Table(title=title, title_justify="left")
    result.add_column("work")
    result.add_column("as Celery's")
    for subject in found:
        result.add_column(subject.title, justify="right")
        if subject.name != "celery":
            result.add_column("x", justify="right")
            result.add_column("bar", justify="right")
    for row in rows:
        cells = [cell for subject in found for cell in _cells(row, subject.name, figures)]
        result.add_row(row.title, row.celery or "", *cells)
    return result


def _cells(row: Row, subject: str, figures: Figures) -> list[str]:
    mine, peer = figures.get((row.name, subject)), figures.get((row.name, "celery"))
    shown = seconds(statistics.median(mine)) if mine else ""
    if subject == "celery":
        return [shown]
    if not mine:
        return ["", "", ""]
    ratio = statistics.median(mine) / statistics.median(peer) if peer else None
    ratio_shown = f"{ratio:.2f}" if ratio is not None else ""
    if (bar := row.bar(subject)) is None:
        return [shown, ratio_shown, ""]
    reached = (ratio if bar.of_celery and ratio is not None else statistics.median(mine)) <= bar.limit
    colour = "green" if reached else "red"
    mark = "✓" if reached else "✗"
    return [shown, ratio_shown, f"[{colour}]{bar} {mark}[/]"]


def _show_logs(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        last = log.read_text(errors="replace").splitlines()[-30:]
        print(f"-- the end of {log.name}", *last, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
