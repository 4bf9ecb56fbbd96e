"""Run loggers: whose line it is, where it goes, and what becomes of prints and of replayed lines."""

from __future__ import annotations

import builtins
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from pydantic import BaseModel, SecretStr

from orchestra import settings
from orchestra.context import FlowRunContext, TaskRunContext, flow_run_context, task_run_context
from orchestra.engine.segment import Lines
from orchestra.errors import ConfigurationError, MissingContextError, RunTimeout
from orchestra.logging import (
    Relay,
    disable_run_logger,
    engine_logger,
    get_run_logger,
    listen_to_extra_loggers,
    log_relayed,
    print_capture,
)
from orchestra.masking import hide
from orchestra.runners.base import Runner
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.store import behind
from orchestra.store import logs as log_store
from orchestra.store.database import database
from orchestra.store.logs import LogLine
from tests.helpers import ROOT
from tests.store.rows import add_run


class Numbers:
    """Numbers the lines of one branch; the first `written` of them are replayed."""

    def __init__(self, written: int) -> None:
        self.written, self.asked = written, -1

    def next(self, series: str = "") -> tuple[str, int] | None:
        """The next line's branch and ordinal; None where it is replayed."""
        self.asked += 1
        return ("body", self.asked) if self.asked >= self.written else None


def flow_run(run_id: str = "run-1", parameters: dict[str, Any] | None = None, **options: Any) -> FlowRunContext:
    """A flow run named brave-otter."""
    flow = FlowSpec(fn=print, name="etl", path="flows:etl")
    return FlowRunContext(flow, run_id, "brave-otter", parameters or {}, cast(Runner, None), **options)


def task_run(flow: FlowRunContext | None, **options: Any) -> TaskRunContext:
    """A task run named load-0."""
    task = TaskSpec(fn=print, name="load", path="flows:load")
    return TaskRunContext(task, "task-1", "load-0", flow, "body/load-0", 1, "key", **options)


@contextmanager
def running(flow: FlowRunContext | None, task: TaskRunContext | None = None) -> Iterator[None]:
    """While this holds, the flow run (and the task run) runs here."""
    tokens = flow_run_context.set(flow), task_run_context.set(task)
    try:
        yield
    finally:
        flow_run_context.reset(tokens[0])
        task_run_context.reset(tokens[1])


@contextmanager
def nobody_else_listening() -> Iterator[None]:
    """While this holds, the lines of runs do not reach the root logger, where pytest listens."""
    loggers = [logging.getLogger(f"orchestra.{kind}") for kind in ("flow_runs", "task_runs")]
    for logger in loggers:
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.propagate = True


@pytest.fixture
def run_id() -> str:
    """A flow run that is in this process's database."""
    return add_run(database())


def stored(run_id: str) -> list[LogLine]:
    """The run's lines in the database."""
    assert behind.flush()
    return log_store.read(database(), run_id)


def test_outside_of_a_run_there_is_no_run_logger() -> None:
    """The error says what to do instead."""
    with pytest.raises(MissingContextError, match="inside a flow or task"):
        get_run_logger()


def test_lines_say_which_runs_they_belong_to(caplog: pytest.LogCaptureFixture) -> None:
    """The records carry the ids and names as extras, on a logger of their kind."""
    flow = flow_run()
    with running(flow):
        get_run_logger().info("hello %s", "flow")
    with running(flow, task_run(flow)):
        get_run_logger().warning("hello task", extra={"mine": 1})

    first, second = caplog.records
    assert (first.name, first.message, vars(first)["flow_run_id"]) == ("orchestra.flow_runs", "hello flow", "run-1")
    assert (second.name, second.message, vars(second)["flow_run_id"]) == ("orchestra.task_runs", "hello task", "run-1")
    assert tuple(vars(second)[key] for key in ("task_run_id", "task_run_name", "mine")) == ("task-1", "load-0", 1)
    assert first.funcName == "test_lines_say_which_runs_they_belong_to"


