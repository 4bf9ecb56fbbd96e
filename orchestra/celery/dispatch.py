"""How announcements become Celery messages, and what this process's worker is.

A message carries ids only: `(run)` for a flow, `(run, run attempt, step key)` for a step, or for hooks. Several at
once go out as one Celery group, through one producer and, where kombu can, in one batch; `shadow` shows Flower the real
names.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import mmap
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from celery import Celery
from celery.canvas import Signature, chain
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from orchestra import clock
from orchestra.celery import messages
from orchestra.celery.apps import (
    FLOW_TASK,
    HOOKS_TASK,
    PASS_ON_TASK,
    STEP_TASK,
    current_app,
    message_serializer,
    named,
    require_installed,
)
from orchestra.celery.connections import Producers, batch_of, redis_of
from orchestra.celery.timers import Timers
from orchestra.celery.watched import Watched
from orchestra.errors import ConfigurationError, StoreError
from orchestra.failpoints import failpoint
from orchestra.names import versioned_queue
from orchestra.runners.carrier import RanInline
from orchestra.specs import CELERY_TASK
from orchestra.store import unsent, workers
from orchestra.store.announcements import WAKE_SUFFIX, Announcement
from orchestra.store.database import database
from orchestra.store.wake_channels import use_broker

logger = logging.getLogger("orchestra.dispatch")

#: How long a count of live slots is used, in seconds.
_SLOTS_KEPT = 2.0
#: Timers further ahead than this are left to the sweeper, in seconds.
_LONGEST_TIMER = 60.0
#: Failures to publish are logged once in so many seconds.
_COMPLAIN_EVERY = 10.0
#: After a failure that took that long, nothing is sent for so many seconds; the rows are owed to the sweeper.
_SLOW_FAILURE, _SILENCE = 1.0, 5.0


class StopFlag:
    """Whether the worker shuts down: one byte that its forked children share."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Say that it does; may be called in a signal handler."""
        self._byte[0] = 1

    def __bool__(self) -> bool:
        return self._byte[0] == 1


