"""A database as a long time of work leaves it: many runs, with all that goes with them.

The rows are made by the database itself, in statements that SQLite and PostgreSQL both take,
and the indexes when they
are there. Ids are spread as random ones are, so that indexes are as large and as cold as those of real runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from orchestra import serializers
from orchestra.store.database import Database
from orchestra.store.tables import metadata

#: The run of many tasks and log lines.
WIDE = "ffffffff-0000-4000-8000-000000000000"
#: Of each run that has ended.
STEPS, LINES = 5, 5
DEPLOYMENTS, POOLS, FLOWS, WORKERS = 1_000, 20, 40, 50
#: Seconds from one run to the next: a million in a month.
_APART = 2.6
_KINDS = {"run": "0001", "step": "0002", "artifact": "0003", "event": "0004", "deployment": "0005", "pool": "0006"}
#: Numbers of the steps of the wide run, and of those of open runs, begin here.
_OF_WIDE, _OF_OPEN = 800_000_000, 900_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is."""

    runs: int = 1_000_000
    #: Of these, how many have not ended.
    open: int = 2_000
    #: Of the wide run.
    tasks: int = 10_000
    lines: int = 100_000


def number_id(kind: str, number: int) -> str:
    """The id of the how-manieth row of a kind: "run", "step", "artifact"."""
    return f"{number * 2654435761 % 4294967296:08x}-{_KINDS[kind]}-4000-8000-{number:012x}"


def wide_step(number: int) -> str:
    """The id of a step of the wide run."""
    return number_id("step", _OF_WIDE + number)


def is_there(db: Database) -> bool:
    """Whether the database was filled."""
    wide = sa.text("SELECT 1 FROM flow_runs WHERE id = :id")
    return db.read(lambda connection: connection.execute(wide, {"id": WIDE}).first()) is not None


def fill(db: Database, size: Size) -> Iterator[str]:
    """Fill an empty database; says what was done, and how long that took."""
    values = {"now": time.time(), "bytes": serializers.encode({"day": 1, "source": "s3://bucket/table"})}
    indexes = [index for table in metadata.sorted_tables for index in table.indexes]
    # One transaction by hand: it is larger than what the product would write at once.
    with db._engine.connect() as connection:
        if db.dialect == "sqlite":
            connection.exec_driver_sql("PRAGMA cache_size = -1000000")
        for index in indexes:
            index.drop(connection)
        for name, text in _statements(_Words(db.dialect == "sqlite", size.runs), size):
            begin = time.perf_counter()
            statement = sa.text(text.replace(":", "\\:").replace("$now", ":now").replace("$bytes", ":bytes"))
            connection.execute(statement, {key: values[key] for key in statement._bindparams})
            yield f"{name}: {time.perf_counter() - begin:.0f} s"
        begin = time.perf_counter()
        for index in indexes:
            index.create(connection)
        if db.dialect == "postgresql":
            # As its autovacuum does sooner or later.
            connection.exec_driver_sql("ANALYZE")
        connection.commit()
        yield f"indexes: {time.perf_counter() - begin:.0f} s"


# -- SQL that both databases take --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Words:
    is_sqlite: bool
    runs: int

    def hexadecimal(self, number: str, width: int) -> str:
        return f"printf('%0{width}x', {number})" if self.is_sqlite else f"lpad(to_hex({number}), {width}, '0')"

    def id(self, kind: str, number: str) -> str:
        spread = self.hexadecimal(f"({number}) * 2654435761 % 4294967296", 8)
        return f"{spread} || '-{_KINDS[kind]}-4000-8000-' || {self.hexadecimal(number, 12)}"

    def numbers(self, count: int, first: int = 0) -> str:
        last = first + count - 1
        begin = f"SELECT CAST({first} AS BIGINT)"
        return f"WITH RECURSIVE n(i) AS ({begin} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"

    def at(self, number: str = "i", more: str = "0") -> str:
        """When the how-manieth run was created, and so many seconds later."""
        return f"$now - ({self.runs} - {number}) * {_APART} + {more}"


