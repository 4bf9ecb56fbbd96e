"""What hints travel on: LISTEN and NOTIFY of PostgreSQL, else publish and subscribe of a Redis or Valkey broker.

A hint that is lost costs a pause of whoever waits; nothing here is relied on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from sqlalchemy.engine import Engine

#: What the channels of PostgreSQL, and of a broker, are called before the kind of hint.
_PREFIX = "orchestra_"
#: Makes a `redis.Redis`, which is closed by whom it was made for.
Connect = Callable[[], Any]
#: A notification of PostgreSQL holds less than 8,000 bytes.
MOST_CHARACTERS = 7900


class Deaf(Exception):
    """Nothing can be heard here, and trying again would not help."""


class Ears(Protocol):
    """One connection that hears."""

    def listen(self, kinds: Iterable[str]) -> None:
        """Hear hints of these kinds, too."""

    def hear(self, seconds: float) -> list[tuple[str, str]]:
        """What has come, each as its kind and its text; waits for the first, at most so many seconds."""


class Channel(Protocol):
    """A way for hints. Safe to use from any thread."""

    def send(self, texts: Mapping[str, str]) -> None:
        """Send a text for each kind, at most `MOST_CHARACTERS` long. Raises what the library does."""

    def open(self) -> contextlib.AbstractContextManager[Ears]:
        """A connection of its own, to hear by.

        Raises:
            Deaf: There is none that hears.
        """

    def close(self) -> None:
        """Close what is open for sending."""


class PostgresChannel:
    """LISTEN and NOTIFY. It is never sent within a transaction of work: NOTIFY lets commits wait for each other."""

    def __init__(self, engine: Engine) -> None:
        """Send by this engine's pool, in autocommit mode."""
        self._engine = engine

    def send(self, texts: Mapping[str, str]) -> None:
        """One statement, whose commit does not wait for the disk; by the driver itself, as it is sent so often."""
        calls = ", ".join(["pg_notify(%s, %s)"] * len(texts))
        values = [value for kind, text in texts.items() for value in (_PREFIX + kind, text)]
        with self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"SELECT set_config('synchronous_commit', 'off', true), {calls}", values)

    @contextlib.contextmanager
    def open(self) -> Iterator[Ears]:
        """A connection that the pool has made, and no longer knows of."""
        pooled = self._engine.raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()
        try:
            # A pooler between (PgBouncer) has a process number of its own, and would leave LISTEN with a connection
            # that others get next.
            if driver.execute("SELECT pg_backend_pid()").fetchone()[0] != driver.info.backend_pid:
                raise Deaf("a connection pooler stands before PostgreSQL")
            yield _PostgresEars(driver)
        finally:
            driver.close()

    def close(self) -> None:
        """Nothing: the pool is the database's."""


class _PostgresEars:
    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def listen(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self._driver.execute(f"LISTEN {_PREFIX}{kind}")

    def hear(self, seconds: float) -> list[tuple[str, str]]:
        found = self._driver.notifies(timeout=seconds, stop_after=1)
        return [(each.channel.removeprefix(_PREFIX), each.payload) for each in found]


class RedisChannel:
    """Publish and subscribe."""

    def __init__(self, connect: Connect) -> None:
        """Prepare; connects in the threads that send and listen."""
        self._connect = connect
        self._sends: Any = None

    def send(self, texts: Mapping[str, str]) -> None:
        """One round trip."""
        client = self._sends = self._sends or self._connect()
        with client.pipeline(transaction=False) as pipeline:
            for kind, text in texts.items():
                pipeline.publish(_PREFIX + kind, text)
            pipeline.execute()

    @contextlib.contextmanager
    def open(self) -> Iterator[Ears]:
        """A connection that subscribes."""
        client = self._connect()
        try:
            with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                yield _RedisEars(pubsub)
        finally:
            client.close()

    def close(self) -> None:
        """Close the connection for sending."""
        client, self._sends = self._sends, None
        if client is not None:
            client.close()


class _RedisEars:
    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    def listen(self, kinds: Iterable[str]) -> None:
        self._pubsub.subscribe(*(_PREFIX + kind for kind in kinds))

    def hear(self, seconds: float) -> list[tuple[str, str]]:
        message = self._pubsub.get_message(timeout=seconds)
        if message is None:
            return []
        return [(message["channel"].decode().removeprefix(_PREFIX), message["data"].decode())]


class Chosen:
    """What carries the hints of one database: PostgreSQL itself; else the broker, where this process knows one."""

    def __init__(self, engine: Engine) -> None:
        """Choose for the database of this engine."""
        self._postgres = PostgresChannel(engine) if engine.dialect.name == "postgresql" else None
        self._redis: tuple[Connect, int, RedisChannel] | None = None

    def __call__(self) -> Channel | None:
        """The channel; None where there is none."""
        if self._postgres is not None:
            return self._postgres
        if (connect := _broker) is None:
            return None
        # A connection is not taken along by a fork.
        if self._redis is None or self._redis[:2] != (connect, os.getpid()):
            self._redis = connect, os.getpid(), RedisChannel(connect)
        return self._redis[2]


_broker: Connect | None = None


def use_broker(connect: Connect | None) -> None:
    """Let hints travel on this broker where the database carries none; None: on none any more."""
    global _broker
    _broker = connect