class CeleryCarrier:
    """Carries announcements through one Celery app. Safe to use from any thread, and after a fork."""

    def __init__(
        self,
        app: Celery,
        *,
        queues: frozenset[str] = frozenset(),
        stop: StopFlag | None = None,
        watched: Watched | None = None,
    ) -> None:
        """Carry through `app`.

        Args:
            queues: Those that this process's worker consumes; none in a client.
            stop: Its worker's flag.
            watched: Tells who watches the worker's events.
        """
        self.app = app
        self.queues = queues
        self._stop = stop
        self._watched = watched
        self._producers = Producers(app)
        self._timers = Timers(self.announce)
        self._slots: tuple[float, dict[str, int]] = (float("-inf"), {})
        self._complained_at = self._silent_until = float("-inf")
        self._queues_lock = threading.Lock()
        use_broker(redis_of(app))

    @property
    def default_queue(self) -> str:
        """The app's default queue."""
        return str(self.app.conf.task_default_queue)

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Publish once, without retrying; what the broker does not take is owed to the sweeper again.

        What is due later is announced then, by a timer of this process.
        """
        due = [each for each in announcements if not each.delay]
        for announcement in announcements:
            if announcement.delay:
                self.later(announcement)
        if due:
            self._once(lambda: self._publish(due), due)

    def send(self, canvas: Signature, announcements: Sequence[Announcement]) -> None:
        """Publish a canvas, once, in the place of these announcements, which are the first of its steps.

        As one message, which holds the rest: applying the canvas here would subscribe to results that nobody keeps.

        Args:
            canvas: One node, or a chain that begins with one.
            announcements: Owed to the sweeper where the broker does not take it.
        """
        head, *rest = canvas.tasks if isinstance(canvas, chain) else [canvas]
        self._once(lambda: self._publish_chain(head, rest), announcements)

    def _once(self, publish: Callable[[], None], announcements: Sequence[Announcement]) -> None:
        failpoint("before_publish")
        begun = clock.monotonic()
        if begun < self._silent_until:
            self._owe(announcements)
            return
        try:
            publish()
        except Exception as error:
            if clock.monotonic() - begun >= _SLOW_FAILURE:
                self._silent_until = clock.monotonic() + _SILENCE
            self._complain(error, len(announcements))
            self._owe(announcements)
        failpoint("after_publish")

    def _publish_chain(self, head: Signature, rest: list[Signature]) -> None:
        options = head.options
        with self._producers.one() as producer:
            self._message(
                producer, head.task, list(head.args), options["shadow"], options["queue"], options.get("priority"),
                chain=rest[::-1],
            )  # fmt: skip

    def later(self, announcement: Announcement) -> None:
        """Announce at the due time, by a timer of this process; far ones are the sweeper's."""
        if announcement.delay < _LONGEST_TIMER:
            self._timers.add(announcement)

    def route(self, path: str) -> tuple[str | None, int | None]:
        """Queue and priority by the app's `task_routes`, asked with the name that Celery would give the function.

        A task of the app itself goes to the default queue where no route names another one, as it does in Celery.
        """
        if not path.startswith(CELERY_TASK):
            return self._routed(path.replace(":", "."), None)
        name = path.removeprefix(CELERY_TASK)
        queue, priority = self._routed(name, self.app.tasks.get(name))
        return queue or self.default_queue, priority

    def _routed(self, name: str, task: Any) -> tuple[str | None, int | None]:
        router = self.app.amqp.router
        route = router.lookup_route(name, (), {}, {}, task) if router.routes else None
        if not route:
            return None, None
        if isinstance(route, str):
            return route, None
        return self._queue_of(route), route.get("priority")

    def _queue_of(self, route: Mapping[str, Any]) -> str | None:
        """The queue of a route; one that names an exchange and a routing key means the queue that is bound so."""
        if queue := route.get("queue"):
            return str(getattr(queue, "name", queue))
        wanted = route.get("exchange"), route.get("routing_key")
        if None in wanted:
            return None
        bound = (each for each in self.app.amqp.queues.values() if (each.exchange.name, each.routing_key) == wanted)
        return next((each.name for each in bound), None)

    def check_queue(self, name: str) -> None:
        """Refuse a queue that the app does not know, where it allows no others.

        Raises:
            ConfigurationError: `task_create_missing_queues` is off, and `task_queues` has no such queue.
        """
        known = self.app.amqp.queues
        if not known.create_missing and name not in known:
            raise ConfigurationError(
                f"the Celery app {self.app.main!r} has no queue {name!r} in its task_queues, and "
                f"task_create_missing_queues is off; it has {', '.join(sorted(known))}"
            )

    def slots(self, queue: str) -> int:
        """Live slots of a queue, counted at most every two seconds."""
        counted_at, slots = self._slots
        if clock.monotonic() - counted_at > _SLOTS_KEPT:
            slots = workers.slots_by_queue(database())
            self._slots = clock.monotonic(), slots
        return slots.get(queue, 0)

    def stopping(self) -> bool:
        """Whether this process's worker shuts down."""
        return bool(self._stop)

    def stop(self) -> None:
        """Set the worker's flag: segments park at their next orchestra call."""
        if self._stop is not None:
            self._stop.set()

    @property
    def is_watched(self) -> bool:
        """Whether the events of this process's worker are on."""
        return bool(self._watched)

    def tell(self, ran: RanInline) -> None:
        """Send Celery's events of a step that ran inside a segment."""
        if self._watched is not None:
            self._watched.tell(ran)

    @cached_property
    def _serializer(self) -> str:
        return message_serializer(self.app)

    def _publish(self, announcements: Sequence[Announcement]) -> None:
        group = str(uuid.uuid4()) if len(announcements) > 1 else None
        with self._producers.one() as producer, batch_of(producer) if group else contextlib.nullcontext():
            for index, announcement in enumerate(announcements):
                self._send(producer, announcement, group, index if group else None)

    def _send(self, producer: Producer, announcement: Announcement, group: str | None, index: int | None) -> None:
        name, args = _task_and_args(announcement)
        queue = self._travels_on(announcement)
        if announcement.message is not None:
            assert announcement.step_key is not None
            kept = messages.restored(announcement.message)
            self._message(
                producer, name, args, announcement.name, queue, announcement.priority,
                id=announcement.step_key, serializer=self.app.conf.task_serializer, **kept,
            )  # fmt: skip
            return
        among: dict[str, Any] = {"group_id": group, "group_index": index}
        self._message(producer, name, args, announcement.name, queue, announcement.priority, **among)

    def _travels_on(self, announcement: Announcement) -> str:
        """The Celery queue for a message: that of its version, if a live worker has that one; else who has another
        version says that nobody is there (`engine.versions`)."""
        name = announcement.queue
        if announcement.version is not None:
            pinned = versioned_queue(name, announcement.version)
            if pinned in self.queues or self.slots(pinned):
                self.queue(pinned, like=name)
                name = pinned
        # A worker that was told to consume a queue while it ran (`add_consumer`) consumes that alone.
        is_apart = announcement.wake and (name in self.queues or self.slots(name))
        return name + WAKE_SUFFIX if is_apart else name

    def _message(
        self,
        producer: Producer,
        task: str,
        args: list[Any],
        shadow: str,
        queue: str,
        priority: int | None,
        *,
        id: str | None = None,
        serializer: str | None = None,
        headers: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        amqp = self.app.amqp
        # What a signature's apply_async does, at a third of its cost; the id is fresh where the message is its own.
        message = amqp.create_task_message(
            id or str(uuid.uuid4()),
            task,
            args,
            {},
            shadow=shadow,
            argsrepr=_shown(task, args),
            kwargsrepr="{}",
            create_sent_event=self.app.conf.task_send_sent_event,
            **{"ignore_result": True, **more},
        )
        ranked = {} if priority is None else {"priority": priority}
        amqp.send_task_message(
            producer, task, message, queue=self.queue(queue), serializer=serializer or self._serializer,
            headers=headers, retry=False, **ranked,
        )  # fmt: skip

    def close(self) -> None:
        """Close idle connections."""
        self._producers.close()

    def queue(self, name: str, *, like: str | None = None) -> Queue:
        """The app's declaration of a queue; one for wake-ups is declared like the queue it goes with.

        Args:
            name: The queue's.
            like: The queue like which it is declared, where the app knows it not.

        Raises:
            ConfigurationError: The app has no such queue, and allows no others.
        """
        known = self.app.amqp.queues
        if name not in known:
            base = like or name.removesuffix(WAKE_SUFFIX)
            self.check_queue(base)
            with self._queues_lock:
                if base != name:
                    known.add(_like(known[base], name))
        found: Queue = known[name]
        return found

    def _owe(self, announcements: Sequence[Announcement]) -> None:
        try:
            unsent.owe_again(database(), announcements)
        except StoreError:
            logger.debug("the rows are announced again in a lease", exc_info=True)

    def _complain(self, error: Exception, count: int) -> None:
        if clock.monotonic() - self._complained_at > _COMPLAIN_EVERY:
            self._complained_at = clock.monotonic()
            logger.warning("the broker took none or not all of %d messages (%s); they are sent again", count, error)


def _task_and_args(announcement: Announcement) -> tuple[str, list[Any]]:
    if announcement.kind == "flow":
        return FLOW_TASK, [announcement.run_id]
    if announcement.kind == "pass_on":
        return PASS_ON_TASK, [announcement.run_id]
    name = HOOKS_TASK if announcement.kind == "hooks" else STEP_TASK
    return name, [announcement.run_id, announcement.run_attempt, announcement.step_key]


def _shown(task: str, args: Sequence[Any]) -> str:
    """The arguments as Celery's log and Flower show them."""
    run_id, *place = map(str, args)
    if task == FLOW_TASK:
        return f"a segment of flow run {run_id}"
    if task == PASS_ON_TASK:
        return f"the outcome of flow run {run_id}"
    step = f"step {place[-1]} of " if place and place[-1] else ""
    return f"{'hooks of ' if task == HOOKS_TASK else ''}{step}flow run {run_id}"


def _like(base: Any, name: str) -> Queue:
    """A queue declared like another one, that gets none of its messages.

    By a topic or fanout exchange it would: it then has an exchange of its own, which is no direct one either (of those
    Celery warns where RabbitMQ delays messages).
    """
    same = {"durable": base.durable, "auto_delete": base.auto_delete}
    exchange = base.exchange
    if exchange.type != "direct":
        exchange = Exchange(name, type="topic", delivery_mode=exchange.delivery_mode, **same)
    return Queue(name, exchange, routing_key=name, queue_arguments=base.queue_arguments, **same)


# -- the carrier of this process ---------------------------------------------------------------------------------

_carrier: CeleryCarrier | None = None
#: Carriers of other apps, by the apps that task runners name.
_others: dict[Celery, CeleryCarrier] = {}


def carrier() -> CeleryCarrier:
    """The carrier of this process: its worker's, or a client's through the app in use.

    Raises:
        NoBroker: There is neither an app nor a broker.
    """
    global _carrier
    if _carrier is not None and _carrier.queues:
        return _carrier
    app = current_app()
    if _carrier is None or _carrier.app is not app:
        _carrier = CeleryCarrier(app)
    return _carrier


def remote_carrier(app: Celery | str | None) -> CeleryCarrier | None:
    """The carrier of an app: an object, a name as Celery's `-A` takes it, or None: the one in use.

    Returns:
        None where the app runs its tasks at once, in this process (`task_always_eager`).

    Raises:
        NoBroker: There is neither an app nor a broker.
        ConfigurationError: The app cannot be imported, or nobody installed orchestra in it.
    """
    found = carrier() if app is None else _carrier_of(named(app) if isinstance(app, str) else app)
    return None if found.app.conf.task_always_eager else found


def _carrier_of(app: Celery) -> CeleryCarrier:
    require_installed(app, repr(app))
    if _carrier is not None and _carrier.app is app:
        return _carrier
    if app not in _others:
        _others[app] = CeleryCarrier(app)
    return _others[app]


def use_carrier(carrier: CeleryCarrier) -> None:
    """Make `carrier` the one of this process: a worker says which queues it consumes."""
    global _carrier
    _carrier = carrier


def forget_carrier(carrier: CeleryCarrier) -> None:
    """Note that the worker whose carrier this is has ended, and the process has not."""
    if _carrier is carrier:
        forget()


def forget() -> None:
    """Close the carrier's connections and forget it (tests)."""
    global _carrier
    _close_producers()
    use_broker(None)
    _carrier = None
    _others.clear()


@atexit.register
def _close_producers() -> None:
    for each in (_carrier, *_others.values()):
        if each is not None:
            each.close()