def _cases(*cases: tuple[str, str], otherwise: str = "NULL") -> str:
    return "CASE " + " ".join(f"WHEN {when} THEN {then}" for when, then in cases) + f" ELSE {otherwise} END"


def _open(start: str, later: str, run: str, ready: str, parked: str) -> str:
    """What an open run has: a few are paused, to start later or at work, half of the rest wait, half are parked."""
    return _cases(
        ("i % 20 = 0", start), ("i % 20 = 1", later), ("i % 20 = 2", run), ("i % 2 = 0", ready), otherwise=parked
    )


_RUN = """id, name, flow_name, path, parameters, tags, runner, root_run_id, parent_run_id, parent_attempt,
    parent_step_key, deployment_id, queue, created_at, phase, state_type, state_name, start_time, end_time, due_at,
    announce_at, owner, lease_until, held, first_state"""
_STEP = """run_id, run_attempt, step_key, id, branch, position, sequence, kind, name, path, inputs,
    recorded_attempt, tags,
    phase, state_type, state_name, created_at, start_time, end_time, queue, due_at, join_id, owner, worker, result,
    pending_at, running_at"""
_LINE = "run_id, step_id, logger, level, message, timestamp"
#: A process of a worker, `host:pid:start/thread`.
_OWNER = f"'host-' || (i % {WORKERS}) || ':' || (i % 7) || ':1/x'"


def _statements(words: _Words, size: Size) -> Iterator[tuple[str, str]]:
    """What is inserted, and what that is."""
    yield from _runs(words, size)
    yield from _steps(words, size)
    yield from _shown(words, size)
    yield from _kept(words, size)
    yield from _places(words)


def _runs(words: _Words, size: Size) -> Iterator[tuple[str, str]]:
    ended = size.runs - size.open
    child, deployed = "i % 3 = 0", "i % 3 = 1"
    tags = _cases(("i % 10 = 0", "'[\"nightly\"]'"), ("i % 9973 = 0", "'[\"rare\"]'"), otherwise="'[]'")
    common = f"""{words.id("run", "i")}, 'calm-otter-' || i, 'flow-' || (i % {FLOWS}),
        'etl:flow_' || (i % {FLOWS}), $bytes,
        {tags}, 'celery', {words.id("run", "i")}, {_cases((child, words.id("run", "i - 1")))}, {_cases((child, "1"))},
        {_cases((child, "'0/work-0'"))}, {_cases((deployed, words.id("deployment", f"i % {DEPLOYMENTS}")))},
        {_cases((deployed, f"'pool-' || (i % {POOLS})"), otherwise="'default'")}, {words.at()}"""
    bad = (("i % 997 = 0", "CRASHED", "Crashed"), ("i % 991 = 0", "CANCELLED", "Cancelled"))
    kinds = _cases(("i % 50 = 0", "'FAILED'"), *((when, f"'{kind}'") for when, kind, _ in bad), otherwise="'COMPLETED'")
    failed = (("i % 500 = 0", "'TimedOut'"), ("i % 50 = 0", "'Failed'"))
    names = _cases(*failed, *((when, f"'{name}'") for when, _, name in bad), otherwise="'Completed'")
    yield (
        "flows",
        f"""INSERT INTO flows (id, name, path, created_at, updated_at) {words.numbers(FLOWS)}
        SELECT 'flow-' || i, 'flow-' || i, 'etl:flow_' || i, $now, $now FROM n""",
    )
    yield (
        "runs that ended",
        f"""INSERT INTO flow_runs ({_RUN}) {words.numbers(ended, 1)}
        SELECT {common}, 'DONE', {kinds}, {names}, {words.at(more="0.1")}, {words.at(more="0.5 + (i % 100) * 0.3")},
        NULL, NULL, NULL, NULL, NULL, {_cases(("i % 20 = 0", "'Scheduled'"), otherwise="'Pending'")} FROM n""",
    )
    yield (
        "runs that go on",
        f"""INSERT INTO flow_runs ({_RUN}) {words.numbers(size.open, ended + 1)}
        SELECT {common}, {_open("'WAITING'", "'READY'", "'CLAIMED'", "'READY'", "'WAITING'")},
        {_open("'PAUSED'", "'SCHEDULED'", "'RUNNING'", "'PENDING'", "'RUNNING'")},
        {_open("'Paused'", "'Scheduled'", "'Running'", "'Pending'", "'Waiting'")},
        {_open("NULL", "NULL", "$now", "NULL", "$now")}, NULL,
        {_open("$now", "$now + 86400", "$now", "$now - 1", "$now")},
        $now + 86400, {_open("NULL", "NULL", _OWNER, "NULL", "NULL")},
        {_open("NULL", "NULL", "$now + 86400", "NULL", "NULL")},
        {_open("'paused'", "NULL", "NULL", "NULL", "NULL")}, 'Pending' FROM n""",
    )
    yield (
        "a wide run",
        f"""INSERT INTO flow_runs ({_RUN}) SELECT '{WIDE}', 'wide', 'flow-1', 'etl:flow_1', $bytes, '[]',
        'celery', '{WIDE}', NULL, NULL, NULL, NULL, 'default', $now, 'WAITING', 'RUNNING', 'Waiting', $now,
        NULL, $now, NULL,
        NULL, NULL, NULL, 'Pending'""",
    )


