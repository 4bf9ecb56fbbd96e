"""Values that some part of the way has no form for: they come back equal or are refused, and the run ends."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from orchestra import flow, get_run_logger, runtime, settings, task
from orchestra.celery.submit import submit_flow_run
from orchestra.cli import cli
from orchestra.errors import IdempotencyConflict, OrchestraError, SerializationError, TaskFailed
from orchestra.handles import FlowRunHandle
from orchestra.states import State
from orchestra.store import logs
from orchestra.store.behind import behind
from orchestra.store.database import Database
from orchestra.store.tables import Phase, flow_runs, steps
from tests.conftest import WorkerFactory
from tests.drive import Driver

pytestmark = pytest.mark.slow

#: A broker that refuses at once: the tests carry the messages themselves.
NOWHERE = "redis://127.0.0.1:1/0"


class Link:
    """An object that holds another: such a chain is pickled."""

    def __init__(self, held: Any) -> None:
        self.held = held


@functools.cache
def lists(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@functools.cache
def dicts(depth: int) -> Any:
    """As `lists`, of dicts."""
    value: Any = {}
    for _ in range(depth - 1):
        value = {"in": value}
    return value


@functools.cache
def links(depth: int) -> Any:
    """As `lists`, of objects."""
    value: Any = None
    for _ in range(depth):
        value = Link(value)
    return value


TEXTS = {
    "NUL": "a\0b\0",
    "lone surrogates": "a\ud800b\udfff",
    "four bytes": "\U0001f3bb\U0001d11e\U0010ffff",
    "all of them": "\0\ud800\U0001f3bb\x1b[31m'\"\\ %s {x}\n",
}
KEPT: dict[str, Any] = {
    **TEXTS,
    "NaN": [float("nan"), float("inf"), float("-inf"), -0.0],
    "keys": {"\0": "\0", "\ud800": 1, "$": {"$": "int"}, "": None},
    "huge ints": [10**5000, -(10**5000)],
    "deep lists": lists(190),
    "deep dicts": dicts(190),
}
#: Made when needed: nobody can print them.
TOO_DEEP: dict[str, Callable[[], Any]] = {
    "500 lists": lambda: lists(500),
    "500 dicts": lambda: dicts(500),
    "500 lists beside an object": lambda: [Link(1), lists(500)],
    "100,000 lists": lambda: lists(100_000),
    "100,000 dicts": lambda: dicts(100_000),
    "100,000 objects": lambda: links(100_000),
    "100,000 lists beside an object": lambda: [Link(1), lists(100_000)],
}

every_kept = pytest.mark.parametrize("value", KEPT.values(), ids=KEPT)
WAYS = ("inline", "submitted", "body")


# -- flows -------------------------------------------------------------------------------------------------------


@task
def same(value):
    return value


@task
def deep(name):
    return TOO_DEEP[name]()


@task
def raising(value):
    raise ValueError(value)


@task
def raising_deep(name):
    raise ValueError(TOO_DEEP[name]())


@flow
def child(value):
    return same.submit(value).result()


@flow
def every_place(value):
    """An argument and result of a direct call, of submitted ones, of a subflow, and of the run."""
    inline = same(value)
    submitted = same.submit(inline)
    again = same.submit(submitted)
    return [value, inline, again.result(), child(value), same.submit(value)]


@flow
def nested(value, levels):
    return nested(value, levels - 1) if levels else same.submit(value).result()


@flow(flow_run_name="about {value}")
def named(value):
    return value


@flow
def annotated(text: str | int):
    return text


@task
def tagged():
    return runtime.task_run.tags


@flow
def tagging(text):
    odd = tagged.with_options(tags=[text], name=text, task_run_name=text)
    return [odd(), odd.submit().result()]


@flow
def failing(value, way):
    if way == "body":
        raise ValueError(value)
    raising(value) if way == "inline" else raising.submit(value).result()


@flow
def failing_deeply(name, way):
    if way == "body":
        raise ValueError(TOO_DEEP[name]())
    raising_deep(name) if way == "inline" else raising_deep.submit(name).result()


@flow
def telling(text):
    get_run_logger().info("%s", text)
    same.submit(1).result()
    get_run_logger().warning("%s again", text)


@flow
def handing_on(name, way):
    """Something too deep as an argument; says what it heard."""
    value = TOO_DEEP[name]()
    try:
        {"submitted": same.submit, "subflow": child}[way](value)
    except SerializationError:
        return "refused"


@flow
def handing_on_directly(name):
    """Something too deep as an argument that goes nowhere."""
    return kind_of(TOO_DEEP[name]())


@task
def kind_of(value):
    return type(value).__name__


@flow
def giving_back(name, way):
    """Something too deep as a result."""
    if way == "body":
        return TOO_DEEP[name]()
    return deep(name) if way == "inline" else deep.submit(name).result()


@flow
def giving_back_early(make, *args):
    """As `giving_back`, while submitted work is still to be done."""
    same.submit(1)
    return {"lists": lists, "dicts": dicts, "pickled": lambda depth: [Link(1), lists(depth)]}[make](*args)


# -- helpers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def driver(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """Carries what `.delay()` starts, on the test's database; at the end, nothing is left open."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", NOWHERE)
    monkeypatch.setenv("ORCHESTRA_LOG_TO_CONSOLE", "false")
    settings.reset()
    yield Driver(database, slots=1)
    assert left_open(database) == []


