"""The worker boot step: consumes `q.wake` and `q@version` beside each queue, brings up the sweeper, and stops in order.

The order of a stop:
1. `worker_shutting_down` sets the stop flag: flow segments park at their next orchestra call and give their slot back.
2. Celery stops consuming, then waits for the bodies that run (warm), or ends them (cold).
3. The sweeper's helper sees who was killed, frees their leases at once, gives up its lead, strikes the worker off.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from celery import bootsteps, signals

from orchestra import clock, lazy, settings
from orchestra.celery import apps, flow_task
from orchestra.celery.dispatch import CeleryCarrier, StopFlag, forget_carrier, use_carrier
from orchestra.celery.sweeper import ENDED, QUEUES, READY, STOPPING, AttendantThread, Briefing
from orchestra.celery.watched import Watched
from orchestra.engine import definitions, loops
from orchestra.errors import ConfigurationError, OrchestraError
from orchestra.names import versioned_queue
from orchestra.specs import declared_versions
from orchestra.store.announcements import WAKE_SUFFIX
from orchestra.store.behind import flush
from orchestra.store.workers import WorkerRow

logger = logging.getLogger("orchestra.worker")

#: How long the helper may take to come up before the worker goes on without waiting, in seconds.
_START_TIMEOUT = 20.0
#: How long it may take to end, in seconds.
_STOP_TIMEOUT = 15.0
#: How often it is looked whether it lives, and the longest pause before it is started again, in seconds.
_CHECK_EVERY, _LONGEST_PAUSE = 1.0, 30.0
#: Pools whose slots are in this very process; all others get a helper process.
_IN_PROCESS = {"threads", "solo"}
#: The settings by which messages are sent.
_SENDING = (
    "broker_url",
    "broker_write_url",
    "broker_transport",
    "broker_transport_options",
    "broker_use_ssl",
    "broker_login_method",
    "broker_failover_strategy",
    "broker_connection_timeout",
    "beat_scheduler",
    "task_routes",
    "task_default_queue",
    "task_default_exchange",
    "task_default_exchange_type",
    "task_default_routing_key",
    "task_default_queue_type",
    "task_default_delivery_mode",
    "task_queues",
    "task_create_missing_queues",
    "task_create_missing_queue_type",
    "task_create_missing_queue_exchange_type",
    "task_queue_max_priority",
    "task_send_sent_event",
    "task_serializer",
    "accept_content",
)


class Attending(Protocol):
    """What looks after the worker, in a thread or in a process."""

    def start(self) -> None:
        """Prepare, and see that all is right."""
        ...

    def begin(self) -> None:
        """The worker starts, which not every one does that was made."""
        ...

    def stopping(self) -> None:
        """The worker takes no more work."""
        ...

    def consumes(self, queues: tuple[str, ...]) -> None:
        """The worker was told to consume other queues than it did."""
        ...

    def check(self) -> None:
        """Start it again if it has died."""
        ...

    def end(self) -> None:
        """The worker has ended."""
        ...


class OrchestraStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """What a worker of an app with orchestra does more."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **options: Any) -> None:
        """Prepare: all that must stand before the pool forks its children."""
        super().__init__(worker, **options)
        try:
            self._prepare(worker, options)
        except OrchestraError as error:
            # Celery would show a traceback; the sentence says all.
            raise SystemExit(f"orchestra: this worker cannot start: {error}") from error

    def _prepare(self, worker: Any, options: dict[str, Any]) -> None:
        refuse_pool(_pool_name(worker.pool_cls))
        definitions.import_modules(settings.current().flows)
        if worker.time_limit or worker.soft_time_limit:
            flow_task.lift_limits(worker.app)
        queues = _consume_beside(worker.app)
        self.watched = Watched(worker.app, worker.hostname)
        self.watched.look(worker)
        self.carrier = CeleryCarrier(worker.app, queues=queues, stop=StopFlag(), watched=self.watched)
        apps.remember_worker(worker.app)
        use_carrier(self.carrier)
        # Loaded before the pool forks: every child has it from the start, and they share the memory.
        for door in ("run_segment", "run_step", "run_hooks", "heart", "carry_out_job"):
            lazy.load(door)
        self.attending = _attending(worker, self.carrier, _row(worker, queues, options.get("autoscale")))
        self.attending.start()
        self._worker = weakref.ref(worker)
        _steps.add(self)

    def start(self, worker: Any) -> None:
        """Look after the helper from the worker's loop, without a thread that a fork would meet."""
        self.attending.begin()
        worker.timer.call_repeatedly(_CHECK_EVERY, self.attending.check)
        worker.timer.call_repeatedly(_CHECK_EVERY, self.watched.look, (worker,))
        worker.timer.call_repeatedly(_CHECK_EVERY, self._look_at_queues, (worker,))

    def _look_at_queues(self, worker: Any) -> None:
        """See whether the worker was told to consume a queue, or not to (`add_consumer`, `cancel_consumer`).

        Its wake-ups are consumed, or not, with it; before that is known to others, who send them there then.
        """
        consumer = worker.consumer
        if self.carrier.stopping() or getattr(consumer, "task_consumer", None) is None:
            return
        there = {queue.name for queue in consumer.task_consumer.queues}
        now = frozenset(name for name in there if not name.endswith(WAKE_SUFFIX))
        for name in now - self.carrier.queues:
            consumer.call_soon(consumer.add_task_queue, self.carrier.queue(name + WAKE_SUFFIX, like=name).name)
        for name in self.carrier.queues - now:
            consumer.call_soon(consumer.cancel_task_queue, name + WAKE_SUFFIX)
        if now != self.carrier.queues:
            self.carrier.queues = now
            self.attending.consumes(tuple(sorted(now)))

    def close(self, worker: Any) -> None:
        """The worker takes no more work, whatever made it stop."""
        self.shutting_down()

    def stop(self, worker: Any) -> None:
        """Nothing: the pool may still be at work, and the leases of its children are looked after to the end."""

    def terminate(self, worker: Any) -> None:
        """A cold stop, the pool having ended. A worker's own process ends now, and takes the attendant along.

        Another program's, in which a worker ran in a thread (Celery's fixtures for tests start such ones), lives on.
        """
        if threading.current_thread() is threading.main_thread():
            return
        _steps.discard(self)
        self.end()
        apps.forget_worker(worker.app)
        forget_carrier(self.carrier)

    def is_of(self, worker: Any) -> bool:
        """Whether it looks after this worker."""
        return self._worker() is worker

    def shutting_down(self) -> None:
        """Let segments park. Called in a signal handler, too."""
        self.carrier.stop()
        self.attending.stopping()

    def end(self) -> None:
        """The pool has ended, or this process does."""
        self.attending.end()


