"""How long every page, list and search takes over a long history.

    python -m benchmarks.pages [RUNS] [URL]

Without an address of a database, one is made on SQLite in a temporary folder: a million runs with five million tasks
and log lines take about 7 GB and some minutes. With one (`postgresql+psycopg://…` or `sqlite:///…`, an empty database),
the history is made there, and found again the next time, when RUNS must be the same. A server looks at its own pages
when it starts, and so does this; of the twenty times that each is asked then, the worst is the "p95". Beside the time
that passed stands the time that this process was at work, the median and the most: on SQLite that is the database too,
and it does not depend on what else the machine does.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from benchmarks import asked, history
from benchmarks.asked import Ask
from benchmarks.history import WIDE, Size

_TIMES = 20


@dataclass(slots=True)
class Times:
    """How long something took, time after time, in milliseconds: by the clock, and of this process's work."""

    name: str
    passed: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        late = sorted(self.passed)[int(len(self.passed) * 0.95)]
        passed, worked = statistics.median(self.passed), statistics.median(self.worked)
        return f"{passed:8.0f} {late:8.0f} {worked:8.0f} {max(self.worked):8.0f}  {self.name[:150]}"


def main() -> None:
    """Fill, ask, print."""
    size = Size(runs=int(sys.argv[1])) if len(sys.argv) > 1 else Size()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("ORCHESTRA_HOME", str(Path(folder) / "home"))
        # The same each time: a database keeps to the key that it was made with.
        os.environ.setdefault("ORCHESTRA_SECRET_KEY", "the benchmark's, which is none")
        if len(sys.argv) > 2:
            os.environ["ORCHESTRA_DATABASE_URL"] = sys.argv[2]
        from orchestra.store.behind import behind
        from orchestra.store.database import database

        if not history.is_there(database()):
            for done in history.fill(database(), size):
                print(done, file=sys.stderr)
        print(f"{size.runs:,} runs, {size.runs * history.STEPS:,} tasks; a run of {size.tasks:,} tasks; milliseconds")
        print(f"{'median':>8} {'p95':>8} {'at work':>8} {'at most':>8}  of what")
        for times in measured(size):
            print(times, flush=True)
        behind().flush()
        database().close()


def measured(size: Size) -> Iterator[Times]:
    """All that is asked, one after another."""
    from starlette.testclient import TestClient

    from orchestra.server import create_app, warming
    from orchestra.store import run_lists, run_views
    from orchestra.store.database import database

    app = create_app()
    with TestClient(app, base_url="http://127.0.0.1:4200") as web:
        # As `orchestra server start` does.
        yield _timed("what a server looks at when it starts", lambda: warming.warm_up(app), times=1)
        warming.settle()

        def ask(what: Ask) -> None:
            answer = web.get(what.address) if what.body is None else web.post(what.path, json=what.body)
            assert answer.status_code == 200, f"{what}: {answer.status_code} {answer.text[-500:]}"

        for what in chain(asked.pages(size), asked.lists(size), asked.searches(size)):
            yield _timed(str(what), lambda what=what: ask(what))  # type: ignore[misc]
    yield _timed("one look of all lists", lambda: run_lists.stamp(database()))
    yield _timed("one look of a run", lambda: run_views.stamps(database(), WIDE))


def _timed(name: str, act: Callable[[], object], *, times: int = _TIMES) -> Times:
    found = Times(name)
    for _ in range(times):
        passed, worked = time.perf_counter(), time.process_time()
        act()
        found.passed.append((time.perf_counter() - passed) * 1000)
        found.worked.append((time.process_time() - worked) * 1000)
    return found


if __name__ == "__main__":
    main()