def left_open(database: Database) -> list[str]:
    """The states of the runs and steps that have not ended."""
    runs, work = (sa.select(table.c.state_name).where(table.c.phase != Phase.DONE) for table in (flow_runs, steps))
    return database.read(lambda connection: list(connection.execute(runs.union_all(work)).scalars()))


def runs_of(database: Database) -> int:
    """How many runs there are."""
    return database.read(lambda connection: len(connection.execute(sa.select(flow_runs.c.id)).all()))


def ended(driver: Driver, handle: FlowRunHandle) -> State[Any]:
    """The state of a run when all messages have been carried."""
    driver.elapse()
    driver.settle()
    return handle.state


def alike(one: Any, other: Any) -> bool:
    """Equal, and NaN equals NaN."""
    return bool(one == other) or json.dumps(one) == json.dumps(other)


def orchestra(*args: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, list(args), catch_exceptions=False)


def shown(handle: FlowRunHandle) -> Any:
    """What the command line tells about a run, as strict JSON; for people it prints without error, too."""
    behind().flush(5)
    found = orchestra("flow-run", "inspect", handle.id, "-o", "json")
    assert (found.exit_code, orchestra("flow-run", "inspect", handle.id).exit_code) == (0, 0)
    return json.loads(found.stdout, parse_constant=lambda name: pytest.fail(name))


def escaped(text: str) -> str:
    """Text as every database can hold it."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


# -- what comes back ---------------------------------------------------------------------------------------------


@every_kept
def test_a_value_comes_back_equal_from_everywhere(driver: Driver, value: Any) -> None:
    """As parameter, argument and result, directly, submitted, through a subflow, and in replays."""
    handle = every_place.delay(value)

    state = ended(driver, handle)

    assert state.is_completed(), state.message
    assert all(alike(each, value) for each in state.result())
    assert shown(handle)["state_type"] == "COMPLETED"


@every_kept
def test_an_exception_keeps_what_it_carries(driver: Driver, value: Any) -> None:
    """Its type and arguments; its type alone where no text can be made of them."""
    for way in WAYS:
        handle = failing.delay(value, way)
        state = ended(driver, handle)

        assert state.is_failed()
        assert "ValueError" in (state.message or "")
        error = state.result(raise_on_failure=False)
        assert isinstance(error, TaskFailed) or (type(error) is ValueError and alike(error.args[0], value))
        assert shown(handle)["state_type"] == "FAILED"


def test_a_run_may_be_named_after_any_value(driver: Driver) -> None:
    """What cannot be made into a name gives one of random words."""
    for value in KEPT.values():
        handle = named.delay(value)

        assert ended(driver, handle).is_completed()
        assert 0 < len(shown(handle)["name"]) <= 255


def test_names_tags_and_keys_are_kept_escaped(driver: Driver) -> None:
    """And the key still finds its run."""
    for text in TEXTS.values():
        options = {"name": text, "tags": [text, "plain"], "idempotency_key": text}
        first, again = (submit_flow_run(named.spec, {"value": 1}, **options) for _ in range(2))
        with pytest.raises(IdempotencyConflict):
            named.apply_async(args=(2,), idempotency_key=text)

        found = shown(first)

        assert again.id == first.id
        assert (found["name"], found["idempotency_key"]) == (escaped(text), escaped(text))
        assert set(found["tags"]) == {escaped(text), "plain"}
        assert ended(driver, first).result() == 1


def test_a_task_may_have_any_name_and_tag(driver: Driver) -> None:
    """The body sees the tag as it was given."""
    for text in TEXTS.values():
        handle = tagging.delay(text)

        assert ended(driver, handle).result() == [[text], [text]]
        assert orchestra("task-run", "ls", "--flow-run", handle.id, "-o", "json").exit_code == 0


@pytest.mark.parametrize("option", ["name", "tags", "idempotency_key", "queue"])
def test_a_long_text_is_taken_or_refused_in_our_words(driver: Driver, option: str) -> None:
    """On both databases alike; it is never the database that refuses."""
    for text in ("x" * 900, "\0" * 200, "\U0001f3bb" * 600):
        try:
            handle = submit_flow_run(named.spec, {"value": 1}, **{option: [text] if option == "tags" else text})
        except OrchestraError as error:
            refused = str(error)
            assert option.split("_")[0] in refused
            assert "the database refused" not in refused
        else:
            assert ended(driver, handle).is_completed()


def test_log_lines_of_any_text_are_kept_once(driver: Driver) -> None:
    """Escaped, from a body that is replayed."""
    for text in TEXTS.values():
        handle = telling.delay(text)
        assert ended(driver, handle).is_completed()
        behind().flush(5)

        lines = [line.message for line in logs.read(driver.database, handle.id)]

        assert (lines.count(escaped(text)), lines.count(escaped(f"{text} again"))) == (1, 1)


def test_an_annotated_parameter_takes_them_too(driver: Driver) -> None:
    """Pydantic's check changes nothing."""
    for value in (*TEXTS.values(), 10**5000):
        assert ended(driver, annotated.delay(value)).result() == value


