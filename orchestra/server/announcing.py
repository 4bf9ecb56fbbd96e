"""How what the server makes due is told to the workers: through orchestra's own app, else by their sweeper.

The server imports no app of a user's, so that none of their code runs in it. A READY row is the owed message: where the
server cannot send, the sweeper of a worker finds the row within a second, and no act fails because a broker is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from celery import Celery

from orchestra import settings
from orchestra.celery import apps
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.errors import ConfigurationError, NoBroker
from orchestra.runners.carrier import Carrier, RanInline
from orchestra.store import unsent
from orchestra.store.announcements import Announcement
from orchestra.store.database import database


def announce(announcements: Sequence[Announcement]) -> None:
    """Tell workers of rows that are due; handed to the verbs of `engine.operations`."""
    carrier().announce(announcements)


def carrier() -> Carrier:
    """What carries to ORCHESTRA_BROKER_URL, or to the embedded broker of this home; else what leaves it to the sweeper.

    It is left to the sweeper, too, where ORCHESTRA_APP names an app of a user's: only its workers send through that.
    """
    if settings.current().app:
        return LeftToSweeper()
    try:
        return _of(apps.own_app())
    except NoBroker:
        return LeftToSweeper()


@lru_cache(maxsize=4)
def _of(app: Celery) -> CeleryCarrier:
    return CeleryCarrier(app)


class LeftToSweeper:
    """Sends nothing: rows are written as due at once, so that the sweeper of a worker announces them."""

    queues: frozenset[str] = frozenset()
    #: That of orchestra's own app.
    default_queue = "default"

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Leave these rows to the sweeper: they were written down as announced."""
        if announcements:
            unsent.owe_again(database(), announcements, at_once=True)

    def later(self, announcement: Announcement) -> None:
        """Nothing: the sweeper announces it when it is due."""

    def route(self, path: str) -> tuple[str | None, int | None]:
        """No queue of its own, in orchestra's app.

        Raises:
            ConfigurationError: There is an app of a user's, whose routes would say it.
        """
        app = settings.current().app
        if not app:
            return None, None
        raise ConfigurationError(
            f"which queue {path!r} goes to is said by the routes of ORCHESTRA_APP={app!r}, which the server does not "
            "import: name a work queue, or give the deployment a work pool or its flow a queue"
        )

    def check_queue(self, name: str) -> None:
        """Any queue may be."""

    def slots(self, queue: str) -> int:
        """None that it knows of."""
        return 0

    def stopping(self) -> bool:
        """Never."""
        return False

    @property
    def is_watched(self) -> bool:
        """Never: no step runs here."""
        return False

    def tell(self, ran: RanInline) -> None:
        """Nothing: no step runs here."""
