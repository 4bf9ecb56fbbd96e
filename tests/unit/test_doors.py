"""Flows and tasks as Celery signatures, before any of them is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from celery import Celery, chain
from celery.canvas import Signature

import orchestra.celery
from orchestra import flow, runtime, tags, task
from orchestra.celery import doors
from orchestra.celery.doors import Door
from orchestra.errors import DefinitionError, NotImportable, ParameterBindError, SignatureInvalid
from tests.conftest import forget


@flow(queue="etl")
def load(day: str, rows: Any = None) -> str:
    """A flow with a queue of its own."""
    return day


@flow
def tell_tags() -> list[str]:
    """The tags of its run."""
    return sorted(runtime.flow_run.tags)


@task(priority=3)
def clean(row: Any) -> Any:
    """A task with a priority."""
    return row


class Shop:
    """Has a method that is a task."""

    @task
    def price(self, number: int) -> int:
        """A method."""
        return number


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with routes."""
    made = Celery("routed", broker="memory://", set_as_current=False)
    made.conf.task_routes = {f"{__name__}.clean": {"queue": "heavy"}}
    yield orchestra.celery.install(made)
    forget()


def told(signature: Signature) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a worker gets, after Celery has carried them as JSON."""
    args, kwargs = json.loads(json.dumps([signature.args, signature.kwargs]))
    del kwargs[doors.DOOR]
    return doors.arguments(args, kwargs)


def test_a_flow_and_a_task_are_native_signatures(app: Celery) -> None:
    """With arguments, options, names for Flower, and the queue and priority that a call would have."""
    made = load.signature(("2026-11-26",), {"rows": [1]}, {"countdown": 3}, link=clean.s(), immutable=True)

    assert (type(made), made.immutable, made.task, made.args) == (Signature, True, "orchestra.enter", ("2026-11-26",))
    assert (made.options["queue"], made.options["shadow"], made.options["countdown"]) == ("etl", "load", 3)
    assert (clean.s(1).options["queue"], clean.s(1).options["priority"]) == ("heavy", 3)
    assert isinstance(load.s("a") | clean.s(), type(chain(load.s("a"), clean.s())))


@pytest.mark.parametrize(
    "value", [1, "text", None, [1, {"a": [2.5]}], (1, 2), {1, 2}, date(2026, 11, 26), b"\xff\x00", float("inf"), 1 + 2j]
)
def test_arguments_arrive_as_they_were(app: Celery, value: Any) -> None:
    """What JSON can say as it is, the rest in our own encoding."""
    args, kwargs = told(clean.signature((value,), {"named": value}))

    assert (args, kwargs) == ((value,), {"named": value})
    assert type(args[0]) is type(value)


def test_plain_arguments_can_be_read_in_the_message(app: Celery) -> None:
    """By people, and by whatever else looks at messages."""
    assert clean.s([1, {"a": 2}]).args == ([1, {"a": 2}],)


def test_a_signature_needs_neither_app_nor_broker() -> None:
    """It can be made and looked at."""
    assert load.s("2026-11-26").options == {"shadow": "load", "argsrepr": "…", "kwargsrepr": "…", "queue": "etl"}


def test_what_a_worker_could_not_do_is_refused_at_once(app: Celery) -> None:
    """A function nobody can import; fixed arguments that do not fit; a method that would get a result as its self."""

    @flow
    def hidden() -> None:
        """In a function."""

    with pytest.raises(NotImportable, match="hidden"):
        hidden.s()
    with pytest.raises(ParameterBindError, match="load"):
        load.si()
    with pytest.raises(DefinitionError, match=r"use \.si\(\)"):
        Shop().price.s(1)
    assert len(Shop().price.si(1).args) == 2


def test_a_signature_keeps_the_tags_in_force(app: Celery) -> None:
    """As `.delay()` does; run at once it has them too."""
    with tags("nightly", "eu"):
        tagged, called = load.s("monday"), tell_tags.s()

    assert Door.opened(tagged.kwargs[doors.DOOR]).tag_names() == ["eu", "nightly"]
    assert called() == ["eu", "nightly"]
    assert Door.opened(load.s("monday").kwargs[doors.DOOR]).tag_names() == []


def test_a_door_opens_only_as_it_was_sealed(app: Celery) -> None:
    """Any change, and any other form, is refused."""
    sealed = Door.to(load.with_options(retries=2).spec).sealed()
    opened = Door.opened(json.loads(json.dumps(sealed)))

    spec: Any = opened.load()
    assert (spec.name, spec.retries) == ("load", 2)
    for name in sealed:
        with pytest.raises(SignatureInvalid, match="was not signed"):
            Door.opened({**sealed, name: sealed[name] + "x"})
    for name in ("path", "options", "seal"):
        with pytest.raises(SignatureInvalid):
            Door.opened({key: value for key, value in sealed.items() if key != name})
    for other in (None, "text", [], {**sealed, "more": "x"}, {**sealed, "path": 1}):
        with pytest.raises(SignatureInvalid):
            Door.opened(other)
