"""Tasks of an existing Celery app as tasks of flows.

What Celery does around a body (`self.request`, `before_start`, `on_success` and its kin, signals, `autoretry_for`,
`self.retry`) is done by Celery's own tracer. What it does with messages and results is orchestra's: a retry is the next
attempt of the task run, and the value goes into the journal.
"""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from importlib import import_module
from typing import Any

from celery import Task, current_task
from celery import states as celery_states
from celery.app.trace import build_tracer
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded
from celery.local import Proxy
from celery.result import allow_join_result
from celery.utils.time import maybe_make_aware

from orchestra import lazy, states, tasks
from orchestra.callables import is_async
from orchestra.celery import apps
from orchestra.context import TaskRunContext, task_run_context
from orchestra.engine import interrupts
from orchestra.engine.task_run import UNLIMITED
from orchestra.errors import DefinitionError, MissingContextError, ReservedArgumentError
from orchestra.specs import CELERY_TASK, TaskSpec, is_celery_task, overridden

#: Until a task that asked to be put back into its queue (`Reject(requeue=True)`) is tried again, in seconds.
_REQUEUE_PAUSE = 1.0


def adopted(origin: Any) -> tasks.Task[..., Any]:
    """A Celery task as a task of flows, without options of its own; the same one each time.

    Raises:
        DefinitionError: It is no Celery task, or one that Celery itself could not run.
        ReservedArgumentError: A parameter has a name that a call keeps for itself.
    """
    return _adopted(resolved(origin))


def spec_of(origin: Any, options: Mapping[str, Any] | None = None) -> TaskSpec:
    """A Celery task as the engine sees it.

    Args:
        origin: The task, or Celery's proxy of one.
        options: Fields of the spec that were given; they travel with each call.

    Raises:
        DefinitionError: It is no Celery task, or one that Celery itself could not run.
        ReservedArgumentError: A parameter has a name that a call keeps for itself.
    """
    return overridden(_spec(resolved(origin)), options or {})


def registered(name: str) -> Any:
    """The task that an app knows by this name.

    Raises:
        LookupError: No task of this name is registered in the app of this process.
        NoBroker: There is no app.
    """
    app = apps.current_app()
    if name not in app.tasks:
        raise LookupError(
            f"no task of this name is registered in the Celery app {app.main!r} of this process; add its module to the "
            "app's `imports` or `include`"
        )
    return app.tasks[name]


def resolved(origin: Any) -> Any:
    """The task behind Celery's proxies; of a `@shared_task`, the one of the app that is in use here."""
    found = origin._get_current_object() if issubclass(type(origin), Proxy) else origin
    if not isinstance(found, Task):
        raise DefinitionError(f"@task takes a function or a Celery task, not {found!r}")
    if type(origin) is Proxy and (app := apps.known_app()) is not None:
        return app.tasks.get(found.name, found)
    return found


def asks_again(task: Any, task_run: Any, state: states.State[Any]) -> bool:
    """Whether a failed try is followed by another one: where the body asks for it, or `retries=` was given."""
    context = task_run_context.get()
    return context is not None and ("retries" in context.task.overrides or context.retry_delay is not None)


