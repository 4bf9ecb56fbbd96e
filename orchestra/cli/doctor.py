"""`orchestra doctor`: is everything there that flows need, and what to type where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import rich_click as click
import sqlalchemy as sa

from orchestra import clock, errors, lazy, settings
from orchestra.cli import _support
from orchestra.cli.version import versions
from orchestra.masking import mask_url
from orchestra.server import running
from orchestra.store import database as databases
from orchestra.store import queries, workers
from orchestra.store.database import Database

#: Difference of two clocks that is worth a word, in seconds; leases are compared by one clock only.
_SKEW = 1.0
#: Seconds to wait for a broker, and for a database.
_PATIENCE = 5.0

#: Where wrong settings show.
_VIEW = "orchestra config view --show-sources"

OK, FAILED, NOTE = "ok", "FAILED", "note"


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; `next` is the command to type where it failed."""

    name: str
    status: str
    message: str
    next: str | None = None


@click.command()
@_support.app_option
@_support.output_option
def doctor(output: str) -> None:
    """Check versions, settings, database, broker, workers and server; exit code 1 if a check failed.

    \b
    Example:
      orchestra doctor || exit
    """
    found = list(checks())
    if output == "json":
        _support.emit_json(found)
    else:
        for check in found:
            _support.emit(_support.visible(_line(check)))
    if any(check.status == FAILED for check in found):
        raise SystemExit(_support.ExitCode.ERROR)


def _line(check: Check) -> str:
    told = f"\n{'':<18}try: {check.next}" if check.next else ""
    return f"{check.status:<7} {check.name:<9} {check.message}{told}"


def checks() -> Iterator[Check]:
    """All checks in order; those that need the database are left out where it does not answer, or is not meant."""
    yield _versions()
    yield _guarded("settings", _settings, _VIEW)
    try:
        if _support.works_elsewhere():
            yield Check("database", NOTE, "left out: the server of ORCHESTRA_API_URL has it, and none is set here")
            yield _guarded("server", _server, _VIEW)
            return
        database = Database(settings.current().resolved_database_url, patience=_PATIENCE)
    except errors.ConfigurationError as error:
        yield Check("database", FAILED, str(error), _VIEW)
        return
    try:
        reached = _guarded("database", lambda: _database(database), _VIEW)
        yield reached
        broker = _guarded("broker", _broker, _VIEW)
        if reached.status == OK:
            yield _guarded("key", lambda: _key(database), _VIEW)
            yield _guarded("clock", lambda: _clock(database), "chronyc tracking")
        yield broker
        if reached.status == OK:
            yield _guarded("workers", lambda: _workers(database, broker), "orchestra doctor")
            yield _guarded("queues", lambda: _queues(database), "orchestra doctor")
            yield _guarded("sweeper", lambda: _sweeper(database), "orchestra doctor")
        yield _guarded("server", _server, "orchestra server status")
    finally:
        database.close()


def _guarded(name: str, look: Callable[[], Check], command: str) -> Check:
    """The check, or its failure as one."""
    try:
        return look()
    except errors.OrchestraError as error:
        return Check(name, FAILED, str(error), command)


def _versions() -> Check:
    return Check("versions", OK, ", ".join(f"{package} {number}" for package, number in versions().items()))


def _settings() -> Check:
    sources = settings.sources()
    given = [name for name, source in sources.items() if source != "default"]
    return Check("settings", OK, f"home {settings.current().home_path}, {len(given)} set, the others by default")


def _database(database: Database) -> Check:
    started = clock.monotonic()
    version = databases.schema_version(database)
    took = (clock.monotonic() - started) * 1000
    if version is not None and version != databases.SCHEMA_VERSION:
        told = f"its schema is {version}, not {databases.SCHEMA_VERSION}"
        return Check("database", FAILED, told, "orchestra db upgrade")
    if version is None:
        databases.create_schema(database)
    # An empty write shows a file that is locked or read-only.
    database.write(lambda connection: connection.execute(sa.select(1)))
    shown = f"{mask_url(database.url)}, schema {databases.SCHEMA_VERSION}, answers in {took:.0f} ms"
    return Check("database", OK, shown)