def _steps(words: _Words, size: Size) -> Iterator[tuple[str, str]]:
    ended, place = size.runs - size.open, f"i % {STEPS}"
    at = words.at(f"i / {STEPS}", f"({place}) * 0.1")
    tags = _cases(("i % 100 = 0", "'[\"nightly\"]'"))
    names = (("i % 200 = 0", "'Failed'"), ("i % 20 = 0", "'Cached'"))
    yield (
        "steps",
        f"""INSERT INTO steps ({_STEP}) {words.numbers(ended * STEPS)}
        SELECT {words.id("run", f"i / {STEPS} + 1")}, 1, '0/work-' || ({place}), {words.id("step", "i")}, '0',
        {place}, {place},
        {_cases(("i % 25 = 24", "'observation'"), otherwise="'task'")}, 'work-' || ({place}),
        'etl:work_' || ({place}), $bytes,
        1, {tags}, 'DONE',
        {_cases(("i % 200 = 0", "'FAILED'"), otherwise="'COMPLETED'")}, {_cases(*names, otherwise="'Completed'")},
        {at}, {at} + 0.1, {at} + 0.2, 'default', NULL, NULL, NULL, 'w' || (i % {WORKERS}) || '@host',
        $bytes, {_cases((f"i % 25 <> 24 AND {place} <> 1", at))},
        {_cases((f"i % 25 <> 24 AND {place} <> 0", f"{at} + 0.1"))} FROM n""",
    )
    claimed = "i % 20 = 3"
    yield (
        "steps that go on",
        f"""INSERT INTO steps ({_STEP}) {words.numbers(size.open, ended + 1)}
        SELECT {words.id("run", "i")}, 1, '0/work-0', {words.id("step", f"{_OF_OPEN} + i")}, '0', 0, 0, 'task',
        'work-0',
        'etl:work_0', $bytes, 1, NULL, {_cases((claimed, "'CLAIMED'"), otherwise="'READY'")},
        {_cases((claimed, "'RUNNING'"), otherwise="'PENDING'")},
        {_cases((claimed, "'Running'"), otherwise="'Pending'")},
        {words.at()}, {_cases((claimed, "$now"))}, NULL, 'default', $now - 1, NULL, {_cases((claimed, _OWNER))},
        NULL, NULL, {words.at()}, {_cases((claimed, "$now"))}
        FROM n""",
    )
    half, quarter = size.tasks // 2, size.tasks // 4
    yield (
        "steps of the wide run",
        f"""INSERT INTO steps ({_STEP}) {words.numbers(size.tasks)}
        SELECT '{WIDE}', 1, '0/work-' || i, {words.id("step", f"{_OF_WIDE} + i")}, '0', i, i, 'task', 'work-' || i,
        'etl:work_' || (i / {quarter}), $bytes, 1, NULL, {_cases((f"i < {half}", "'DONE'"), otherwise="'READY'")},
        {_cases((f"i < {half}", "'COMPLETED'"), otherwise="'PENDING'")},
        {_cases((f"i < {half}", "'Completed'"), otherwise="'Pending'")}, $now,
        {_cases((f"i < {half}", "$now + i / 100.0"))},
        {_cases((f"i < {half}", "$now + i / 100.0 + 1"))}, 'default', $now,
        {_cases((f"i >= {quarter}", "'join'"))}, NULL,
        NULL, $bytes, $now, {_cases((f"i < {half}", "$now + i / 100.0"))} FROM n""",
    )
    yield (
        "edges",
        f"""INSERT INTO edges (run_id, run_attempt, upstream, join_id, target_id, strict)
        SELECT run_id, run_attempt, step_key, 'join', 'join', true FROM steps
        WHERE run_id = '{WIDE}' AND position < {quarter}""",
    )


