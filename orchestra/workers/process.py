"""Work pools of type `process`: a run goes on in the Celery worker's own process, or in one that this starts for it.

The worker claims the run and renews the claim, for as long as the process lives; the process works under that claim,
so that it is fenced as any segment is. A body that parks ends it, and frees the slot; what the run waited for starts
another one. Where a process dies, is hung, or takes too much, the worker keeps how the body ended, and starts a second
one, which ends the run: with its code, for its hooks and what is to be rolled back. Where that dies too, the worker
ends the run without. A worker that is killed takes the process along, and the claim lapses as ever.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from celery import Celery

from orchestra import identifiers, sizes
from orchestra.celery import apps
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.celery.worker import sending_conf
from orchestra.errors import ConfigurationError, CrashedRun, RunTimeout, StoreUnavailable
from orchestra.logging import flow_run_logger
from orchestra.runners.processes import how_it_ended
from orchestra.store import claims
from orchestra.work_pools import ProcessPool
from orchestra.workers.base import Assignment, JobWorker
from orchestra.workers.channel import AWAY, CANCEL, STOP, Briefing
from orchestra.workers.processes import RunProcess, Start, memory_is_known

logger = logging.getLogger("orchestra.worker")

#: Where a template of the user's own does not say it, in seconds.
_GRACE = 10.0
#: How long a process that only ends a run may take, at least, in seconds.
_TIME_TO_END = 60.0
#: The levels of the lines that it writes.
_STREAMS = {"stdout": logging.INFO, "stderr": logging.WARNING}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may take."""

    #: Seconds it may live.
    seconds: float | None
    #: Bytes of memory.
    memory: int | None
    #: Seconds until the flow's own `timeout_seconds`, which a body that hangs does not keep.
    deadline: float | None
    #: Seconds it may take to end when it is told to.
    grace: float

    def broken(self, process: RunProcess, lived: float) -> Exception | None:
        """What the run ends by, if the process has taken too much."""
        if self.seconds is not None and lived > self.seconds:
            return RunTimeout(f"its process ran longer than its work pool's timeout_seconds={self.seconds:g}")
        if self.deadline is not None and lived > self.deadline + self.grace:
            return RunTimeout("its process ran longer than the flow's timeout_seconds, and could not be interrupted")
        if self.memory is not None and (used := process.memory()) > self.memory:
            return CrashedRun(
                f"its process ran out of memory: it used {sizes.words(used)}, and its memory_limit is "
                f"{sizes.words(self.memory)}"
            )
        return None


class ProcessWorker(JobWorker):
    """Carries a run out in this process, or in one below."""

    def carry_out(self) -> bool:
        """As `JobWorker.carry_out`."""
        given = self.assignment
        if not ProcessPool.in_subprocess(given.job.configuration):
            return False
        with given.heart.hold(given.claimed.claim):
            _Isolated(given).run()
        return True


