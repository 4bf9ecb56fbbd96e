"""How long the pages of the admin view take over a million runs and a run of 10,000 tasks, on SQLite.

    python -m benchmarks.pages [RUNS]

Everything is made in a temporary folder; a million runs take about 800 MB there.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: The run of many tasks.
WIDE = "ffffffff-0000-0000-0000-000000000000"
_TIMES = 5

_RUNS = """
INSERT INTO flow_runs (id, name, flow_name, path, tags, runner, root_run_id, phase, state_type, state_name, created_at,
    start_time, end_time, queue, parent_run_id)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
SELECT printf('%08x-0000-0000-0000-000000000000', i), 'calm-otter-' || i, 'flow-' || (i % 40), 'etl:flow',
    CASE WHEN i % 10 = 0 THEN '["nightly"]' WHEN i % 9973 = 0 THEN '["rare"]' ELSE '[]' END, 'celery',
    printf('%08x-0000-0000-0000-000000000000', i), 'DONE',
    CASE WHEN i % 50 = 0 THEN 'FAILED' WHEN i % 997 = 0 THEN 'CRASHED' ELSE 'COMPLETED' END,
    CASE WHEN i % 50 = 0 THEN 'Failed' WHEN i % 997 = 0 THEN 'Crashed' ELSE 'Completed' END,
    {now} - ({count} - i) * 2.6, {now} - ({count} - i) * 2.6 + 0.1, {now} - ({count} - i) * 2.6 + 1.5, 'default',
    CASE WHEN i % 3 = 0 THEN printf('%08x-0000-0000-0000-000000000000', i - 1) END
FROM n
"""
_WIDE_RUN = """
INSERT INTO flow_runs (id, name, flow_name, path, tags, runner, root_run_id, phase, state_type, state_name, created_at,
    start_time, queue, due_at)
VALUES ('{wide}', 'wide', 'flow-1', 'etl:flow', '[]', 'celery', '{wide}', 'WAITING', 'RUNNING', 'Waiting', {now},
    {now}, 'default', {now})
"""
_STEPS = """
INSERT INTO steps (run_id, run_attempt, step_key, id, branch, position, sequence, kind, name, path, recorded_attempt,
    phase, state_type, state_name, created_at, start_time, end_time, queue, due_at, join_id)
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
SELECT '{wide}', 1, '0/work-' || i, printf('%08x-1111-0000-0000-000000000000', i), '0', i, i, 'task', 'work-' || i,
    'etl:work_' || (i / 2500), 1, CASE WHEN i < 5000 THEN 'DONE' ELSE 'READY' END,
    CASE WHEN i < 5000 THEN 'COMPLETED' ELSE 'PENDING' END, CASE WHEN i < 5000 THEN 'Completed' ELSE 'Pending' END,
    {now}, CASE WHEN i < 5000 THEN {now} + i / 100.0 END, CASE WHEN i < 5000 THEN {now} + i / 100.0 + 1 END, 'default',
    {now}, CASE WHEN i >= 2500 THEN 'join' END
FROM n
"""
_EDGES = """
INSERT INTO edges (run_id, run_attempt, upstream, join_id, target_id, strict)
SELECT run_id, run_attempt, step_key, 'join', 'join', 1 FROM steps WHERE run_id = '{wide}' AND position < 2500
"""
_LOGS = """
INSERT INTO logs (run_id, step_id, logger, level, message, timestamp)
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
SELECT '{wide}', printf('%08x-1111-0000-0000-000000000000', i % 10000), 'orchestra.task_runs',
    CASE WHEN i % 100 = 0 THEN 40 ELSE 20 END, 'line ' || i || ' of what it does', {now} + i / 1000.0
FROM n
"""
_FLOWS = """
INSERT INTO flows (id, name, path, created_at, updated_at)
SELECT min(id), flow_name, 'etl:flow', {now}, {now} FROM flow_runs GROUP BY flow_name
"""

PAGES = (
    "/",
    "/?range=30d",
    "/runs",
    "/runs?after=000003e8-0000-0000-0000-000000000000",
    "/runs?state=FAILED",
    "/runs?state=FAILED&state=CRASHED&by=end&range=24h",
    "/runs?state=FAILED&flow=flow-7",
    "/runs?state=PAUSED&flow=flow-7&text=otter",
    "/runs?text=nothing-like-it",
    "/runs?text=otter-99",
    "/runs?tags=nightly&state=FAILED",
    "/runs?tags=rare",
    "/runs?top=1&range=7d",
    "/runs/acts?act=cancel&state=FAILED",
    "/flows",
    "/workers",
    "/work-pools",
    "/deployments",
    "/limits",
    f"/runs/{WIDE}",
    *(f"/runs/{WIDE}/parts/{part}" for part in ("head", "timeline", "steps", "logs", "history")),
    f"/runs/{WIDE}/parts/steps?after=00001f40-1111-0000-0000-000000000000",
    f"/runs/{WIDE}/parts/steps?step_text=work-9999",
    f"/runs/{WIDE}/parts/logs?level=40&log_text=nothing",
    f"/runs/{WIDE}/graph.json",
    "/task-runs/00001000-1111-0000-0000-000000000000",
)


def main() -> None:
    """Seed, ask, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ORCHESTRA_HOME"] = str(Path(folder) / "home")
        from orchestra.store.behind import behind
        from orchestra.store.database import database

        seed(count)
        print(f"{count:,} runs; a run of 10,000 tasks and 100,000 log lines; milliseconds")
        print(f"{'median':>8} {'worst':>8}  page")
        for address, times in measured():
            print(f"{statistics.median(times):8.0f} {max(times):8.0f}  {address}")
        behind().flush()
        database().close()


def seed(count: int) -> None:
    """Fill the database of the settings."""
    import sqlalchemy as sa

    from orchestra.store.database import database

    now = time.time()
    for statement in (_RUNS, _WIDE_RUN, _STEPS, _EDGES, _LOGS, _FLOWS):
        text = statement.format(count=count, now=now, wide=WIDE)
        database().write(lambda connection, text=text: connection.execute(sa.text(text.replace(":", "\\:"))))  # type: ignore[misc]


def measured() -> Iterator[tuple[str, list[float]]]:
    """Of each page, how many milliseconds it took, time after time."""
    from starlette.testclient import TestClient

    from orchestra.server import create_app
    from orchestra.store import run_lists, run_views
    from orchestra.store.database import database

    with TestClient(create_app(), base_url="http://127.0.0.1:4200") as web:
        for address in PAGES:
            times = []
            for _ in range(_TIMES):
                begin = time.perf_counter()
                answer = web.get(address)
                times.append((time.perf_counter() - begin) * 1000)
                assert answer.status_code == 200, f"{address}: {answer.status_code} {answer.text[-500:]}"
            yield address, times
    for name, look in (
        ("one look of all lists", lambda: run_lists.stamp(database())),
        ("one look of a run", lambda: run_views.stamps(database(), WIDE)),
    ):
        times = []
        for _ in range(_TIMES):
            begin = time.perf_counter()
            look()
            times.append((time.perf_counter() - begin) * 1000)
        yield name, times


if __name__ == "__main__":
    main()