def _shown(words: _Words, size: Size) -> Iterator[tuple[str, str]]:
    """Lines, states, events and artifacts."""
    level = _cases(("i % 100 = 0", "40"), otherwise="20")
    yield (
        "log lines",
        f"""INSERT INTO logs ({_LINE}) {words.numbers((size.runs - size.open) * LINES)}
        SELECT {words.id("run", f"i / {LINES} + 1")}, {_cases((f"i % {LINES} > 0", words.id("step", "i")))},
        'orchestra.task_runs', {level}, 'line ' || i || ' of what it does, with a number of rows and a name',
        {words.at(f"i / {LINES}", f"(i % {LINES}) * 0.1")} FROM n""",
    )
    yield (
        "log lines of the wide run",
        f"""INSERT INTO logs ({_LINE}) {words.numbers(size.lines)}
        SELECT '{WIDE}', {words.id("step", f"{_OF_WIDE} + i % {size.tasks}")}, 'orchestra.task_runs', {level},
        'line ' || i || ' of what it does', $now + i / 1000.0 FROM n""",
    )
    yield (
        "states",
        """INSERT INTO states (run_id, step_id, type, name, message, timestamp)
        SELECT id, NULL, 'RUNNING', 'Running', NULL, start_time FROM flow_runs WHERE start_time IS NOT NULL
        UNION ALL SELECT id, NULL, state_type, state_name, NULL, end_time FROM flow_runs WHERE end_time IS NOT NULL
        UNION ALL SELECT run_id, id, 'RUNNING', 'Running', NULL, start_time FROM steps
        WHERE position = 0 AND start_time IS NOT NULL""",
    )
    event = _cases(("i % 1000 = 0", "'refused'"), otherwise="'taken'")
    yield (
        "events",
        f"""INSERT INTO events (id, occurred, received, event, resource_id, resource_kind, resource, run_id)
        {words.numbers(size.runs, 1)} SELECT {words.id("event", "i")}, {words.at()}, {words.at()},
        'shop.order.' || {event},
        'shop.order.' || (i % 10000), 'shop.order', '{{"orchestra.resource.id":"shop.order.1"}}',
        {words.id("run", "i")}
        FROM n""",
    )
    yield (
        "artifacts",
        f"""INSERT INTO artifacts (id, key, type, description, data, flow_run_id, task_run_id, created_at,
        updated_at) {words.numbers(size.runs // 2, 1)} SELECT {words.id("artifact", "i")},
        {_cases(("i % 2 = 0", "'report-' || (i % 2000)"))},
        {_cases(("i % 3 = 0", "'table'"), otherwise="'markdown'")},
        'what it shows', '"# some text"', {words.id("run", "i * 2")}, {words.id("step", f"(i * 2 - 1) * {STEPS}")},
        {words.at("i * 2")}, {words.at("i * 2")} FROM n""",
    )
    yield (
        "keys of artifacts",
        """INSERT INTO artifact_collections (key, latest_id, type, created_at)
        SELECT key, id, type, created_at FROM (SELECT key, id, type, created_at,
        row_number() OVER (PARTITION BY key ORDER BY created_at DESC, id DESC)
        AS place FROM artifacts WHERE key IS NOT NULL)
        AS ranked WHERE place = 1""",
    )


