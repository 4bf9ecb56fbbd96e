"""Log lines of runs: `get_run_logger`, captured prints, and their ways to the console and to the database.

Two loggers, `orchestra.flow_runs` and `orchestra.task_runs`, carry them as records with the extras `flow_run_id`,
`flow_run_name`, `task_run_id` and `task_run_name`. They propagate, so handlers of the user's own (and pytest's caplog)
see every line; nothing is ever added to the root logger. Where such a handler listens, orchestra's console is silent.
"""

from __future__ import annotations

import builtins
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

from orchestra import lazy, masking, settings
from orchestra.context import FlowRunContext, TaskRunContext, flow_run_context, task_run_context
from orchestra.errors import ConfigurationError, MissingContextError, RunTimeout
from orchestra.masking import Secrets
from orchestra.states import State

FLOW_RUNS = "orchestra.flow_runs"
TASK_RUNS = "orchestra.task_runs"

_PRINT = builtins.print
#: The attribute of a record by which secrets travel.
_SECRETS = "orchestra_secrets"
#: The levels that the settings gave the loggers, to tell them from the user's.
_levels: dict[str, int] = {}


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines belong to a run. Its extras are kept beside those of a call."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run's extras to a call's own."""
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs


def get_run_logger(context: FlowRunContext | TaskRunContext | None = None, **extra: Any) -> RunLogger:
    """The logger of the task run or flow run that runs here.

    Its lines go to the console, to the database, and to the handlers that your logging configuration has.

    Args:
        context: The run to log for, instead of the one that runs here.
        extra: Further attributes of its records.

    Raises:
        MissingContextError: No flow or task runs here.
    """
    found = context or task_run_context.get() or flow_run_context.get()
    if found is not None:
        return _adapter(found, extra)
    if _disabled.count:
        return RunLogger(_null_logger(), extra)
    raise MissingContextError(
        "get_run_logger() was called where no flow or task runs: call it inside a flow or task, use "
        "logging.getLogger(__name__) elsewhere, or wrap a test of plain functions in disable_run_logger()"
    )


def engine_logger(context: FlowRunContext | TaskRunContext) -> RunLogger:
    """The logger for what orchestra itself says about a run: a replay neither counts nor skips its lines."""
    return _adapter(context, {"orchestra_numbered": False})


@contextmanager
def disable_run_logger() -> Iterator[None]:
    """Silence the run loggers, and let `get_run_logger()` work outside of runs; for tests of plain functions."""
    with _disabled:
        yield


@contextmanager
def print_capture() -> Iterator[None]:
    """Let `print` in runs with `log_prints` write log lines instead, in this process; other prints stay as they are."""
    with _prints:
        yield


def listen_to_extra_loggers() -> None:
    """Have the lines of the loggers that `ORCHESTRA_LOGGING_EXTRA_LOGGERS` names kept with the runs in which they are
    said; asked before each body, as `dictConfig()` takes handlers off."""
    for name in settings.current().logging_extra_loggers:
        found = logging.getLogger(name)
        if any(isinstance(handler, ExtraHandler) for handler in found.handlers):
            continue
        if found.level == logging.NOTSET:
            found.setLevel(_level_number(settings.current().log_level))
        found.addHandler(ExtraHandler())


def _adapter(context: FlowRunContext | TaskRunContext, extra: dict[str, Any]) -> RunLogger:
    name = TASK_RUNS if isinstance(context, TaskRunContext) else FLOW_RUNS
    return RunLogger(_ready(name), {**_extras(context), **extra})


def _extras(context: FlowRunContext | TaskRunContext) -> dict[str, Any]:
    found = _names(context)
    if secrets := _secrets_of(context):
        found[_SECRETS] = secrets
    return found


def _secrets_of(context: FlowRunContext | TaskRunContext) -> Secrets:
    """The secrets in the parameters of a run, looked for once, and those of the flow run that a task run is in."""
    if context.secrets is None or context.secrets[0] is not context.parameters:
        found = masking.secrets_in(context.parameters)
        if isinstance(context, TaskRunContext) and context.flow_run is not None:
            found |= _secrets_of(context.flow_run).values
        context.secrets = (context.parameters, Secrets(found))
    secrets: Secrets = context.secrets[1]
    return secrets