def _key(database: Database) -> Check:
    databases.check_key(database)
    return Check("key", OK, "signs as the database was written")


def _clock(database: Database) -> Check:
    before = clock.now()
    theirs = database.now()
    skew = theirs - (before + clock.now()) / 2
    if abs(skew) <= _SKEW:
        return Check("clock", OK, f"{abs(skew):.3f} s from the database's")
    where = "behind" if skew > 0 else "ahead of"
    return Check("clock", FAILED, f"this host is {abs(skew):.1f} s {where} the database", "chronyc makestep")


def _broker() -> Check:
    try:
        app = lazy.load("current_app")()
    except errors.NoBroker:
        return Check("broker", NOTE, "none is set: flows run in the process that calls them", "orchestra dev")
    url, seconds = lazy.load("reach_broker")(app, _PATIENCE)
    return Check("broker", OK, f"{mask_url(url)}, answers in {seconds * 1000:.0f} ms")


def _workers(database: Database, broker: Check) -> Check:
    live = _live(database)
    if not live:
        status = FAILED if broker.status == OK else NOTE
        return Check("workers", status, "no live worker", _start("default"))
    others = sorted({worker.version for worker in live} - {versions()["celery-orchestra"]})
    slots = sum(worker.slots for worker in live)
    told = f"{len(live)} live with {slots} slots on queues {', '.join(_consumed(live))}"
    if not others:
        return Check("workers", OK, told)
    again = _start(",".join(_consumed(live)))
    return Check(
        "workers", NOTE, f"{told}; some run version {', '.join(others)}: stop those and start them anew", again
    )


def _queues(database: Database) -> Check:
    live = _live(database)
    waiting = queries.waiting_by_queue(database)
    orphaned = {queue: count for queue, count in waiting.items() if queue not in _consumed(live)}
    if not orphaned:
        return Check("queues", OK, f"{sum(waiting.values())} runs and tasks wait for a slot")
    told = ", ".join(f"{count} on {queue!r}" for queue, count in sorted(orphaned.items()))
    return Check("queues", FAILED, f"no live worker consumes what waits: {told}", _start(",".join(sorted(orphaned))))


def _live(database: Database) -> list[workers.LiveWorker]:
    return [worker for worker in workers.live(database) if not worker.stopping]


def _consumed(live: list[workers.LiveWorker]) -> list[str]:
    return sorted({queue for worker in live for queue in worker.queues})


def _sweeper(database: Database) -> Check:
    ticked = queries.last_sweep(database)
    if ticked is None:
        return Check("sweeper", NOTE, "none has run on this database yet")
    now = clock.to_datetime(database.now())
    told = f"last did its rounds {(now - ticked).total_seconds():.0f} s ago"
    late = now - ticked > timedelta(seconds=settings.current().lease_seconds)
    if late and _live(database):
        return Check("sweeper", FAILED, f"{told}: timers and lost messages wait; restart a worker", _start("default"))
    return Check("sweeper", NOTE if late else OK, told)


def _server() -> Check:
    """Of a server that the settings name, else of the one in this home: flows need neither."""
    current = settings.current()
    if current.api_url:
        lazy.load("http_backend")(current.api_url, current.api_key).hello()
        return Check("server", OK, f"{current.api_url} answers, and the command line asks it")
    found = running.find(current.home_path)
    if found is None:
        return Check("server", OK, "none runs in this home, and flows need none")
    if not running.answers(found):
        again = "orchestra server stop; orchestra server start --background"
        return Check("server", FAILED, f"{found.url} does not answer (process {found.pid})", again)
    return Check("server", OK, f"the admin view is at {found.url}")


def _start(queues: str) -> str:
    return f"celery -A {settings.current().app or 'celery_app'} worker -Q {queues}"
