"""Whether a broker answers; for people, not for the engine, which never asks."""

from __future__ import annotations

import celery
from kombu.exceptions import OperationalError

from orchestra import clock
from orchestra.errors import BrokerUnavailable


def reach(app: celery.Celery, seconds: float) -> tuple[str, float]:
    """Connect to the app's broker: its URL without the password, and how long that took in seconds.

    Args:
        app: The app whose broker is meant.
        seconds: How long to wait for an answer.

    Raises:
        BrokerUnavailable: No answer.
    """
    started = clock.monotonic()
    options = {**app.conf.broker_transport_options, "socket_connect_timeout": seconds, "socket_timeout": seconds}
    with app.connection_for_write(connect_timeout=seconds, transport_options=options) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=seconds)
        except (OperationalError, OSError) as error:
            raise BrokerUnavailable(f"{connection.as_uri()} does not answer: {error}") from error
        return str(connection.as_uri()), clock.monotonic() - started
