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
from orchestra.errors import NoBroker
from orchestra.store.announcements import Announcement


def announce(announcements: Sequence[Announcement]) -> None:
    """Tell workers of rows that are due; handed to the verbs of `engine.operations`.

    Raises:
        NoBroker: The server has none to send through; those verbs leave the rows to the sweeper then.
    """
    carrier().announce(announcements)


def carrier() -> CeleryCarrier:
    """What carries to ORCHESTRA_BROKER_URL, or to the embedded broker of this home.

    Raises:
        NoBroker: There is neither; or ORCHESTRA_APP names an app of a user's, through which only its workers send.
    """
    if settings.current().app:
        raise NoBroker
    return _of(apps.own_app())


@lru_cache(maxsize=4)
def _of(app: Celery) -> CeleryCarrier:
    return CeleryCarrier(app)
