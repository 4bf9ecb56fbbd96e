"""The process of one run: `python -m orchestra.workers.execute`, started by a worker for a run that it has claimed.

It works under the worker's claim, and carries the run on as the worker itself would: to its end, or until it parks.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TextIO

from celery import Celery

from orchestra.celery import apps
from orchestra.celery.dispatch import CeleryCarrier, StopFlag, use_carrier
from orchestra.engine import interrupts, loops
from orchestra.engine.heartbeat import Heart
from orchestra.engine.segment import Segment, load
from orchestra.errors import Cancelled, Conflict, Signal, StoreError
from orchestra.specs import FlowSpec
from orchestra.store import claims
from orchestra.store.behind import flush
from orchestra.store.claims import Claim
from orchestra.store.database import database
from orchestra.workers.channel import AWAY, CANCEL, STOP, Briefing, ProcessEnd

logger = logging.getLogger("orchestra.worker")

#: Where memory runs out, the kernel had better end this process than the worker, which has other work.
_OOM_SCORE = "500"


class _Stop(StopFlag):
    """The worker's stop flag, as the process of a run knows it."""

    def __init__(self, channel: ProcessEnd) -> None:
        super().__init__()
        self._channel = channel

    def __bool__(self) -> bool:
        return self._channel.was_told(STOP)


def main() -> int:
    """Carry the run on; gives the exit code: 0 also for a run that has failed, which is written down."""
    channel = ProcessEnd()
    try:
        briefing = channel.briefing()
    except EOFError:
        return 1
    _settle_in(briefing)
    try:
        _carry_on(briefing, channel)
    except StoreError:
        logger.warning("the run was given up here, the database being away; it is taken up again", exc_info=True)
        channel.say(AWAY)
    except (Signal, Conflict) as reason:
        logger.info("the run was given up here: %s", reason or type(reason).__name__)
    finally:
        flush()
        loops.close()
        # Half of the time that this process would take to end goes into looking at all that is loaded once more.
        gc.freeze()
    return 0


def _settle_in(briefing: Briefing) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    if briefing.path is not None:
        sys.path[:] = [*dict.fromkeys([*sys.path, *briefing.path])]
    # Lines of runs go to the database from here; what else is logged belongs to the worker's log, not to the run's.
    logging.basicConfig(
        stream=_opened(briefing.log_to),
        format="[%(asctime)s: %(levelname)s/%(name)s] %(message)s",
        level=briefing.log_level,
    )


def _opened(descriptor: int) -> TextIO:
    """The worker's standard error; this process's, where a command of the user's has closed it on the way."""
    try:
        os.set_inheritable(descriptor, False)
        return os.fdopen(descriptor, "w", buffering=1, errors="backslashreplace")
    except OSError:
        return sys.stderr


def _carry_on(briefing: Briefing, channel: ProcessEnd) -> None:
    claimed = claims.lent(database(), briefing.run_id, briefing.owner)
    if claimed is None:
        logger.warning("flow run %s goes on elsewhere", briefing.run_id)
        return
    _obey(claimed.claim, channel)
    carrier = CeleryCarrier(_app(briefing), queues=briefing.queues, stop=_Stop(channel))
    apps.remember_worker(carrier.app)
    use_carrier(carrier)
    flow = load(database(), claimed, carrier)
    if flow is None:
        return
    with loops.kept():
        Segment(database(), _keeping_prints(flow), claimed, carrier, Heart(lent=claimed.claim)).run()


def _app(briefing: Briefing) -> Celery:
    if briefing.app is not None:
        return apps.named(briefing.app)
    app = Celery("orchestra", set_as_current=False)
    app.conf.update(briefing.conf)
    return app


def _keeping_prints(flow: FlowSpec) -> FlowSpec:
    """What this process prints is kept anyway: as lines of the body, they are not said again by a replay."""
    return replace(flow, log_prints=True) if flow.log_prints is None else flow


def _obey(claim: Claim, channel: ProcessEnd) -> None:
    """Let SIGTERM cancel the run, if the worker sent it for that; from anyone else it ends the process, as ever."""

    def on_term(number: int, frame: FrameType | None) -> None:
        if channel.was_told(CANCEL):
            claim.cancelled = True
            interrupts.raise_in_main(Cancelled())
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, on_term)


if __name__ == "__main__":
    sys.exit(main())
