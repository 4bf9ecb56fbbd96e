"""Connections to the broker: of producers, which live while nothing is sent, and of hints."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.messaging import Producer

from orchestra.celery.apps import CONSUMER_TIMEOUTS
from orchestra.store.wake_channels import Connect

#: Kombu's names of the transports to Redis and Valkey.
_REDIS = frozenset({"redis", "rediss", "sentinel"})
#: One quick second try where the connection had broken; more is the sweeper's to do.
_CONNECT: dict[str, Any] = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
    "connect_retries_timeout": 5,
}
#: For how long an answer of Redis is waited for, in seconds: one that stands still would hold `.delay()` up for ever.
#: With the second try, and a connection that was idle, it stays below five.
_ANSWER = 1.5
#: Likewise of RabbitMQ, for reading and writing.
_AMQP_ANSWER: dict[str, Any] = {"read_timeout": _ANSWER, "write_timeout": _ANSWER}


class Producers:
    """Idle producers, each with a connection of its own. A forked child starts with none."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._idle: list[tuple[int, Producer]] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[Producer]:
        """A producer for the calling thread alone; one that failed is not used again."""
        producer = self._take() or self._make()
        try:
            yield producer
        except BaseException:
            _close(producer.connection)
            raise
        self._idle.append((os.getpid(), producer))

    def _take(self) -> Producer | None:
        while True:
            try:
                pid, producer = self._idle.pop()
            except IndexError:
                return None
            if pid == os.getpid():
                if not _was_closed(producer.connection):
                    return producer
                _close(producer.connection)

    def _make(self) -> Producer:
        options = {**self._app.conf.broker_transport_options, **_CONNECT}
        # No heartbeat: nobody would send it while the connection is idle, and the broker would then close it.
        connection = self._app.connection_for_write(connect_timeout=2, transport_options=options, heartbeat=0)
        if connection.transport.driver_type == "amqp":
            connection.transport_options = {**_AMQP_ANSWER, **options}
        if connection.transport.driver_type == "redis":
            # Those of our own app are its consumer's, not chosen by anyone for this.
            ours = {name for name, value in CONSUMER_TIMEOUTS.items() if options.get(name) in (value, None)}
            connection.transport_options = options | {name: _ANSWER for name in ours}
        producer: Producer = self._app.amqp.Producer(connection, auto_declare=False)
        return producer

    def close(self) -> None:
        """Close the connections of idle producers."""
        while (producer := self._take()) is not None:
            _close(producer.connection)


def redis_of(app: Celery) -> Connect | None:
    """How hints connect to the app's broker; None where it is neither Redis nor Valkey."""
    if app.connection_for_write().transport_cls not in _REDIS:
        return None

    def connect() -> Any:
        # kombu knows about sockets, TLS and sentinels.
        options = {**app.conf.broker_transport_options, **_CONNECT, "socket_timeout": _ANSWER}
        return app.connection_for_write(connect_timeout=2, transport_options=options).default_channel.client

    return connect


def _was_closed(connection: Connection) -> bool:
    """Whether the broker has closed an idle AMQP connection, or wants to: the next message would be lost in it."""
    socket = getattr(connection.connection, "sock", None) if connection.transport.driver_type == "amqp" else None
    if socket is None:
        return False
    # Nobody asked it anything: what can be read is its good-bye. By `poll`, which takes any descriptor.
    poller = select.poll()
    poller.register(socket, select.POLLIN)
    return bool(poller.poll(0))


def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        connection.release()


def batch_of(producer: Producer) -> contextlib.AbstractContextManager[Any]:
    """One round trip for many messages, where this kombu and the transport can."""
    batch = getattr(producer, "batch", None)
    return batch() if batch is not None else contextlib.nullcontext()