def test_lines_of_the_plain_logger_belong_to_the_run_that_runs_here(run_id: str) -> None:
    """`logging.getLogger("orchestra.flow_runs")` works as well, once the run has a logger."""
    with running(flow_run(run_id)):
        get_run_logger()
        logging.getLogger("orchestra.flow_runs").info("plain")

    assert [line.message for line in stored(run_id)] == ["plain"]


def test_lines_are_kept_in_the_database_in_order(run_id: str) -> None:
    """With level, logger and task run; below the level of the settings nothing is kept."""
    flow = flow_run(run_id)
    with running(flow):
        get_run_logger().debug("not kept")
        get_run_logger().info("one")
    with running(flow, task_run(flow)):
        get_run_logger().error("two")

    lines = [(line.message, line.level_name, line.logger, line.step_id) for line in stored(run_id)]
    assert lines == [
        ("one", "INFO", "orchestra.flow_runs", None),
        ("two", "ERROR", "orchestra.task_runs", "task-1"),
    ]


def test_a_traceback_is_kept_with_its_line(run_id: str) -> None:
    """`logger.exception` keeps the error's traceback."""
    with running(flow_run(run_id)):
        try:
            raise ValueError("no such file")
        except ValueError:
            get_run_logger().exception("could not load")

    (line,) = stored(run_id)
    assert line.message.startswith("could not load\nTraceback")
    assert line.message.endswith("ValueError: no such file")


def test_lines_of_a_task_outside_of_a_flow_are_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """They are shown, and that is all."""
    with running(None, task_run(None)):
        get_run_logger().info("alone")

    assert caplog.messages == ["alone"]
    assert behind.behind().dropped == 0