def _kept(words: _Words, size: Size) -> Iterator[tuple[str, str]]:
    """Cached results, transactions, and what people set."""
    yield (
        "cache entries",
        f"""INSERT INTO cache_entries (key, policy_key, task, task_name, result, size, created_at,
        expires_at) {words.numbers(size.runs // 5, 1)} SELECT {words.id("event", "i")}, 'inputs',
        'etl:work_' || (i % 5),
        'work_' || (i % 5), $bytes, 40, {words.at("i * 5")},
        {_cases(("i % 2 = 0", words.at("i * 5", "86400")))} FROM n""",
    )
    state = _cases(("i % 100 = 0", "'ROLLED_BACK'"), otherwise="'COMMITTED'")
    yield (
        "transactions",
        f"""INSERT INTO transactions (run_id, run_attempt, key, name, state, created_at, end_time)
        {words.numbers(size.runs // 5, 1)} SELECT {words.id("run", "i * 4")}, 1, '0/txn-0', 'orders', {state},
        {words.at("i * 4")}, {words.at("i * 4", "1")} FROM n""",
    )
    yield (
        "variables",
        f"""INSERT INTO variables (id, name, value, created_at, updated_at) {words.numbers(1000, 1)}
        SELECT 'v' || i, 'variable_' || i, '1', $now, $now FROM n""",
    )
    yield (
        "limits",
        f"""INSERT INTO concurrency_limits (id, name, slot_limit, created_at, updated_at)
        {words.numbers(200, 1)} SELECT 'l' || i, 'limit-' || i, 10, $now, $now FROM n""",
    )


def _places(words: _Words) -> Iterator[tuple[str, str]]:
    """Where runs come from, and go."""
    pool = f"'pool-' || (i % {POOLS})"
    yield (
        "pools",
        f"""INSERT INTO work_pools (id, name, type, created_at, updated_at) {words.numbers(POOLS)}
        SELECT {words.id("pool", "i")}, {pool}, 'process', $now, $now FROM n""",
    )
    yield (
        "queues",
        """INSERT INTO work_queues (id, pool_id, name, created_at, updated_at)
        SELECT 'd-' || substr(id, 1, 30), id, 'default', $now, $now FROM work_pools
        UNION ALL SELECT 'f-' || substr(id, 1, 30), id, 'fast', $now, $now FROM work_pools""",
    )
    yield (
        "workers",
        f"""INSERT INTO workers (name, host, pid, queues, slots, pool, version, started_at, heartbeat_at,
        processes) {words.numbers(WORKERS)} SELECT 'w' || i || '@host-' || i, 'host-' || i, 100 + i,
        '["default", "' || {pool} || '"]', 8, 'prefork', '1', $now, $now + 86400,
        '["0:1", "1:1", "2:1", "3:1", "4:1", "5:1", "6:1"]' FROM n""",
    )
    yield (
        "deployments",
        f"""INSERT INTO deployments (id, name, flow_name, entrypoint, work_pool_name, queue, parameter_schema,
        created_at, updated_at) {words.numbers(DEPLOYMENTS)} SELECT {words.id("deployment", "i")}, 'nightly-' || i,
        'flow-' || (i % {FLOWS}), 'etl.py:flow', {pool}, {pool},
        '{{"type": "object", "properties": {{"day": {{"type": "integer", "title": "day"}}}}}}', $now, $now FROM n""",
    )
    yield (
        "schedules",
        f"""INSERT INTO schedules (id, deployment_id, slug, cron, next_at, created_at, updated_at)
        {words.numbers(DEPLOYMENTS)} SELECT 's' || i, {words.id("deployment", "i")}, 'nightly', '0 3 * * *',
        $now + 3600 + i,
        $now, $now FROM n""",
    )
    yield (
        "slots of runs",
        """INSERT INTO run_slots (run_id, run_attempt, deployment_id, pool_name, queue_name, order_at,
        taken_at, created_at) SELECT id, 1, deployment_id, queue, 'default', $now,
        CASE WHEN phase <> 'READY' THEN $now END, $now FROM flow_runs
        WHERE phase <> 'DONE' AND deployment_id IS NOT NULL""",
    )