#: Of the workers of this process: a program may run several, in threads.
_steps: weakref.WeakSet[OrchestraStep] = weakref.WeakSet()


def _on_shutting_down(**_: Any) -> None:
    for step in list(_steps):
        step.shutting_down()


def _on_shutdown(sender: Any, **_: Any) -> None:
    for step in list(_steps):
        if step.is_of(sender):
            _steps.discard(step)
            step.end()


def _on_exit() -> None:
    while _steps:
        _steps.pop().end()


def _on_child_ends(**_: Any) -> None:
    # A child of the pool ends by os._exit, past atexit.
    flush()
    loops.close()


signals.worker_process_shutdown.connect(_on_child_ends, weak=False)
signals.worker_shutting_down.connect(_on_shutting_down, weak=False)
signals.worker_shutdown.connect(_on_shutdown, weak=False)
# A cold stop sends no such signal.
atexit.register(_on_exit)


def _forget_in_child() -> None:
    """A forked child has no part in looking after the worker."""
    for step in list(_steps):
        if isinstance(step.attending, HelperProcess):
            step.attending.disown()
    _steps.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _consume_beside(app: Any) -> frozenset[str]:
    """Consume, beside each queue of this worker, those of the versions that its flows declare, and of the wake-ups of
    all these; gives the names without those of wake-ups."""
    named = [name for name in app.amqp.queues.consume_from if not name.endswith(WAKE_SUFFIX)]
    carrier = CeleryCarrier(app)
    pinned = {versioned_queue(name, version): name for name in named for version in declared_versions()}
    for name, base in pinned.items():
        app.amqp.queues.select_add(carrier.queue(name, like=base))
    for name in (*named, *pinned):
        app.amqp.queues.select_add(carrier.queue(name + WAKE_SUFFIX))
    return frozenset((*named, *pinned))


