"""Which Celery app a process uses."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

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


def test_installing_changes_no_setting_of_the_app() -> None:
    """The app's own tasks go on as before."""
    app = orchestra.celery.install(make_app())

    assert app.conf.table(with_defaults=True) == make_app().conf.table(with_defaults=True)


def test_our_tasks_pin_their_options() -> None:
    """What the app sets for its own tasks must not change what carries flows."""
    app = make_app()
    app.conf.update(task_acks_late=True, task_default_rate_limit="1/m", task_track_started=True)
    orchestra.celery.install(app)

    task = app.tasks["orchestra.task"]

    assert (task.acks_late, task.rate_limit, task.track_started, task.ignore_result) == (False, "0", False, True)


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