def masked(context: FlowRunContext | TaskRunContext, state: State[Any]) -> State[Any]:
    """A state whose message, and whose exception's kept text, show none of the secrets in the parameters of its run."""
    if not (secrets := _secrets_of(context)):
        return state
    if isinstance(state.data, BaseException):
        masking.mark(state.data, secrets.values)
    if not state.message:
        return state
    return replace(state, message=masking.mask(state.message, secrets.values))


def _names(context: FlowRunContext | TaskRunContext) -> dict[str, Any]:
    if isinstance(context, FlowRunContext):
        return {"flow_run_id": context.run_id, "flow_run_name": context.run_name, "flow_name": context.flow.name}
    flow_run = _names(context.flow_run) if context.flow_run is not None else {}
    return {
        **flow_run,
        "task_run_id": context.task_run_id,
        "task_run_name": context.task_run_name,
        "task_name": context.task.name,
    }


class _Run(Protocol):
    @property
    def id(self) -> Any: ...
    @property
    def name(self) -> str: ...


def flow_run_logger(flow_run: _Run, flow: Any = None, **extra: Any) -> RunLogger:
    """The logger of a flow run that need not run here, as a hook has it.

    Args:
        flow_run: With the run's `id` and `name`.
        flow: With the flow's `name`.
        extra: Further attributes of its records.
    """
    found = {"flow_run_id": str(flow_run.id), "flow_run_name": flow_run.name}
    return RunLogger(_ready(FLOW_RUNS), {**found, **({} if flow is None else {"flow_name": flow.name}), **extra})


def task_run_logger(task_run: _Run, task: Any = None, flow_run: _Run | None = None, **extra: Any) -> RunLogger:
    """The logger of a task run that need not run here. As `flow_run_logger` otherwise."""
    of_run = {} if flow_run is None else {"flow_run_id": str(flow_run.id), "flow_run_name": flow_run.name}
    if not of_run and (run_id := getattr(task_run, "flow_run_id", None)) is not None:
        of_run = {"flow_run_id": str(run_id)}
    own = {"task_run_id": str(task_run.id), "task_run_name": task_run.name}
    return RunLogger(
        _ready(TASK_RUNS), {**of_run, **own, **({} if task is None else {"task_name": task.name}), **extra}
    )


def get_logger(name: str | None = None) -> logging.Logger:
    """The logger `orchestra.NAME`, else `orchestra`: one of your own code, whose lines belong to no run."""
    return logging.getLogger(f"orchestra.{name}" if name else "orchestra")


# -- the loggers -------------------------------------------------------------------------------------------------


def _ready(name: str) -> logging.Logger:
    """The logger, with our handlers and the level of the settings."""
    found = logging.getLogger(name)
    _set_level(settings.current().log_level)
    # Looked after each time: dictConfig() takes handlers off, and by default disables loggers that it does not name.
    found.disabled = _disabled.count > 0
    if not any(isinstance(handler, DatabaseHandler) for handler in found.handlers):
        found.addHandler(ConsoleHandler())
        found.addHandler(DatabaseHandler())
    if _own_line not in found.filters:
        found.addFilter(_own_line)
    return found


@lru_cache(maxsize=1)
def _set_level(level: str) -> None:
    # Once per setting, so that a level which the user (or caplog) gives the logger stays.
    number = _level_number(level)
    for name in (FLOW_RUNS, TASK_RUNS):
        run_logger = logging.getLogger(name)
        if run_logger.level in (logging.NOTSET, _levels.get(name)):
            run_logger.setLevel(number)
            _levels[name] = number


def _level_number(level: str) -> int:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigurationError(f"ORCHESTRA_LOG_LEVEL={level!r} is no level: use DEBUG, INFO, WARNING or ERROR")
    return number


@lru_cache(maxsize=1)
def _null_logger() -> logging.Logger:
    null = logging.getLogger("orchestra.null")
    null.disabled = True
    return null


