"""Which Celery app a process uses."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery, Task
from kombu import Exchange, Queue

import orchestra.celery
from orchestra import settings
from orchestra.celery import apps
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.celery.processes import process_start
from orchestra.errors import ConfigurationError, NoBroker


@pytest.fixture(autouse=True)
def no_apps() -> Iterator[None]:
    """No app known before, none after."""
    apps.forget()
    yield
    apps.forget()


def make_app() -> Celery:
    """A user's app."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.task_routes = {"shop.flows.*": {"queue": "shop", "priority": 3}, "shop.flows.odd": "odd"}
    return app


def test_without_app_and_broker_the_error_says_what_to_run() -> None:
    """`.delay()` of someone who has just begun."""
    with pytest.raises(NoBroker, match="orchestra dev"):
        apps.current_app()


def test_the_installed_app_is_used() -> None:
    """`orchestra.celery.install(app)` beside an existing Celery app."""
    app = orchestra.celery.install(make_app())

    assert apps.current_app() is app


def test_installing_twice_changes_nothing() -> None:
    """Django and test runners import things twice."""
    app = make_app()
    orchestra.celery.install(orchestra.celery.install(app))

    assert {"orchestra.flow", "orchestra.task"} <= set(app.tasks)
    assert len(app.steps["worker"]) == 1


SETTINGS = {
    "task_acks_late": True,
    "task_default_rate_limit": "1/m",
    "task_track_started": True,
    "task_time_limit": 30,
    "task_annotations": {"*": {"acks_late": True, "rate_limit": "1/s", "ignore_result": False}},
}


@pytest.mark.parametrize("settings", [{}, SETTINGS], ids=["defaults", "own settings"])
def test_installing_changes_no_setting_of_the_app(settings: dict[str, object]) -> None:
    """Neither the values nor what counts as set by the user, also when all is in use; but for Celery's scheduler."""
    app, untouched = make_app(), make_app()
    for each in (app, untouched):
        each.conf.update(settings)
    orchestra.celery.install(app)

    app.finalize()

    for with_defaults in (True, False):
        expected = untouched.conf.table(with_defaults) | {"beat_scheduler": apps.SCHEDULER}
        assert app.conf.table(with_defaults) == expected


def test_installing_reads_no_configuration() -> None:
    """So it may stand before `config_from_object`, as in a Django project's celery.py."""
    app = orchestra.celery.install(Celery("late", set_as_current=False))
    assert (app.configured, app.finalized) == (False, False)

    app.config_from_object({"CELERY_TASK_DEFAULT_QUEUE": "late"}, namespace="CELERY")

    assert CeleryCarrier(app).default_queue == "late"


def test_our_tasks_pin_their_options() -> None:
    """What the app sets for its own tasks must not change what carries flows, by whatever way it is set."""
    app = make_app()
    app.conf.update(SETTINGS)
    orchestra.celery.install(app)

    task = app.tasks["orchestra.task"]

    assert (task.acks_late, task.rate_limit, task.track_started, task.ignore_result) == (False, "0", False, True)
    assert task.time_limit > 86_400


@pytest.mark.parametrize(("name", "ignores"), [("enter", False), ("join", True), ("pass_on", False)])
def test_our_tasks_in_canvases_are_not_annotated(name: str, ignores: bool) -> None:
    """They are acknowledged when done, and tried as often as it takes; so their options are their own, too."""
    app = make_app()
    changed = {"acks_late": False, "rate_limit": "1/h", "max_retries": 0, "ignore_result": not ignores}
    app.conf.task_annotations = {"*": changed | {"track_started": True}}
    orchestra.celery.install(app)

    task = app.tasks[f"orchestra.{name}"]

    assert (task.acks_late, task.rate_limit, task.max_retries, task.track_started) == (True, "0", None, False)
    assert task.ignore_result is ignores


class Choosy(Task):
    """A project's base class of all its tasks."""

    def before_start(self, task_id: str, args: object, kwargs: object) -> None:
        raise AssertionError("not for orchestra's tasks")


def test_our_tasks_have_not_the_apps_base_class() -> None:
    """What a project does around each of its tasks (a tenant, a database session) is not for segments of flows."""
    app = orchestra.celery.install(Celery("choosy", task_cls=Choosy, set_as_current=False))

    @app.task(shared=False)
    def own() -> None: ...

    assert isinstance(own._get_current_object(), Choosy)
    assert not isinstance(app.tasks["orchestra.flow"], Choosy)


@pytest.mark.parametrize(
    ("accepted", "own", "used"),
    [
        (["json", "pickle"], "pickle", "json"),
        (["msgpack"], "msgpack", "msgpack"),
        (["application/json"], "yaml", "json"),
    ],
)
def test_our_messages_are_written_as_the_workers_accept_them(accepted: list[str], own: str, used: str) -> None:
    """JSON, unless the app's workers refuse that."""
    app = make_app()
    app.conf.update(accept_content=accepted, task_serializer=own)
    orchestra.celery.install(app)

    assert apps.message_serializer(app) == used
    assert app.tasks["orchestra.flow"].serializer == used


