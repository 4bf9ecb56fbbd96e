"""The other end of `processes`: a process that runs bodies, one at a time, for the flow's process that started it.

Bodies run in its main thread, so that their timeouts interrupt also blocking calls. A second thread reads the socket:
when the flow's process is gone, it ends this one in the midst of a body.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from orchestra import pickles
from orchestra.context import FlowRunContext, TaskRunContext, flow_run_context, task_run_context
from orchestra.engine import bodies, definitions
from orchestra.engine.parameters import bind
from orchestra.engine.unknown import unknown_flow
from orchestra.errors import SerializationError
from orchestra.logging import TASK_RUNS, relay_to
from orchestra.specs import TaskSpec

#: What the process says: a body begins, a log line, how the body ended.
STARTED, LINE, VALUE, ERROR = "started", "line", "value", "error"


@dataclass(frozen=True, slots=True)
class Run:
    """The flow run whose tasks the process runs. Instants are seconds since the epoch."""

    run_id: str
    run_name: str
    flow_name: str
    flow_path: str
    #: Pickled; empty where they cannot be.
    parameters: bytes
    tags: tuple[str, ...]
    run_attempt: int
    parent_run_id: str | None
    root_run_id: str | None
    scheduled_start_time: float | None
    start_time: float | None
    log_prints: bool
    depth: int


@dataclass(frozen=True, slots=True)
class Job:
    """One call of a body. Durations are in seconds."""

    name: str
    #: `module:qualname` of the task; None: its function is in `function`.
    path: str | None
    #: Pickled.
    function: bytes
    #: Pickled: positional ones, and those by name.
    arguments: bytes
    task_run_id: str
    task_run_name: str
    step_key: str | None
    attempt: int
    idempotency_key: str
    tags: tuple[str, ...]
    retries: int
    timeout: float | None
    log_prints: bool
    log_level: int


class _Process:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._flow_run: FlowRunContext | None = None
        #: After how many seconds the body that failed asks for another try.
        self._retry_delay: float | None = None

    def run(self) -> None:
        """Work until the other end closes."""
        relay_to(lambda fields: self._send(LINE, fields))
        threading.Thread(target=self._receive, name="orchestra-jobs", daemon=True).start()
        while (job := self._jobs.get()) is not None:
            kind, data = self._answer(job)
            self._busy.clear()
            self._send(kind, data)

    def _receive(self) -> None:
        try:
            while True:
                # From the process that started this one.
                received = pickle.loads(self._connection.recv_bytes())
                if isinstance(received, Run):
                    self._flow_run = _flow_run(received)
                    continue
                self._busy.set()
                self._jobs.put(received)
        except (EOFError, OSError):
            if self._busy.is_set():
                os._exit(1)
            self._jobs.put(None)

    def _send(self, kind: str, data: Any) -> None:
        with self._sending:
            self._connection.send_bytes(pickle.dumps((kind, data)))

    def _answer(self, job: Job) -> tuple[str, Any]:
        self._retry_delay = None
        try:
            return VALUE, pickles.dumps(self._call(job), f"the result of task {job.name!r}")
        except BaseException as error:  # the body's, whatever it is: the flow's process decides what becomes of it
            return ERROR, (pickles.dump_exception(error), self._retry_delay)

    def _call(self, job: Job) -> Any:
        fn: Callable[..., Any] = (
            definitions.load_task(job.path).fn if job.path is not None else pickles.loads(job.function)
        )
        args, kwargs = pickles.loads(job.arguments)
        flow_token = flow_run_context.set(self._flow_run)
        context = _task_run(job, fn, bind(fn, args, kwargs), self._flow_run)
        task_token = task_run_context.set(context)
        logging.getLogger(TASK_RUNS).setLevel(job.log_level)
        self._send(STARTED, None)
        try:
            return bodies.call(fn, args, kwargs, timeout=job.timeout, log_prints=job.log_prints)
        finally:
            self._retry_delay = context.retry_delay
            task_run_context.reset(task_token)
            flow_run_context.reset(flow_token)


def _task_run(
    job: Job, fn: Callable[..., Any], parameters: dict[str, Any], flow_run: FlowRunContext | None
) -> TaskRunContext:
    path = job.path or f"__main__:{job.name}"
    spec = TaskSpec(fn, job.name, path, tags=frozenset(job.tags), retries=job.retries, timeout_seconds=job.timeout)
    return TaskRunContext(
        task=spec,
        task_run_id=job.task_run_id,
        task_run_name=job.task_run_name,
        flow_run=flow_run,
        step_key=job.step_key,
        attempt=job.attempt,
        idempotency_key=job.idempotency_key,
        parameters=parameters,
        tags=job.tags,
        log_prints=job.log_prints,
    )


def _flow_run(run: Run) -> FlowRunContext:
    return FlowRunContext(
        flow=unknown_flow(run.flow_path, run.flow_name),
        run_id=run.run_id,
        run_name=run.run_name,
        parameters=_parameters(run),
        runner=None,  # type: ignore[arg-type]  # a task's calls run plainly, in this process
        tags=run.tags,
        run_attempt=run.run_attempt,
        parent_run_id=run.parent_run_id,
        root_run_id=run.root_run_id,
        scheduled_start_time=run.scheduled_start_time,
        start_time=run.start_time,
        log_prints=run.log_prints,
        depth=run.depth,
    )


def _parameters(run: Run) -> dict[str, Any]:
    try:
        parameters: dict[str, Any] = pickles.loads(run.parameters) if run.parameters else {}
    except SerializationError:
        return {}  # nice to have only: what a body works with are its arguments
    return parameters


def main(number: int) -> None:
    """Work for the process at the other end of the socket with this file descriptor."""
    _Process(Connection(number)).run()
