"""Processes for the bodies of submitted tasks (`ProcessPoolTaskRunner`), seen from the flow's process.

Each is exec'd, not forked: it has none of our threads, locks and connections, and runs no script again. It gets one job
at a time over a socket and answers over it; closing the socket ends it. The thread that hands a job over waits for the
answer: so states, retries and hooks are this process's, and only the body runs there.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from orchestra import clock, lazy, pickles, states
from orchestra.context import FlowRunContext, TaskRunContext, task_run_context
from orchestra.engine import interrupts
from orchestra.engine.bodies import name_of
from orchestra.errors import CancelledRun, CrashedRun, NotImportable, SerializationError
from orchestra.logging import TASK_RUNS, log_relayed, run_log_level
from orchestra.runners.pool_process import ERROR, LINE, STARTED, Job, Run
from orchestra.specs import CELERY_TASK, TaskSpec, require_importable

#: For how long a body over its time may take to end by itself before its process is killed, in seconds.
GRACE = 2.0
#: For how long an idle process may take to end, in seconds.
_END_TIMEOUT = 5.0
#: How its process is started: with our import path, whatever made it.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; from orchestra.runners.pool_process import main; main(int(sys.argv[1]))"
)


class _Died(Exception):
    """The process has ended before its answer came."""

    def __init__(self, *, while_idle: bool) -> None:
        super().__init__(while_idle)
        #: It had ended after its last job, and did not begin this one.
        self.while_idle = while_idle


class ProcessPool:
    """The processes of one flow run: started as they are needed, used again, ended with the run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._killed = False

    def call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None = None,
        log_prints: bool = False,
    ) -> Any:
        """Call the body of the task run that runs in this thread, in a process of its own.

        Args:
            timeout: Seconds the body may take; its process is killed where it does not end by itself then.
            log_prints: Whether what it prints becomes log lines.

        Returns:
            What the body returned; a state where its process died (Crashed) or was ended with the flow (Cancelled).

        Raises:
            SerializationError: Function, arguments or result cannot be handed to another process.
            RunTimeout: It took longer.
            Exception: What the body raised.
        """
        context = task_run_context.get()
        assert context is not None
        job = _job(context, fn, args, kwargs, timeout, log_prints)
        while (worker := self._take()) is not None:
            try:
                answer = worker.carry_out(job, context.flow_run, timeout)
            except _Died as died:
                code = self._bury(worker)
                if died.while_idle:
                    continue
                return _ended_with_flow() if self._killed else _crashed(code)
            except BaseException:
                self._bury(worker)
                raise
            break
        else:
            return _ended_with_flow()
        self._give_back(worker)
        if answer is None:
            raise interrupts.timeout_error(name_of(fn), timeout or 0.0)
        kind, data = answer
        if kind == ERROR:
            error, context.retry_delay = data
            raise pickles.load_exception(error)
        return pickles.loads(data)

    def kill(self) -> None:
        """End all processes, at work or not, and start no more."""
        with self._lock:
            self._killed = True
            workers = list(self._all)
        for worker in workers:
            worker.kill()

    def close(self) -> None:
        """End the processes that wait for work."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._all.difference_update(idle)
        for worker in idle:
            worker.connection.close()
        for worker in idle:
            worker.end()

    def _take(self) -> _Worker | None:
        with self._lock:
            if self._killed:
                return None
            if self._idle:
                return self._idle.pop()
            worker = _Worker()
            self._all.add(worker)
            return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if worker.usable:
                self._idle.append(worker)
                return
        self._bury(worker)

    def _bury(self, worker: _Worker) -> int:
        """Kill a process, if it lives, and forget it; gives its exit code."""
        with self._lock:
            self._all.discard(worker)
        worker.kill()
        return worker.end()


class _Worker:
    """One process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            # In a session of its own: Ctrl-C in a terminal is for us, and what a body starts is ended with it.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(number), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self.usable = True
        self._jobs = 0
        self._begun = False
        self._knows: tuple[str, int] | None = None

    def carry_out(self, job: Job, flow_run: FlowRunContext | None, timeout: float | None) -> tuple[str, Any] | None:
        """Hand a job over and wait for its end: the kind of the answer and its bytes; None: it was over its time.

        Raises:
            _Died: The process has ended before.
        """
        self._jobs += 1
        self._begun = False
        try:
            self._tell(flow_run)
            self.connection.send_bytes(pickle.dumps(job))
            return self._answer(timeout)
        except (EOFError, OSError) as error:
            raise _Died(while_idle=self._jobs > 1 and not self._begun) from error

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        self.usable = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait for its end; gives its exit code."""
        self.connection.close()
        try:
            return self.process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()

    def _tell(self, flow_run: FlowRunContext | None) -> None:
        """Say once which flow run this is: its parameters may be large."""
        told = None if flow_run is None else (flow_run.run_id, flow_run.run_attempt)
        if flow_run is not None and told != self._knows:
            self.connection.send_bytes(pickle.dumps(_described(flow_run)))
            self._knows = told

    def _answer(self, timeout: float | None) -> tuple[str, Any] | None:
        end: float | None = None
        while True:
            left = None if end is None else max(end - clock.monotonic(), 0.0)
            if not self.connection.poll(left):
                self.kill()
                return None
            # From our own child.
            kind, data = pickle.loads(self.connection.recv_bytes())
            if kind == LINE:
                log_relayed(data)
            elif kind == STARTED:
                self._begun = True
                end = None if timeout is None else clock.monotonic() + timeout + GRACE
            else:
                return kind, data


def _job(
    context: TaskRunContext,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None,
    log_prints: bool,
) -> Job:
    name = context.task.name
    return Job(
        name=name,
        path=context.task.path if _is_importable(context.task) else None,
        function=b"" if _is_importable(context.task) else pickles.dumps(fn, f"the function of task {name!r}"),
        arguments=pickles.dumps(
            (args, kwargs), f"the set of arguments of task {name!r}, which runs in another process"
        ),
        task_run_id=context.task_run_id,
        task_run_name=context.task_run_name,
        step_key=context.step_key,
        attempt=context.attempt,
        idempotency_key=context.idempotency_key,
        tags=context.tags,
        retries=context.task.max_retries,
        timeout=timeout,
        log_prints=log_prints,
        log_level=run_log_level(TASK_RUNS),
    )


def _is_importable(task: TaskSpec) -> bool:
    """Whether another process finds this very function where the task's path says."""
    try:
        require_importable(task.path, "task")
    except NotImportable:
        return False
    if task.celery_name is not None:
        return not task.path.startswith(CELERY_TASK)
    found = lazy.loaded(task.path)
    return found is not None and found.spec.fn is task.fn


def _described(flow_run: FlowRunContext) -> Run:
    try:
        parameters = pickles.dumps(flow_run.parameters, "the parameters")
    except SerializationError:
        parameters = b""
    return Run(
        run_id=flow_run.run_id,
        run_name=flow_run.run_name,
        flow_name=flow_run.flow.name,
        flow_path=flow_run.flow.path,
        parameters=parameters,
        tags=flow_run.tags,
        run_attempt=flow_run.run_attempt,
        parent_run_id=flow_run.parent_run_id,
        root_run_id=flow_run.root_run_id,
        scheduled_start_time=flow_run.scheduled_start_time,
        start_time=flow_run.start_time,
        log_prints=flow_run.log_prints,
        depth=flow_run.depth,
    )


def how_it_ended(code: int) -> str:
    """An exit code as `subprocess` gives it, in words: "ended with exit code 3", "was killed by SIGKILL"."""
    try:
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    except ValueError:
        return f"was killed by signal {-code}"


def _crashed(code: int) -> states.State[Any]:
    return states.from_exception(CrashedRun(f"the process that ran it {how_it_ended(code)}"))


def _ended_with_flow() -> states.State[Any]:
    return states.from_exception(CancelledRun("its flow run ended before it did"))