class _Isolated:
    """One segment of a run, in a process of its own."""

    def __init__(self, given: Assignment) -> None:
        self._given = given
        self._claim = given.claimed.claim
        self._row = given.claimed.row
        self._is_over = self._row["outcome"] is not None
        self._log = flow_run_logger(_Named(self._row["id"], self._row["name"]), _Named("", self._row["flow_name"]))

    def run(self) -> None:
        """Carry the run on; what a process that died could not say, a second one writes down, or else this one."""
        error = self._once()
        if error is None:
            return
        if not self._claim.cancelled:
            self._log.error("%s", error)
            if not self._is_over and not self._given.keep_outcome(error):
                return
        self._is_over = True
        if self._once() is not None:
            self._given.end_without_code()

    def _once(self) -> Exception | None:
        """Start a process and wait for its end; gives what the run ends by, where the claim on it is not over.

        Raises:
            StoreError: The database is away.
        """
        try:
            limits = self._limits()
            process = RunProcess(Start(*self._of_job("command", "env", "working_dir")), self._briefing, self._keep_line)
        except ConfigurationError as error:
            return CrashedRun(str(error))
        try:
            broken = self._watch(process, limits)
        finally:
            # Also where this process is told to end meanwhile.
            code = process.end()
        if code != 0 and process.name is not None:
            self._free_claims_of(process.name)
        claims.renew(self._given.database, [self._claim])
        if self._claim.lost:
            return None
        if AWAY in process.said:
            raise StoreUnavailable(f"the database was away for the process of flow run {self._claim.run_id}")
        return broken or CrashedRun(_ended(code))

    def _watch(self, process: RunProcess, limits: Limits) -> Exception | None:
        """Keep an eye on a process until it has ended; gives why it was made to end, if it was."""
        was_cancelled, is_stopping, is_released = self._claim.cancelled, False, False
        for lived in process.watch():
            if not is_stopping and self._given.carrier.stopping():
                is_stopping = True
                process.tell(STOP)
            if self._claim.cancelled and not was_cancelled:
                process.tell(CANCEL)
                process.stop(limits.grace)
                return None
            if (broken := limits.broken(process, lived)) is not None:
                # One that takes memory would take more.
                process.stop(0 if isinstance(broken, CrashedRun) else limits.grace)
                return broken
            if self._claim.lost and not is_released:
                # By the process itself, which may run hooks yet, or by another claim.
                is_released = not claims.was_taken_over(self._given.database, self._claim)
                if not is_released:
                    process.stop(limits.grace)
                    return None
                limits = replace(limits, deadline=None)
        return None

    def _limits(self) -> Limits:
        seconds, memory, grace = self._of_job("timeout_seconds", "memory_limit", "grace_seconds")
        if memory is not None and not memory_is_known():
            raise ConfigurationError("memory_limit needs a worker on Linux, whose kernel says what a process holds")
        due = None if self._is_over else self._row["deadline_at"]
        left = None if due is None else max(due - self._row["claimed_at"], 0.0)
        if self._is_over and seconds is not None:
            # What is left to do is not the body's; a limit too small for that would leave it undone.
            seconds = max(seconds, _TIME_TO_END)
        return Limits(
            seconds, None if memory is None else sizes.parse(memory), left, _GRACE if grace is None else grace
        )

    def _of_job(self, *names: str) -> list[Any]:
        return [self._given.job.configuration.get(name) for name in names]

    def _briefing(self, log_to: int) -> Briefing:
        carrier = self._given.carrier
        app = carrier.app if isinstance(carrier, CeleryCarrier) else apps.current_app()
        return Briefing(
            run_id=self._claim.run_id,
            owner=self._claim.owner,
            app=_path_of(app),
            conf=sending_conf(app),
            queues=carrier.queues,
            # In full: the process may work in another folder than the worker, whose own is "" there.
            path=None if self._given.job.configuration.get("command") else list(map(os.path.abspath, sys.path)),
            log_to=log_to,
            log_level=logging.getLogger().getEffectiveLevel(),
        )

    def _keep_line(self, stream: str, text: str) -> None:
        self._log.log(_STREAMS[stream], "%s", text)

    def _free_claims_of(self, name: str) -> None:
        """Let what a process that died held beside the run lapse at once: claims on subflows that ran inside it."""
        host, _, _ = identifiers.process_of(identifiers.process())
        freed = claims.expire_dead(self._given.database, host, lambda owner: not owner.startswith(f"{host}:{name}/"))
        if freed:
            logger.warning("freed %d claims of process %s, which died", freed, name)


@dataclass(frozen=True, slots=True)
class _Named:
    id: str
    name: str


def _ended(code: int) -> str:
    hint = " (the kernel does that where the memory of the host or of its container runs out)"
    return f"its process {how_it_ended(code)}{hint if code == -signal.SIGKILL else ''}"


@lru_cache(maxsize=4)
def _path_of(app: Celery) -> str | None:
    """`module:name` of a worker's app; None where it is orchestra's own, or stands in no module's variable."""
    if apps.is_own(app):
        return None
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {"__main__", "celery", "orchestra"}:
            continue
        for variable, value in list(vars(module).items()):
            if value is app:
                return f"{name}:{variable}"
    return None