@pytest.mark.services
def test_a_worker_carries_them_all_and_goes_on(database: Database, worker_factory: WorkerFactory) -> None:
    """Every run ends by itself, none as if its worker had died; nothing stays open, and the next one runs."""
    worker_factory(__name__)
    handles = [every_place.delay(value) for value in KEPT.values()]
    handles += [failing.delay(value, "submitted") for value in KEPT.values()]
    handles += [tagging.delay(text) for text in TEXTS.values()]
    handles += [giving_back.delay(name, "submitted") for name in TOO_DEEP]
    handles += [giving_back_early.delay("dicts", 500)]

    assert {handle.wait(20).name for handle in handles} == {"Completed", "Failed"}
    assert left_open(database) == []
    assert annotated.delay("on").result(timeout=20) == "on"


# -- what is refused ---------------------------------------------------------------------------------------------


def test_parameters_that_are_too_deep_are_refused_where_they_are_given(driver: Driver) -> None:
    """The error names the flow; no row is left."""
    for make in TOO_DEEP.values():
        with pytest.raises(SerializationError, match=r"parameters of flow 'every-place'.*(levels deep|recursion)"):
            every_place.delay(make())

    assert runs_of(driver.database) == 0


def test_a_lock_as_a_parameter_is_refused_where_it_is_given(driver: Driver) -> None:
    """The error names the flow and the parameter, and says what to do; no row is left."""
    with pytest.raises(SerializationError, match=r"flow 'named'.*value.*lock.*plain data"):
        named.delay(threading.Lock())

    assert runs_of(driver.database) == 0


@pytest.mark.parametrize("way", ["submitted", "subflow"])
def test_an_argument_that_is_too_deep_is_refused_at_the_call(driver: Driver, way: str) -> None:
    """The body may catch it and go on; a subflow leaves no run."""
    heard = {name: ended(driver, handing_on.delay(name, way)).result() for name in TOO_DEEP}

    assert heard == dict.fromkeys(TOO_DEEP, "refused")
    assert runs_of(driver.database) == len(TOO_DEEP)


def test_a_direct_call_takes_an_argument_of_any_depth(driver: Driver) -> None:
    """It is sent nowhere."""
    for name in TOO_DEEP:
        assert ended(driver, handing_on_directly.delay(name)).result() in ("list", "dict", "Link")


def test_a_deep_value_reaches_a_deep_subflow_or_is_refused(driver: Driver) -> None:
    """Flows in flows take a part of the stack; what is left is either enough, or the error says what is too deep."""
    for name in ("deep lists", "deep dicts"):
        found = ended(driver, nested.delay(KEPT[name], 19)).result(raise_on_failure=False)

        assert isinstance(found, SerializationError) or found == KEPT[name]


@pytest.mark.parametrize("way", WAYS)
def test_a_result_that_is_too_deep_fails_its_run(driver: Driver, way: str) -> None:
    """With an error that says whose result it is."""
    for name in TOO_DEEP:
        with pytest.raises(SerializationError, match=r"the result of"):
            ended(driver, giving_back.delay(name, way)).result()


def test_a_run_with_open_work_ends_also_if_its_result_is_too_deep(driver: Driver) -> None:
    """It fails when that work has ended."""
    for name, depth in {"lists": 500, "dicts": 500, "pickled": 100_000}.items():
        with pytest.raises(SerializationError, match=r"the result of"):
            ended(driver, giving_back_early.delay(name, depth)).result()


def test_no_depth_is_too_deep_for_a_run_to_end(driver: Driver) -> None:
    """Near the limit of each part of the way, and between them."""
    depths = range(180, 500, 20)

    handles = [giving_back_early.delay("pickled", depth) for depth in depths]

    driver.elapse()
    driver.settle()
    assert [depth for depth, handle in zip(depths, handles, strict=True) if not handle.ready()] == []


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_that_carries_something_too_deep_is_kept_as_text(driver: Driver, way: str) -> None:
    """Its type is told, and the run ends."""
    for name in TOO_DEEP:
        state = ended(driver, failing_deeply.delay(name, way))

        assert state.is_failed()
        assert "ValueError" in (state.message or "")
        assert isinstance(state.result(raise_on_failure=False), (ValueError, TaskFailed))
