"""The sweeper: announces what is owed, ends what is over, and keeps a worker's row and leases.

One runs beside every worker: in a thread, or, where the worker forks, in a process of its own (`python -m` this
module) that was exec'd and not forked, so that no fork ever inherits a database connection. A row in the database
elects the one that sweeps; each looks after its own worker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import IO, Any

from celery import Celery

from orchestra import clock, identifiers, settings
from orchestra.celery.apps import CELERYS_SCHEDULER, SCHEDULER
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.celery.processes import Watch
from orchestra.celery.ticker import Lateness, Ticker
from orchestra.engine import leases
from orchestra.errors import ConfigurationError, SchemaMismatch, StoreUnavailable
from orchestra.runners.carrier import Carrier
from orchestra.store import claims, due, leaders, local_runs, pass_ons, removal, run_slots, slots, workers
from orchestra.store.claims import Claim
from orchestra.store.database import Database, database
from orchestra.store.workers import WorkerRow

logger = logging.getLogger("orchestra.sweeper")

DUTY = "sweeper"
#: Timers are at most this late, in seconds.
LONGEST_WAIT = 1.0
#: A leader that is silent for so long is replaced, in seconds, where a lease is not shorter.
_LEADER_LEASE = 10.0
#: Part of a lease for which it leads at most: where a leader dies, the next one does not take the database to have
#: been away (`leaders.may_expire`), and frees what that one's worker held without another lease of waiting.
_LEADERS_SHARE = 0.5
#: How often the worker's processes are looked at, in seconds.
_WATCH_EVERY = 0.25
#: Likewise while new ones are forked, at the start and when one has died, and for how long: a process that is never
#: seen alive, as the code it imports kills it at once, is not known to have died.
_ALERT_EVERY, _ALERT = 0.02, 10.0
#: How long we look after the children of a worker that has died, in seconds. A lease later its helper process ends,
#: whatever it waits for: what it would free has lapsed by then.
_LINGER = 10.0
#: How often what is old is deleted, and when first after a start, in seconds.
_PRUNE_EVERY, _PRUNE_FIRST = 3600.0, 60.0
#: Messages taken in one go.
_PAGE = 500
#: Exit code where nothing but a person can help: wrong settings, key or schema.
EX_CONFIG = 78
#: Where the worker has died and the database is away.
EX_ORPHANED = 75


class Sweeper:
    """Announces what is owed, if it is the leader. One `tick` at a time; a failing one is logged and repeated."""

    def __init__(self, database: Database, carrier: Carrier, ticker: Ticker | None = None) -> None:
        """Sweep this database.

        Args:
            ticker: Fires schedules, where the leader is to do that.
        """
        self._database = database
        self._carrier = carrier
        self._ticker = ticker
        self._lateness = Lateness()
        self._owner = identifiers.owner()
        self._is_leader = False
        self._lead_at = self._sweep_at = float("-inf")
        self._rollback = _Aside("orchestra-rollback")
        self._prune = _Aside("orchestra-prune")
        self._prune_at = clock.monotonic() + _PRUNE_FIRST

    def tick(self) -> float:
        """Do what is due; gives the seconds until the next tick, at most one."""
        try:
            self._ask_to_lead()
            return self._work() if self._is_leader else LONGEST_WAIT
        except Exception:
            logger.warning("a sweep failed; it is repeated", exc_info=True)
            self._lead_at = float("-inf")
            return LONGEST_WAIT

    def hasten(self) -> None:
        """Look for lapsed leases at the next tick; those of dead processes do not wait for the period to be over."""
        self._sweep_at = float("-inf")

    def step_down(self) -> None:
        """Let another lead at once."""
        if self._is_leader:
            leaders.step_down(self._database, DUTY, self._owner)

    def _ask_to_lead(self) -> None:
        now = clock.monotonic()
        if now < self._lead_at:
            return
        leader_lease = min(settings.current().lease_seconds * _LEADERS_SHARE, _LEADER_LEASE)
        self._is_leader = leaders.lead(self._database, DUTY, self._owner, leader_lease)
        if self._is_leader:
            due.keep_watch(self._database)
        self._lead_at = now + leader_lease / 3

    def _work(self) -> float:
        if self._ticker is not None:
            self._ticker.turn()
        # Beat does so too, and may not be there.
        self._lateness.look(self._database)
        self._announce(due.complete_due(self._database))
        self._announce(slots.sweep(self._database))
        self._announce(run_slots.serve(self._database, expire=True))
        now = clock.monotonic()
        sweep = now >= self._sweep_at
        while taken := due.take_due(self._database, limit=_PAGE, lapsed=sweep):
            self._announce(taken)
            if len(taken) < _PAGE:
                break
        if sweep:
            self._sweep_at = now + settings.current().sweep_seconds
            self._announce(due.recount(self._database))
            for owed in pass_ons.take_owed(self._database, limit=_PAGE):
                # Each by itself: one whose message cannot be read holds up no other.
                self._announce([owed])
            due.expire_local(self._database)
            slots.purge(self._database)
            workers.tell_lost(self._database)
            run_slots.purge(self._database)
            self._roll_back_dead()
            self._delete_old()
        return self._until_next()

    def _roll_back_dead(self) -> None:
        """Roll back what dead processes left open in local runs: hooks are users' code, and hold up no sweep."""
        if not self._rollback.is_busy and local_runs.dead_in_transactions(self._database, identifiers.is_dead_here):
            self._rollback.begin(lambda: leases.mark_dead(self._database))

    def _delete_old(self) -> None:
        """Delete what is older than it is to be kept; it may be much, and holds up no sweep."""
        if self._prune.is_busy or clock.monotonic() < self._prune_at:
            return
        self._prune_at = clock.monotonic() + _PRUNE_EVERY
        keep = settings.current().retention_seconds

        def prune() -> None:
            workers.forget_old(self._database)
            removal.prune(self._database, keep)

        self._prune.begin(prune)

    def _announce(self, announcements: list[due.Announcement]) -> None:
        self._carrier.announce(announcements)

    def _until_next(self) -> float:
        until_sweep = self._sweep_at - clock.monotonic()
        earliest = due.next_due(self._database)
        # What is due already and was not taken (held, beyond a page) must not make us spin.
        wait = LONGEST_WAIT if earliest is None else earliest - self._database.now()
        return min(wait if wait > 0 else LONGEST_WAIT, max(until_sweep, 0.01), LONGEST_WAIT)


