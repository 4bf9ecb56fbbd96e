"""Celery's beat, with the schedules of deployments beside the app's own `beat_schedule`.

`celery -A proj beat` takes this scheduler by itself where orchestra is installed. The app's entries are sent as ever,
by Celery's own code in its own thread; deployments are looked after in a thread beside it, so that a database that is
away holds up no entry of the app. Any number of beats may run: none leads, each fires what it finds due, and the
database sees to it that each fire time has one run (`store.ticks`). So nothing has to be taken over when one dies.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import Celery
from celery.beat import PersistentScheduler

from orchestra.celery.dispatch import CeleryCarrier
from orchestra.celery.ticker import Ticker

#: How long the thread may take to end what it does, in seconds.
_LINGER = 5.0


class Scheduler(PersistentScheduler):  # type: ignore[misc]  # Celery has no types
    """Celery's scheduler, and a thread that fires the schedules of deployments from the first tick on."""

    _ticker: TickerThread | None = None

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Send what is due of the app's own entries."""
        if self._ticker is None:
            # Not before: beat may be instantiated to be looked at only, and by a process that forks.
            self._ticker = TickerThread(self.app)
            self._ticker.start()
        return super().tick(*args, **kwargs)

    def close(self) -> None:
        """End the thread, and close the app's own schedule."""
        if self._ticker is not None:
            self._ticker.end()
            self._ticker = None
        super().close()

    @property
    def info(self) -> str:
        """What beat prints at its start."""
        return f"{super().info}\n    . orchestra -> schedules of deployments"


class TickerThread:
    """A ticker in a thread of beat."""

    def __init__(self, app: Celery) -> None:
        self._ticker = Ticker(CeleryCarrier(app))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orchestra-beat", daemon=True)

    def start(self) -> None:
        """Begin the turns."""
        self._thread.start()

    def end(self) -> None:
        """No further turn; the one that runs is waited for."""
        self._ended.set()
        self._thread.join(_LINGER)

    def _run(self) -> None:
        while not self._ended.wait(self._ticker.turn()):
            pass