def _own_line(record: logging.LogRecord) -> bool:
    """Say whose line it is and number it; false for a line of a flow body that a replay says again."""
    flow_run, task_run = flow_run_context.get(), task_run_context.get()
    if not hasattr(record, "flow_run_id") and (context := task_run or flow_run) is not None:
        record.__dict__.update(_extras(context))
    if task_run is not None or flow_run is None or flow_run.lines is None:
        return True
    if not getattr(record, "orchestra_numbered", True):
        return True
    # What a library says may be another thing in each replay: it does not shift the body's own lines.
    series = "" if record.name in (FLOW_RUNS, TASK_RUNS) else f"~{record.name}"
    line = record.__dict__["orchestra_line"] = flow_run.lines.next(series)
    return line is not None


class RunFormatter(logging.Formatter):
    """`12:01:33.123 | INFO    | Flow run 'brave-otter' - message`, in local time."""

    def __init__(self) -> None:
        super().__init__("%(clock)s.%(msecs)03d | %(levelname)-7s | %(whose)s - %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line of the console."""
        record.clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        record.whose = _whose(record)
        return super().formatMessage(record)


def _whose(record: logging.LogRecord) -> str:
    if (task := getattr(record, "task_run_name", None)) is not None:
        return f"Task run {task!r}"
    if (flow := getattr(record, "flow_run_name", None)) is not None:
        return f"Flow run {flow!r}"
    return record.name


class _RunHandler(logging.Handler):
    """A handler in whose `emit` a body may be interrupted: what interrupts it passes, what fails is reported."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; an error of writing never reaches the body."""
        try:
            self.write(record)
        except (RunTimeout, RecursionError):
            raise
        except Exception:
            self.handleError(record)

    def write(self, record: logging.LogRecord) -> None:
        """Write the record."""
        raise NotImplementedError

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, its secrets masked."""
        secrets: Secrets | None = getattr(record, _SECRETS, None)
        return masking.mask(super().format(record), secrets.values if secrets else ())


class ConsoleHandler(_RunHandler):
    """Writes to what is standard error at the time, unless a handler of the user's own gets the line too."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(RunFormatter())

    def write(self, record: logging.LogRecord) -> None:
        """Write one line."""
        if sys.stderr is not None and settings.current().log_to_console and not _others_listen(record.name):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


def _others_listen(name: str) -> bool:
    current: logging.Logger | None = logging.getLogger(name)
    while current is not None:
        if not all(isinstance(handler, _RunHandler | logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


class DatabaseHandler(_RunHandler):
    """Hands the lines of recorded runs to the process's writer, which writes them behind the body."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))

    def write(self, record: logging.LogRecord) -> None:
        """Queue one line; returns at once."""
        run_id = getattr(record, "flow_run_id", None)
        if run_id is None:
            return
        _keep()(
            str(run_id),
            self.format(record),
            level=record.levelno,
            logger=record.name,
            timestamp=record.created,
            step_id=getattr(record, "task_run_id", None),
            line=getattr(record, "orchestra_line", None),
        )


class ExtraHandler(_RunHandler):
    """Takes the lines of a logger that the settings name: what is said in a run goes where the run's lines go."""

    def __init__(self) -> None:
        super().__init__()
        self._targets: tuple[_RunHandler, ...] = (ConsoleHandler(), DatabaseHandler())

    def write(self, record: logging.LogRecord) -> None:
        """Hand a line of a run on, unless a replay says it again; one of no run to the console, from WARNING on."""
        if record.name in (FLOW_RUNS, TASK_RUNS) or hasattr(record, "orchestra_taken"):
            return
        record.orchestra_taken = True
        if not _own_line(record):
            return
        relays = [handler for handler in logging.getLogger(TASK_RUNS).handlers if isinstance(handler, Relay)]
        is_of_run = hasattr(record, "flow_run_id")
        if not is_of_run and record.levelno < logging.WARNING:
            return
        for target in relays if relays and is_of_run else self._targets:
            target.write(record)


class Relay(DatabaseHandler):
    """Hands lines to the process that this one works for, in the place of console and database."""

    def __init__(self, send: Callable[[dict[str, Any]], object]) -> None:
        super().__init__()
        self._send = send

    def write(self, record: logging.LogRecord) -> None:
        """Send one line, as plain data."""
        text = self.format(record)
        kept = {name: value for name, value in record.__dict__.items() if isinstance(value, str | int | float | bool)}
        self._send({**kept, "msg": text, "args": None, "exc_text": None})


def relay_to(send: Callable[[dict[str, Any]], object]) -> None:
    """Have `send` take the log lines of runs in this process, instead of console and database."""
    for name in (FLOW_RUNS, TASK_RUNS):
        found = logging.getLogger(name)
        found.addHandler(Relay(send))
        found.propagate = False


def run_log_level(name: str) -> int:
    """The level from which lines of one of the two loggers are taken."""
    return _ready(name).getEffectiveLevel()


def log_relayed(fields: dict[str, Any]) -> None:
    """Log a line that another process has sent by its `Relay`, as if it had been said here."""
    if fields["name"] not in (FLOW_RUNS, TASK_RUNS):
        # Of a library: that process has asked whether it is to be kept.
        for target in (ConsoleHandler(), DatabaseHandler()):
            target.emit(logging.makeLogRecord(fields))
        return
    found = _ready(fields["name"])
    if found.isEnabledFor(fields["levelno"]):
        found.handle(logging.makeLogRecord(fields))


@lru_cache(maxsize=1)
def _keep() -> Callable[..., bool]:
    # A door: the store needs sqlalchemy, which loads with the first line of a recorded run.
    keep: Callable[..., bool] = lazy.load("keep_log_line")
    return keep


# -- switches that several threads may hold at once --------------------------------------------------------------


class _Switch:
    """On while at least one holds it."""

    def __init__(self) -> None:
        self.count = 0
        self._renew_lock()
        # A thread of the parent may hold the lock while another one forks.
        os.register_at_fork(after_in_child=self._renew_lock)

    def __enter__(self) -> None:
        with self._lock:
            self.count += 1
            self.on()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.count -= 1
            if self.count == 0:
                self.off()

    def on(self) -> None:
        """Switch on; it may be on already."""
        raise NotImplementedError

    def off(self) -> None:
        """Switch off."""
        raise NotImplementedError

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()


class _Disabled(_Switch):
    """Disables the run loggers."""

    def on(self) -> None:
        """Silence them."""
        self._set(True)

    def off(self) -> None:
        """Let them speak again."""
        self._set(False)

    def _set(self, disabled: bool) -> None:
        for name in (FLOW_RUNS, TASK_RUNS):
            logging.getLogger(name).disabled = disabled


class _Prints(_Switch):
    """Stands in for `builtins.print`."""

    def __init__(self) -> None:
        super().__init__()
        self._print = builtins.print
        self._thread = threading.local()

    def on(self) -> None:
        """Take the place of whatever `print` is now."""
        if builtins.print != self.write:
            self._print, builtins.print = builtins.print, self.write

    def off(self) -> None:
        """Give the place back, unless someone else has taken it."""
        if builtins.print == self.write:
            builtins.print = self._print

    def write(self, *values: object, **options: Any) -> None:
        """Print, or log where the run that runs here says so."""
        # A handler that prints must not log again what it prints; nor may a print of the user's that calls this one.
        if getattr(self._thread, "inside", False):
            _PRINT(*values, **options)
            return
        self._thread.inside = True
        try:
            self._print_or_log(values, options)
        finally:
            self._thread.inside = False

    def _print_or_log(self, values: tuple[object, ...], options: dict[str, Any]) -> None:
        target = _print_logger(options.get("file"))
        if target is None:
            self._print(*values, **options)
            return
        text = io.StringIO()
        self._print(*values, **{**options, "file": text})
        target.info("%s", text.getvalue().rstrip(), stacklevel=3)


def _print_logger(file: Any) -> RunLogger | None:
    context = task_run_context.get() or flow_run_context.get()
    if context is None or not context.log_prints or file not in (None, sys.stdout, sys.stderr):
        return None
    logger = _adapter(context, {})
    return logger if logger.isEnabledFor(logging.INFO) else None


_disabled = _Disabled()
_prints = _Prints()