class _Aside:
    """One piece of work at a time, in a thread beside the sweeps; what fails is done again when it is due again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether it is not done yet."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, work: Callable[[], object]) -> None:
        """Start it; the process need not wait for it to end."""

        def guarded() -> None:
            try:
                work()
            # Users' hooks and storages raise what they like: the thread's end would be told on stderr only.
            except Exception:
                logger.warning("%s failed; it is done again later", self._name, exc_info=True)

        self._thread = threading.Thread(target=guarded, name=self._name, daemon=True)
        self._thread.start()


@dataclass(slots=True)
class Patience:
    """For how long silent claims are renewed from outside."""

    limit: float
    #: Of each silent claim, when its silence began, and when it was last seen, in monotonic seconds.
    _silent: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)

    def renewable(self, silent: list[Claim], now: float) -> list[Claim]:
        """Of the claims that their owners do not renew, those not silent for too long. `now` is monotonic seconds."""
        return [claim for claim in silent if self._seconds(claim, now) < self.limit]

    def _seconds(self, claim: Claim, now: float) -> float:
        """For how long a claim has been silent. Where it was not seen for a lease, its owner has renewed it since."""
        key = claim.owner, claim.number
        since, seen = self._silent.get(key, (now, now))
        if now - seen > claim.lease_seconds:
            since = now
        self._silent[key] = since, now
        self._silent = {key: times for key, times in self._silent.items() if now - times[1] <= self.limit}
        return now - since


class Attendant:
    """Looks after one worker: its row, its dead children's leases, its silent children's leases; and sweeps."""

    def __init__(self, database: Database, carrier: CeleryCarrier, worker: WorkerRow) -> None:
        self._database = database
        self._sweeper = Sweeper(database, carrier, _ticker(carrier))
        self._worker = worker
        self._watch = Watch(worker.pid)
        self._alert_until = clock.monotonic() + _ALERT
        self._patience = Patience(settings.current().hung_after)
        self._sweep_at = self._beat_at = float("-inf")
        #: Its processes, as last noted with its heartbeat.
        self._told: frozenset[str] = frozenset()
        #: Whether its queues are others than were last noted.
        self._are_other = False
        self.stopping = False

    def start(self) -> None:
        """Write the worker down."""
        workers.register(self._database, self._worker)

    def turn(self) -> float:
        """Do what is due; gives the seconds until the next turn."""
        now = clock.monotonic()
        self._guard(self._look_after_dead)
        if now >= self._beat_at or self._watch.alive != self._told:
            self._beat_at = now + settings.current().lease_seconds / 6
            self._guard(self._beat)
            self._guard(self._renew_silent)
        if now >= self._sweep_at:
            self._sweep_at = clock.monotonic() + self._sweeper.tick()
        watch_every = _ALERT_EVERY if now < self._alert_until else _WATCH_EVERY
        return max(min(watch_every, self._sweep_at - clock.monotonic()), 0.005)

    def beat_now(self) -> None:
        """Give the next heartbeat at the next turn."""
        self._beat_at = float("-inf")

    def consumes(self, queues: tuple[str, ...]) -> None:
        """The worker was told to consume other queues than it did; noted at the next turn. Called in another thread."""
        self._worker = replace(self._worker, queues=queues)
        self._are_other = True
        self.beat_now()

    def leave(self, *, died: bool = False) -> None:
        """The worker has ended: free what its dead processes held, and strike it off.

        Args:
            died: It did not end by itself: its children are dying, too.
        """
        self._guard(self._sweeper.step_down)
        self._guard(self._look_after_dead)
        end = clock.monotonic() + _LINGER
        while died and self._watch.any_alive and clock.monotonic() < end:
            select.select([], [], [], 0.05)
            self._guard(self._look_after_dead)
        if died:
            # Those that it forked just before, and that we never saw, end as well.
            select.select([], [], [], _WATCH_EVERY)
            self._guard(lambda: self._free(lambda owner: not self._watch.may_have_died(_process(owner))))
        self._guard(lambda: workers.leave(self._database, self._worker.name, died=died))

    def _look_after_dead(self) -> None:
        if self._watch.look():
            self._alert_until = clock.monotonic() + _ALERT
            self._free(lambda owner: not self._watch.has_died(_process(owner)))

    def _free(self, may_live: Callable[[str], bool]) -> None:
        """Let go what dead processes held, and have it announced at once."""
        freed = claims.expire_dead(self._database, self._worker.host, may_live, orderly=self.stopping)
        if freed:
            logger.warning("freed %d claims of processes that died", freed)
            self._sweeper.hasten()
            self._sweep_at = float("-inf")

    def _beat(self) -> None:
        self._told = self._watch.alive
        if not workers.beat(self._database, self._worker.name, stopping=self.stopping, processes=self._told):
            workers.register(self._database, self._worker)
            self._told = frozenset()
        if self._are_other:
            # Before it is noted: what is told meanwhile is noted at the turn after.
            self._are_other = False
            workers.consume(self._database, self._worker.name, self._worker.queues)

    def _renew_silent(self) -> None:
        nearly = claims.about_to_lapse(self._database, self._worker.host)
        silent = [claim for claim in nearly if self._watch.runs(_process(claim.owner))]
        if renewable := self._patience.renewable(silent, clock.monotonic()):
            claims.renew(self._database, renewable)

    @staticmethod
    def _guard(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            logger.warning("could not look after the worker; trying again", exc_info=True)


def _ticker(carrier: CeleryCarrier) -> Ticker | None:
    """What fires schedules in the sweeper: needed where the app's beat runs a scheduler that knows nothing of them."""
    return None if carrier.app.conf.beat_scheduler in (CELERYS_SCHEDULER, SCHEDULER) else Ticker(carrier)