def test_lines_that_cannot_be_formatted_do_not_reach_the_body(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong number of arguments is reported on standard error, as logging does."""
    with nobody_else_listening(), running(flow_run(run_id)):
        get_run_logger().info("%d %d", 1)

    assert "--- Logging error ---" in capsys.readouterr().err


def test_replayed_lines_are_dropped_everywhere(run_id: str, caplog: pytest.LogCaptureFixture) -> None:
    """A flow body's lines are numbered; those written before are neither shown nor kept again."""
    with running(flow_run(run_id, lines=Numbers(written=2))):
        for text in ("zero", "one", "two", "three"):
            get_run_logger().info(text)

    assert caplog.messages == ["two", "three"]
    assert [line.message for line in stored(run_id)] == ["two", "three"]
    assert database().read(lambda connection: log_store.written_lines(connection, run_id)) == {"body": 4}


def test_a_second_run_of_the_body_writes_no_line_twice(run_id: str) -> None:
    """Also where the replay did not yet know of the lines."""
    for _ in range(2):
        with running(flow_run(run_id, lines=Numbers(written=0))):
            get_run_logger().info("once")

    assert [line.message for line in stored(run_id)] == ["once"]


def test_task_lines_and_the_engines_own_are_not_numbered(run_id: str) -> None:
    """Neither counts as a line of the flow body."""
    numbers = Numbers(written=1)
    flow = flow_run(run_id, lines=numbers)
    with running(flow, task_run(flow)):
        get_run_logger().info("task")
    with running(flow):
        engine_logger(flow).info("engine")

    assert [line.message for line in stored(run_id)] == ["task", "engine"]
    assert numbers.asked == -1


def test_lines_below_the_level_are_not_numbered() -> None:
    """Debug lines do not shift the numbers of the others."""
    numbers = Numbers(written=0)
    with running(flow_run(lines=numbers)):
        get_run_logger().debug("not counted")

    assert numbers.asked == -1


def test_the_console_shows_time_level_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, one line each, where no handler of the user's listens."""
    flow = flow_run()
    with nobody_else_listening():
        with running(flow):
            get_run_logger().info("hello")
        with running(flow, task_run(flow)):
            get_run_logger().warning("careful")

    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \| INFO    \| Flow run 'brave-otter' - hello", first)
    assert second.endswith("| WARNING | Task run 'load-0' - careful")


def test_the_console_is_silent_where_the_users_handler_listens(capsys: pytest.CaptureFixture[str]) -> None:
    """No line is shown twice beside logging.basicConfig(), Celery's log or pytest."""
    with running(flow_run()):
        get_run_logger().info("hello")

    assert "hello" not in capsys.readouterr().err


def test_the_console_can_be_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    """By ORCHESTRA_LOG_TO_CONSOLE."""
    settings.override(log_to_console=False)

    with nobody_else_listening(), running(flow_run()):
        get_run_logger().info("hello")

    assert capsys.readouterr().err == ""


def test_the_root_logger_is_left_alone() -> None:
    """Neither handlers nor level of the user's configuration change."""
    root = logging.getLogger()
    before = list(root.handlers), root.level

    with running(flow_run()):
        get_run_logger().info("hello")

    assert before == (list(root.handlers), root.level)


def test_a_level_the_user_sets_stays(caplog: pytest.LogCaptureFixture) -> None:
    """The settings' level is given once, not at each call."""
    with running(flow_run()):
        get_run_logger()
        with caplog.at_level(logging.DEBUG, logger="orchestra.flow_runs"):
            get_run_logger().debug("seen")

    assert caplog.messages == ["seen"]


def test_the_level_of_the_settings_is_followed(run_id: str) -> None:
    """ORCHESTRA_LOG_LEVEL says what is kept; what is no level is a clear error."""
    settings.override(log_level="warning")
    with running(flow_run(run_id)):
        get_run_logger().info("not kept")
        get_run_logger().warning("kept")
    assert [line.message for line in stored(run_id)] == ["kept"]

    settings.override(log_level="LOUD")
    with running(flow_run(run_id)), pytest.raises(ConfigurationError, match="ORCHESTRA_LOG_LEVEL='LOUD'"):
        get_run_logger()


def test_logging_configured_later_by_the_user_does_not_cost_the_lines(run_id: str) -> None:
    """`dictConfig` takes handlers off and disables the loggers it does not name; runs are recorded all the same."""
    subprocess.run([sys.executable, "-c", _CONFIGURING, run_id], cwd=ROOT, check=True)

    assert [line.message for line in stored(run_id)] == ["before", "named", "disabled"]


_CONFIGURING = """
import logging.config, sys
from orchestra.logging import get_run_logger
from tests.unit.test_logging import flow_run, running

with running(flow_run(sys.argv[1])):
    get_run_logger().info("before")
    logging.config.dictConfig({"version": 1, "loggers": {"orchestra.flow_runs": {"handlers": []}}})
    get_run_logger().info("named")
    logging.config.dictConfig({"version": 1})
    get_run_logger().info("disabled")
"""


def test_an_interrupted_log_call_passes_the_timeout_on() -> None:
    """A timeout that strikes while a line is written is not swallowed as an error of logging."""

    class Striking:
        def __str__(self) -> str:
            raise RunTimeout("over")

    with nobody_else_listening(), running(flow_run("run")), pytest.raises(RunTimeout):
        get_run_logger().info(Striking())


def test_a_disabled_run_logger_is_silent_and_needs_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """For tests of plain functions; afterwards all is as it was."""
    with disable_run_logger():
        get_run_logger().error("nobody hears")
        with running(flow_run()):
            get_run_logger().error("nobody hears either")
    with running(flow_run()):
        get_run_logger().info("heard")

    assert caplog.messages == ["heard"]
    with pytest.raises(MissingContextError):
        get_run_logger()


def test_prints_of_a_run_become_lines(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Where `log_prints` says so, and with the place of the print; `sep` and `end` work as ever."""
    with print_capture(), running(flow_run(log_prints=True)):
        print("a", 1, sep="-", end="!\n")

    assert caplog.messages == ["a-1!"]
    assert caplog.records[0].funcName == "test_prints_of_a_run_become_lines"
    assert capsys.readouterr().out == ""


def test_other_prints_stay_prints(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Outside of runs, of runs without `log_prints`, and into files."""
    flow = flow_run(log_prints=True)
    with print_capture():
        print("outside")
        with running(flow_run()):
            print("not asked for")
        with running(flow, task_run(flow)):
            print("nor by the task")
        with running(flow), open("/dev/null", "w") as file:
            print("into a file", file=file)

    assert caplog.messages == []
    assert capsys.readouterr().out == "outside\nnot asked for\nnor by the task\n"


def test_prints_below_the_level_and_of_disabled_loggers_stay_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """A print is never lost for being captured."""
    with print_capture(), running(flow_run(log_prints=True)):
        with disable_run_logger():
            print("disabled")
        with level_of_settings("ERROR"):
            print("below")

    assert capsys.readouterr().out == "disabled\nbelow\n"


@contextmanager
def level_of_settings(level: str) -> Iterator[None]:
    """While this holds, the settings ask for this level."""
    settings.override(log_level=level)
    try:
        yield
    finally:
        settings.override(log_level="INFO")


def test_a_handler_that_prints_does_not_go_round_in_circles(capsys: pytest.CaptureFixture[str]) -> None:
    """What a handler prints while it shows a captured print is printed."""

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("handled", record.getMessage())

    handler = Printing()
    logger = logging.getLogger("orchestra.flow_runs")
    logger.addHandler(handler)
    try:
        with print_capture(), running(flow_run(log_prints=True)):
            print("once")
    finally:
        logger.removeHandler(handler)

    assert capsys.readouterr().out == "handled once\n"


def test_print_is_given_back() -> None:
    """Nested and in threads; the last one out restores what was there before."""
    before = builtins.print

    def capture() -> None:
        with print_capture():
            pass

    with print_capture(), print_capture():
        threads = [threading.Thread(target=capture) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert builtins.print != before

    assert builtins.print is before


def test_a_print_of_the_users_own_stays_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced `print` gets what is not captured, also where it calls the one it found."""
    seen: list[str] = []
    # What is put back at the end of the test.
    monkeypatch.setattr(builtins, "print", builtins.print)
    with print_capture():
        found = builtins.print

        def wrapping(*values: object, **options: Any) -> None:
            seen.append(str(values[0]))
            found(*values, **options)

        monkeypatch.setattr(builtins, "print", wrapping)
        print("inside")
    with print_capture():
        print("again")

    assert seen == ["inside", "again"]
    assert builtins.print is wrapping


def test_the_run_logger_loads_no_database_until_a_line_is_kept() -> None:
    """Importing it stays light."""
    heavy = {"sqlalchemy", "celery", "pydantic", "fastapi"}
    code = f"import sys, orchestra.logging; print(sorted({heavy} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


# -- loggers of libraries ----------------------------------------------------------------------------------------


def test_lines_of_extra_loggers_are_kept_with_the_run(run_id: str) -> None:
    """Those of the loggers below them, too, and with their own names; what is said outside of runs is not."""
    settings.override(logging_extra_loggers=("library",))
    library = logging.getLogger("library.part")
    try:

        def body() -> None:
            library.info("in the run")
            logging.getLogger("other").warning("not asked for")

        with running(flow_run(run_id)):
            listen_to_extra_loggers()
            body()
        library.warning("outside")
        assert [(line.logger, line.message) for line in stored(run_id)] == [("library.part", "in the run")]
    finally:
        logging.getLogger("library").handlers.clear()
        logging.getLogger("library").setLevel(logging.NOTSET)


def test_lines_of_extra_loggers_come_back_from_other_processes(run_id: str) -> None:
    """Those of the processes in which a task runner runs bodies, too."""
    settings.override(logging_extra_loggers=("library",))
    sent: list[dict[str, Any]] = []
    relay, tasks = Relay(sent.append), logging.getLogger("orchestra.task_runs")
    tasks.addHandler(relay)
    try:
        with running(flow := flow_run(run_id), task_run(flow)):
            listen_to_extra_loggers()
            logging.getLogger("library").info("said %d", 1)
    finally:
        tasks.removeHandler(relay)
        logging.getLogger("library").handlers.clear()
        logging.getLogger("library").setLevel(logging.NOTSET)
    assert stored(run_id) == []
    log_relayed(sent[0])
    (line,) = stored(run_id)
    assert (line.logger, line.message, line.step_id) == ("library", "said 1", "task-1")


def test_lines_of_extra_loggers_do_not_shift_the_bodys_own(run_id: str) -> None:
    """A replay, in which a library says something else, skips the lines of the body that are there."""
    settings.override(logging_extra_loggers=("library",))
    try:
        with running(flow_run(run_id, lines=Lines(1, {}))):
            listen_to_extra_loggers()
            logging.getLogger("library").info("connected")
            get_run_logger().info("first")
        behind.flush()
        written = database().read(lambda connection: log_store.written_lines(connection, run_id))
        with running(flow_run(run_id, lines=Lines(1, written))):
            get_run_logger().info("first")
            get_run_logger().info("second")
        assert [line.message for line in stored(run_id)] == ["connected", "first", "second"]
    finally:
        logging.getLogger("library").handlers.clear()
        logging.getLogger("library").setLevel(logging.NOTSET)


# -- secrets -----------------------------------------------------------------------------------------------------


def test_secret_parameters_are_masked(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever they stand in the parameters, and in whatever text; in the traceback as well."""

    class Login(BaseModel):
        token: SecretStr

    parameters = {"logins": [Login(token=SecretStr("hunter2hunter2"))], "pin": SecretStr("12")}
    with nobody_else_listening(), running(flow_run(run_id, parameters=parameters)):
        get_run_logger().info("with %s", "xhunter2hunter2x")
        try:
            raise ValueError("no entry for hunter2hunter2")
        except ValueError:
            get_run_logger().exception("failed in 12 s")

    (first, second) = stored(run_id)
    assert first.message == "with x********x"
    assert "no entry for ********" in second.message
    assert "failed in 12 s" in second.message
    assert "hunter2" not in capsys.readouterr().err


def test_a_secret_parameter_of_a_flow_is_masked_in_its_tasks(run_id: str) -> None:
    """And is not shown by a handler that writes all attributes of a record down."""
    parameters = {"token": SecretStr("hunter2hunter2")}
    with running(flow := flow_run(run_id, parameters=parameters), task_run(flow)):
        get_run_logger().info("hunter2hunter2")
        extra = get_run_logger().extra

    assert [line.message for line in stored(run_id)] == ["********"]
    assert "hunter2" not in repr(extra)


def test_passwords_of_urls_and_named_variables_are_masked(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of any URL in it, those of the settings alone too, and what a program hides itself."""
    monkeypatch.setenv("SHOP_TOKEN", "tok-123")
    settings.override(
        broker_url="amqp://me:br%40ker-pass@host//", logging_masked_variables=("SHOP_TOKEN", "UNSET"),
    )  # fmt: skip
    hide("fetched-secret", "ab")
    with running(flow_run(run_id)):
        for text in (
            "at postgresql://me:pass@host/db", "br@ker-pass br%40ker-pass", "tok-123", "fetched-secret", "ab",
            "https://host/a:b@c",
        ):  # fmt: skip
            get_run_logger().info(text)

    assert [line.message for line in stored(run_id)] == [
        "at postgresql://me:********@host/db",
        "******** ********",
        "********",
        "********",
        "ab",
        "https://host/a:b@c",
    ]