def _row(worker: Any, queues: frozenset[str], autoscale: tuple[int, int] | None) -> WorkerRow:
    return WorkerRow(
        name=worker.hostname,
        host=socket.gethostname(),
        pid=os.getpid(),
        queues=tuple(sorted(queues)),
        slots=autoscale[0] if isinstance(autoscale, tuple) else worker.concurrency,
        pool=_pool_name(worker.pool_cls),
        version=_version(),
    )


def _pool_name(pool: Any) -> str:
    """Celery's name of a pool, given its class or name."""
    name = str(getattr(pool, "__module__", pool)).rpartition(".")[2]
    return "threads" if name == "thread" else name


def refuse_pool(name: str) -> None:
    """Refuse pools on which flows cannot run.

    Raises:
        ConfigurationError: It is one of those; says which to take.
    """
    if name == "eventlet":
        raise ConfigurationError(
            "orchestra does not run on the eventlet pool, which is no longer developed: start the worker with "
            "-P gevent, -P threads, or -P prefork"
        )


def _version() -> str:
    try:
        return version("celery-orchestra")
    except PackageNotFoundError:
        return "0"


def _attending(worker: Any, carrier: CeleryCarrier, row: WorkerRow) -> Attending:
    if row.pool in _IN_PROCESS:
        return AttendantThread(carrier, row)
    return HelperProcess(sending_conf(worker.app), row)


def sending_conf(app: Any) -> dict[str, Any]:
    """What of the app's configuration another process needs; the log names what is left out, as it is not pickled."""
    found = {}
    for key in _SENDING:
        value = getattr(app.conf, key, None)
        try:
            pickle.dumps(value)
        except Exception:
            logger.warning("other processes of this worker cannot be given the setting %s", key)
            continue
        found[key] = value
    return found


class HelperProcess:
    """An attendant in a process of its own, started again whenever it dies; it ends when its stdin does."""

    def __init__(self, conf: dict[str, Any], row: WorkerRow) -> None:
        self._conf, self._row = conf, row
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._pause = 0.0

    def start(self) -> None:
        """Start it and wait until it is at work.

        Raises:
            ConfigurationError: It found settings, key or schema wrong; says what to do.
        """
        process = self._spawn()
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], _START_TIMEOUT)[0]:
            logger.warning("the sweeper's process is not at work yet (is the database away?); going on without waiting")
            return
        said = process.stdout.readline()
        if said != READY:
            text = said.decode(errors="replace") + process.stdout.read().decode(errors="replace")
            process.wait()
            raise ConfigurationError(text.strip() or f"the sweeper's process ended with {process.returncode}")

    def begin(self) -> None:
        """Nothing: it is at work since it was started."""

    def check(self) -> None:
        """Start it again if it has died, later and later if it does so at once."""
        process = self._process
        if process is None or process.poll() is None:
            return
        lived = clock.monotonic() - self._started_at
        if lived < self._pause:
            return
        self._pause = 1.0 if lived > _LONGEST_PAUSE else min(max(self._pause * 2, 1.0), _LONGEST_PAUSE)
        logger.warning("the sweeper's process ended with %s; starting it again", process.returncode)
        self._spawn()

    def stopping(self) -> None:
        """Tell it that the worker takes no more work."""
        self._tell(STOPPING)

    def consumes(self, queues: tuple[str, ...]) -> None:
        """Tell it which queues these are now; also the one that is started after it."""
        self._row = replace(self._row, queues=queues)
        self._tell(QUEUES + json.dumps(queues).encode() + b"\n")

    def end(self) -> None:
        """Tell it that the worker has ended, and wait until it has, too."""
        self._tell(ENDED)
        process, self._process = self._process, None
        if process is None:
            return
        self._close(process)
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def disown(self) -> None:
        """In a forked child: close our copies of its pipes, so that it sees the worker's end of them close."""
        process, self._process = self._process, None
        if process is not None:
            self._close(process)
            # Not ours to wait for.
            process.returncode = 0

    def _tell(self, what: bytes) -> None:
        """Unbuffered, so that a signal handler may do it."""
        if self._process is not None and self._process.stdin is not None:
            try:
                os.write(self._process.stdin.fileno(), what)
            except (OSError, ValueError):
                logger.debug("the sweeper's process is gone")

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            self._close(self._process)
        self._started_at = clock.monotonic()
        command = [sys.executable, "-m", "orchestra.celery.sweeper"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        Briefing(self._row, self._conf).send(process.stdin)
        self._process = process
        return process

    @staticmethod
    def _close(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    logger.debug("the pipe was broken")