def _process(owner: str) -> str:
    _, pid, start = identifiers.process_of(owner)
    return f"{pid}:{start}"


# -- in a thread -------------------------------------------------------------------------------------------------


class AttendantThread:
    """An attendant in a thread of the worker, for pools that do not fork."""

    def __init__(self, carrier: CeleryCarrier, worker: WorkerRow) -> None:
        self._attendant = Attendant(database(), carrier, worker)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orchestra-sweeper", daemon=True)

    def start(self) -> None:
        """Write the worker down."""
        self._attendant.start()

    def begin(self) -> None:
        """Begin the rounds."""
        self._thread.start()

    def stopping(self) -> None:
        """The worker takes no more work."""
        self._attendant.stopping = True
        self._attendant.beat_now()

    def consumes(self, queues: tuple[str, ...]) -> None:
        """The worker was told to consume other queues than it did."""
        self._attendant.consumes(queues)

    def check(self) -> None:
        """Nothing to do: a thread whose turns are guarded does not die."""

    def end(self) -> None:
        """The worker has ended."""
        self._ended.set()
        if self._thread.ident is None:
            self._attendant.leave()
        else:
            self._thread.join(_LINGER)

    def _run(self) -> None:
        while not self._ended.wait(self._attendant.turn()):
            pass
        self._attendant.leave()