class CeleryBody:
    """Calls the body of a Celery task as a worker of its app does."""

    def __init__(self, task: Any) -> None:
        """Stand for `task`, under its function's name and signature."""
        self.task = task
        self.__name__ = task.__name__
        self.__qualname__ = getattr(task, "__qualname__", task.__name__)
        self.__module__ = type(task).__module__
        self.__doc__ = vars(type(task)).get("__doc__")
        self.__signature__ = inspect.signature(task.run)

    def __reduce__(self) -> tuple[Any, ...]:
        return _body_of, (self.__module__, self.task.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value; raises what the body raised.

        Raises:
            MissingContextError: No task runs here.
            DefinitionError: It asked to be run again with other arguments.
        """
        context = task_run_context.get()
        if context is None:
            raise MissingContextError(f"Celery task {self.task.name!r} was called outside of the task made of it")
        given = list(args)
        trace = build_tracer(self.task.name, self.task, app=self.task.app)
        with _replacing(), _soft_limit(self.task):
            traced = trace(context.task_run_id, given, kwargs, _request(self.task, context))
        if traced.info is None:
            return traced.retval
        return self._failed(traced.info.state, traced.info.retval, context, (given, kwargs))

    def _failed(
        self, state: str, reason: Any, context: TaskRunContext, inputs: tuple[list[Any], dict[str, Any]]
    ) -> Any:
        if state == celery_states.RETRY:
            self._check_inputs(reason, inputs)
            context.retry_delay = _delay(self.task, reason)
            raise reason if reason.exc is None else reason.exc
        if state == celery_states.IGNORED:
            return states.Completed(str(reason) or None, name="Ignored")
        if state == celery_states.REJECTED:
            return self._rejected(reason, context)
        if isinstance(reason, SoftTimeLimitExceeded):
            return states.Failed(states.describe(reason), name="TimedOut", data=reason)
        raise reason

    def _rejected(self, reason: Reject, context: TaskRunContext) -> Any:
        if reason.requeue and (self.task.max_retries is None or context.attempt <= self.task.max_retries):
            context.retry_delay = _REQUEUE_PAUSE
            raise reason
        return states.Failed(f"Reject: {reason.reason}", name="Rejected", data=reason)

    def _check_inputs(self, retry: Retry, inputs: tuple[list[Any], dict[str, Any]]) -> None:
        """A step keeps its arguments, as they are journaled with it."""
        args, kwargs = inputs
        sig = retry.sig
        if sig is None or (_same(list(enumerate(sig.args)), list(enumerate(args))) and _same(sig.kwargs, kwargs)):
            return
        raise DefinitionError(
            f"Celery task {self.task.name!r} asks to be run again with other arguments (self.retry(args=…, kwargs=…)); "
            "inside a flow a task keeps those that it was called with. Call it a second time from the flow instead"
        ) from retry


def _body_of(module: str, name: str) -> Any:
    """The body of a task in another process, which may not have its module yet."""
    import_module(module)
    return _spec(registered(name)).fn


def _same(left: Any, right: Any) -> bool:
    left, right = dict(left), dict(right)
    return left.keys() == right.keys() and all(
        value is right[name] or (value == right[name]) is True for name, value in left.items()
    )


def _delay(task: Any, retry: Retry) -> float:
    """Seconds until the try that a body asks for."""
    when = task.default_retry_delay if retry.when is None else retry.when
    if isinstance(when, datetime):
        return float((maybe_make_aware(when, task.app.timezone) - datetime.now(UTC)).total_seconds())
    return float(when)


# -- the request -------------------------------------------------------------------------------------------------


def _request(task: Any, context: TaskRunContext) -> dict[str, Any]:
    """What `self.request` is made of.

    `is_eager` keeps `self.retry` and `self.replace` from sending messages of their own; `ignore_result` keeps the value
    out of the app's result backend.
    """
    around = current_task.request if current_task else None
    flow_run = context.flow_run
    return {
        "id": context.task_run_id,
        "task": task.name,
        "root_id": (flow_run.root_run_id or flow_run.run_id) if flow_run else context.task_run_id,
        "parent_id": flow_run.run_id if flow_run else None,
        "correlation_id": context.task_run_id,
        "retries": context.attempt - 1,
        "is_eager": True,
        "ignore_result": True,
        "hostname": getattr(around, "hostname", None) or socket.gethostname(),
        "origin": getattr(around, "origin", None),
        "timelimit": [task.time_limit, task.soft_time_limit] if task.time_limit or task.soft_time_limit else None,
        "delivery_info": _delivery_info(getattr(around, "delivery_info", None) or {}),
        "utc": True,
    }


def _delivery_info(around: Mapping[str, Any]) -> dict[str, Any]:
    """Of the message that brought us here; outside of a worker there is none."""
    return {
        "exchange": around.get("exchange", ""),
        "routing_key": around.get("routing_key"),
        "priority": around.get("priority"),
        "redelivered": False,
    }


# -- time limits and replacements --------------------------------------------------------------------------------


@contextmanager
def _soft_limit(task: Any) -> Iterator[None]:
    """Have the body raise `SoftTimeLimitExceeded` at its soft limit; in a main thread only, as in Celery."""
    if not task.soft_time_limit or not interrupts.available():
        yield
        return
    error = SoftTimeLimitExceeded(task.soft_time_limit)
    with interrupts.armed():
        timer = threading.Timer(task.soft_time_limit, partial(interrupts.raise_in_main, error))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            interrupts.drop(error)


_joining = threading.Lock()
_joiners = 0
_joins = ExitStack()


@contextmanager
def _replacing() -> Iterator[None]:
    """Let `self.replace` take the result of what it runs in place, which Celery forbids to tasks on a worker.

    The permission is one for the whole process: it is given while any such body runs, whichever ends first.
    """
    global _joiners
    with _joining:
        if _joiners == 0:
            _joins.enter_context(allow_join_result())
        _joiners += 1
    try:
        yield
    finally:
        with _joining:
            _joiners -= 1
            if _joiners == 0:
                _joins.close()


# -- the spec ----------------------------------------------------------------------------------------------------


@cache
def _adopted(task: Any) -> tasks.Task[..., Any]:
    return tasks.Task(task)


@cache
def _spec(task: Any) -> TaskSpec:
    body = CeleryBody(task)
    if is_async(inspect.unwrap(task.run)):
        raise DefinitionError(
            f"Celery task {task.name!r} is a coroutine function, which Celery itself does not run: put @task on the "
            "function, without @app.task"
        )
    if reserved := {"wait_for", "return_state"} & set(body.__signature__.parameters):
        raise ReservedArgumentError(
            f"Celery task {task.name!r} has a parameter named {min(reserved)!r}, which calls of a task keep for "
            "themselves; rename it"
        )
    return TaskSpec(
        fn=body,
        name=task.__name__,
        path=_path(task),
        celery_name=task.name,
        description=inspect.cleandoc(body.__doc__ or ""),
        retries=UNLIMITED,
        retry_condition_fn=asks_again,
        timeout_seconds=task.time_limit,
        queue=_name_of(getattr(task, "queue", None)),
        priority=task.priority,
    )


def _name_of(queue: Any) -> str | None:
    return None if queue is None else str(getattr(queue, "name", queue))


def _path(task: Any) -> str:
    """By what a worker finds it: as any function, where it stands under the name of its own; else by the registry."""
    module, qualname = type(task).__module__, getattr(task, "__qualname__", None)
    by_name = f"{CELERY_TASK}{task.name}"
    if qualname is None or module == "__main__":
        return by_name
    path = f"{module}:{qualname}"
    return path if _is(lazy.loaded(path), task) else by_name


def _is(found: Any, task: Any) -> bool:
    if isinstance(found, tasks.Task):
        found = found.celery_task
    return found is not None and is_celery_task(found) and resolved(found).name == task.name