def test_with_several_apps_it_must_be_said_which_one_sends() -> None:
    """Not the one that happened to come last."""
    first, second = orchestra.celery.install(make_app()), orchestra.celery.install(make_app())

    with pytest.raises(ConfigurationError, match=r"install\(app, default=True\)"):
        apps.current_app()

    orchestra.celery.install(first, default=True)
    assert apps.current_app() is first
    with pytest.raises(ConfigurationError, match="a process sends through one"):
        orchestra.celery.install(second, default=True)


def test_an_app_that_is_gone_is_not_counted() -> None:
    """Tests of users make many."""
    orchestra.celery.install(make_app())
    gc.collect()

    kept = orchestra.celery.install(make_app())

    assert apps.current_app() is kept


def test_a_users_app_goes_before_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where `celery_app` was imported."""
    settings.override(broker_url="redis://127.0.0.1:1/0")
    orchestra.celery.app()
    theirs = orchestra.celery.install(make_app())

    assert apps.current_app() is theirs


@pytest.mark.parametrize(
    "routes",
    [
        {"shop.flows.*": {"queue": "shop"}},
        [[("shop.flows.*", "shop")], {"other": "else"}],
        lambda name, args, kwargs, options, task=None, **kw: {"queue": "shop"} if name.startswith("shop.") else None,
        {"shop.flows.*": {"exchange": "books", "routing_key": "books.new"}},
    ],
    ids=["dict", "list", "function", "exchange"],
)
def test_routes_may_be_written_in_every_way_of_celery(routes: object) -> None:
    """A route that names an exchange and a key means the queue bound so."""
    app = Celery("routed", broker="memory://", set_as_current=False)
    app.conf.task_routes = routes
    app.conf.task_queues = [Queue("shop", Exchange("books"), routing_key="books.new"), Queue("celery")]

    assert CeleryCarrier(app).route("shop.flows:daily")[0] == "shop"
    assert CeleryCarrier(app).route("blog.flows:post")[0] is None


def test_a_queue_that_the_app_does_not_allow_is_refused() -> None:
    """`task_create_missing_queues=False`: no message goes where nobody looks."""
    app = make_app()
    app.conf.update(task_create_missing_queues=False, task_queues=[Queue("shop"), Queue("celery")])
    carrier = CeleryCarrier(app)

    carrier.check_queue("shop")
    assert carrier.queue("shop.wake").name == "shop.wake"
    with pytest.raises(ConfigurationError, match="no queue 'shpo' in its task_queues"):
        carrier.check_queue("shpo")
    with pytest.raises(ConfigurationError):
        carrier.queue("shpo.wake")


def test_missing_queues_are_declared_as_the_app_says() -> None:
    """`task_create_missing_queue_type`: a worker of the app declares it alike."""
    app = make_app()
    app.conf.task_create_missing_queue_type = "quorum"

    assert CeleryCarrier(app).queue("etl.wake").queue_arguments == {"x-queue-type": "quorum"}


def test_a_broker_url_gives_our_own_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its default queue is `default`."""
    settings.override(broker_url="redis://127.0.0.1:1/0")

    app = apps.current_app()

    assert app.conf.task_default_queue == "default"
    assert app.conf.broker_transport_options["visibility_timeout"] == 300
    assert apps.current_app() is app


def test_the_embedded_broker_is_found_while_it_runs() -> None:
    """Its address stands in ORCHESTRA_HOME."""
    home = settings.current().home_path
    write_address(home, os.getpid(), process_start(os.getpid()))

    assert apps.current_app().conf.broker_url == f"redis+socket://{home}/broker.sock"


def test_the_address_of_a_broker_that_died_is_not_used() -> None:
    """Neither of one whose pid belongs to another process now."""
    write_address(settings.current().home_path, os.getpid(), "1")

    with pytest.raises(NoBroker):
        apps.current_app()


def test_the_app_of_the_setting_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ORCHESTRA_APP=proj`, as Celery's `-A`."""
    code = "import celery, orchestra.celery\napp = celery.Celery('named', set_as_current=False)\n"
    (tmp_path / "named_proj.py").write_text(code + "orchestra.celery.install(app)")
    monkeypatch.syspath_prepend(tmp_path)
    orchestra.celery.install(make_app())
    settings.override(app="named_proj")

    assert apps.current_app() is sys.modules["named_proj"].app


@pytest.mark.parametrize(
    ("code", "reason"),
    [("", "cannot be imported"), ("import celery\napp = celery.Celery('x', set_as_current=False)", "not installed")],
)
def test_an_app_that_does_not_serve_is_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    """Not a run that nobody takes up."""
    (tmp_path / "bad_proj.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_proj", raising=False)
    settings.override(app="bad_proj")

    with pytest.raises(ConfigurationError, match=reason):
        apps.current_app()


@pytest.mark.parametrize(
    ("path", "route"),
    [("shop.flows:daily", ("shop", 3)), ("shop.flows:odd", ("odd", None)), ("blog.flows:post", (None, None))],
)
def test_the_apps_routes_are_asked_with_celerys_name(path: str, route: tuple[str | None, int | None]) -> None:
    """`module.qualname`, as Celery names tasks; a more exact route wins."""
    assert CeleryCarrier(make_app()).route(path) == route


def write_address(home: Path, pid: int, started: str | None) -> None:
    """The address file of an embedded broker."""
    address = {"url": f"redis+socket://{home}/broker.sock", "pid": pid, "started": started}
    (home / "broker.json").write_text(json.dumps(address))