# -- in a process ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Briefing:
    """What the worker tells its helper process at the start, over its stdin."""

    worker: WorkerRow
    #: The part of the app's configuration by which messages are sent.
    conf: dict[str, Any]

    def send(self, to: IO[bytes]) -> None:
        """Write it, with its length before it."""
        body = pickle.dumps((self.worker, self.conf))
        to.write(struct.pack(">I", len(body)) + body)
        to.flush()

    @staticmethod
    def receive(source: IO[bytes]) -> Briefing:
        """Read what `send` wrote; it comes from our own parent."""
        (size,) = struct.unpack(">I", source.read(4))
        return Briefing(*pickle.loads(source.read(size)))


#: What the helper says when it is at work.
READY = b"ready\n"
#: What it is told, in lines: the worker stops; it has ended; it consumes these queues, which follow as JSON.
STOPPING, ENDED, QUEUES = b"s\n", b"e\n", b"q"


def main() -> int:
    """The helper process of a worker: reads its briefing, works until its stdin ends; gives the exit code."""
    # The worker decides when we end, by closing our stdin; a Ctrl-C or a TERM to the whole group is not for us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="[%(asctime)s: %(levelname)s/%(name)s] %(message)s", level=logging.INFO)
    briefing = Briefing.receive(sys.stdin.buffer)
    patience = _LINGER + settings.current().lease_seconds
    threading.Thread(target=_end_after_worker, args=(patience,), name="orchestra-orphan", daemon=True).start()
    app = Celery("orchestra", set_as_current=False)
    app.conf.update(briefing.conf)
    try:
        opened = _open()
    except (ConfigurationError, SchemaMismatch) as error:
        os.write(1, f"{error}\n".encode())
        return EX_CONFIG
    attendant = Attendant(opened, CeleryCarrier(app), briefing.worker)
    attendant.start()
    with contextlib.suppress(BrokenPipeError):
        os.write(1, READY)
    _attend(attendant)
    return 0


def _end_after_worker(seconds: float) -> None:
    """End this process so many seconds after its worker has, though the database be away: nobody else would end it."""
    poller = select.poll()
    # Its end of our stdin closes. What it says there is for the main thread to read.
    poller.register(0, 0)
    poller.poll()
    select.select([], [], [], seconds)
    os._exit(EX_ORPHANED)


def _open() -> Database:
    """The database, waited for as long as the worker lives."""
    parent = os.getppid()
    while True:
        try:
            return database()
        except StoreUnavailable:
            logger.warning("the database is away; trying again", exc_info=True)
            if os.getppid() != parent:
                sys.exit(1)


def _attend(attendant: Attendant) -> None:
    told = b""
    while ENDED not in (lines := told.splitlines(keepends=True)):
        whole = [line for line in lines if line.endswith(b"\n")]
        for line in whole:
            _take_in(attendant, line)
        # The rest of a long line comes with the next reading.
        told = told[sum(map(len, whole)) :]
        readable, _, _ = select.select([0], [], [], attendant.turn())
        if not readable:
            continue
        read = os.read(0, 65_536)
        told += read
        if not read:
            break
    attendant.leave(died=ENDED not in told)


def _take_in(attendant: Attendant, line: bytes) -> None:
    if line.startswith(QUEUES):
        attendant.consumes(tuple(json.loads(line.removeprefix(QUEUES))))
        return
    attendant.stopping = True
    attendant.beat_now()


if __name__ == "__main__":
    sys.exit(main())
