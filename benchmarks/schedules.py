"""`python -m benchmarks.schedules`: what schedules cost beat, and how soon a run of a deployment starts.

Beat's bar is a tenth of a core with 10,000 schedules that fire every hour; a run starts within 50 ms of being asked
for, on a worker that has run one before.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import servers
from orchestra import settings
from orchestra.deployments import Deployment, run_deployment
from orchestra.schedules import Interval
from orchestra.store import database, deployments, runs, ticks
from orchestra.store.deployments import NewDeployment
from tests.helpers import wait_until
from tests.integration.deployed_flows import doubled
from tests.servers import Process, Worker

#: How many schedules beat has, and for how long it is watched, in seconds.
SIZES, WATCHED = (100, 1_000, 10_000), 20.0
#: Schedules of one deployment, and runs that are started one after the other.
_EACH, RUNS = 100, 25


def write(number: int) -> None:
    """Have so many schedules, each firing once an hour, spread over it."""
    begin, apart = datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=3600 / number)
    for first in range(0, number, _EACH):
        new = NewDeployment(f"d{first}", "idle", "idle.py:idle", "nobody")
        spread = [Interval(3600, anchor_date=begin + apart * place) for place in range(first, first + _EACH)]
        deployments.keep(database.database(), new, spread)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, of all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share_of_beat(folder: Path, number: int) -> float:
    """The share of a core that beat takes with so many schedules, once it has looked at each."""
    write(number)
    where = ["--pidfile", "", "-s", str(folder / f"beat{number}")]
    beat = Process([sys.executable, "-m", "celery", "-A", "celery_app", "beat", *where], folder / f"beat{number}.log")
    try:
        wait_until(lambda: (ticks.earliest(database.database()) or 0.0) > time.time(), "a look at each schedule", 120)
        used, began = cpu_seconds(beat.pid), time.monotonic()
        time.sleep(WATCHED)
        return (cpu_seconds(beat.pid) - used) / (time.monotonic() - began)
    finally:
        beat.kill_group()


def starts(folder: Path) -> list[float]:
    """Seconds from asking for a run of a deployment until it has started, each."""
    Deployment.build_from_flow(doubled, "bench", parameters={"number": 1}).apply()
    worker = Worker(folder / "worker.log", os.environ)
    found = []
    try:
        worker.wait_ready()
        for _ in range(RUNS + 3):
            asked = time.time()
            handle = run_deployment("doubled/bench", timeout=0)
            handle.result(timeout=60)
            found.append(runs.read(database.database(), handle.id)["start_time"] - asked)
    finally:
        worker.kill_group()
    return found[3:]


def main() -> None:
    """Measure on SQLite and on PostgreSQL."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestra-bench-")))
        os.environ["ORCHESTRA_HOME"] = str(folder)
        os.environ["ORCHESTRA_BROKER_URL"] = stack.enter_context(servers.valkey(folder)) + "/0"
        postgresql = stack.enter_context(servers.postgresql())
        for title, url in (("SQLite", f"sqlite:///{folder}/bench.db"), ("PostgreSQL", postgresql)):
            if url is None:
                continue
            os.environ["ORCHESTRA_DATABASE_URL"] = url
            settings.reset()
            database.reset()
            took = starts(folder)
            print(f"{title}: a run of a deployment starts after {statistics.median(took) * 1000:.1f} ms (median)")
            for number in SIZES:
                print(f"{title}: beat with {number:,} schedules takes {share_of_beat(folder, number):.1%} of a core")
        database.reset()


if __name__ == "__main__":
    main()
