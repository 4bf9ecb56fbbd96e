"""Parameters of flows: bound as in a plain call, and made to fit every kind of annotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from orchestra import flow
from orchestra.errors import ParameterBindError, ParameterTypeError, SignatureMismatchError
from tests.drive import Driver
from tests.semantics.conftest import Run


class Source(BaseModel):
    """A model."""

    name: str
    rows: int = 10


class Nested(BaseModel):
    """A model of models."""

    sources: list[Source]


@dataclass
class Window:
    """A dataclass."""

    start: datetime
    days: int = 1


class Mode(Enum):
    """An enum."""

    FAST = "fast"
    SLOW = "slow"


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int


class Options(TypedDict, total=False):
    """A typed dict."""

    depth: int


class Opaque:
    """A class that pydantic knows nothing of."""


def shown(values: Any) -> str:
    """Values and their types, as text."""
    return repr(values)


@flow
def plain(a: int, b: float, c: str, d: bool, e: bytes) -> str:
    return shown((a, b, c, d, e))


@flow
def times(a: datetime, b: date, c: timedelta) -> str:
    return shown((a, b, c))


@flow
def kinds(a: Decimal, b: UUID, c: Path, d: Mode, e: Literal["x", "y"]) -> str:
    return shown((a, b, c, d, e))


@flow
def unions(a: int | None, b: int | str, c: list[int] | dict[str, int]) -> str:
    return shown((a, b, c))


@flow
def collections(a: list[int], b: dict[str, float], c: tuple[int, ...], d: set[int], e: Options) -> str:
    return shown((a, b, c, d, e))


@flow
def models(a: Source, b: Nested, c: Window, d: Point) -> str:
    return shown((a, b, c, d))


@flow
def limited(a: Annotated[int, Field(gt=0)], b: Any, c: object, d="none") -> str:  # type: ignore[no-untyped-def]
    return shown((a, b, c, d))


@flow
def defaults(a: int = "7", b: Source | None = None, *, c: list[int] = [1]) -> str:  # type: ignore[assignment]  # noqa: B006
    return shown((a, b, c))


@flow
def variadic(a: int, *rest: int, flag: bool = False, **more: float) -> str:
    return shown((a, rest, flag, more))


@flow
def positional_only(a: int, /, b: int, *, c: int = 3) -> str:
    return shown((a, b, c))


@flow(validate_parameters=False)
def unchecked(a: int, b: Source) -> str:
    return shown((a, b))


@flow
def odd_names(schema: int, model_config: int, _hidden: int, name: int) -> str:
    return shown((schema, model_config, _hidden, name))


@flow
def own_class(a: Opaque | None, b: Callable[..., Any] | None = None) -> str:
    return shown((a, b))


@flow
def child(n: int) -> int:
    return n + 1


@flow
def parent(n: Any) -> int:
    return child(n)


MOMENT = datetime(2026, 1, 2, 3, tzinfo=UTC)
CASES = [
    (plain, {"a": "1", "b": "2.5", "c": "x", "d": "yes", "e": "raw"}, "(1, 2.5, 'x', True, b'raw')"),
    (
        times,
        {"a": "2026-01-02T03:00:00+00:00", "b": "2026-01-02", "c": 90},
        shown((MOMENT, MOMENT.date(), timedelta(seconds=90))).replace("datetime.timezone.utc", "TzInfo(UTC)"),
    ),
    (
        kinds,
        {"a": "1.5", "b": "0" * 32, "c": "/tmp", "d": "fast", "e": "y"},
        shown((Decimal("1.5"), UUID(int=0), Path("/tmp"), Mode.FAST, "y")),
    ),
    (unions, {"a": None, "b": "x", "c": {"k": "1"}}, "(None, 'x', {'k': 1})"),
    (
        collections,
        {"a": ["1"], "b": {"k": "1"}, "c": [1, "2"], "d": [3, 3], "e": {"depth": "4"}},
        "([1], {'k': 1.0}, (1, 2), {3}, {'depth': 4})",
    ),
    (
        models,
        {
            "a": {"name": "web"},
            "b": {"sources": [{"name": "db", "rows": "3"}]},
            "c": {"start": MOMENT, "days": "2"},
            "d": [1, "2"],
        },
        shown((Source(name="web"), Nested(sources=[Source(name="db", rows=3)]), Window(MOMENT, 2), Point(1, 2))),
    ),
    (limited, {"a": "5", "b": "as it is", "c": [1]}, "(5, 'as it is', [1], 'none')"),
    (odd_names, {"schema": "1", "model_config": "2", "_hidden": "3", "name": "4"}, "(1, 2, 3, 4)"),
    (own_class, {"a": None}, "(None, None)"),
    (unchecked, {"a": "1", "b": {"name": "web"}}, "('1', {'name': 'web'})"),
]


@pytest.mark.parametrize(("body", "given", "seen"), CASES, ids=[body.name for body, _, _ in CASES])
def test_values_are_made_to_fit_their_annotations(run: Run, body: Any, given: dict[str, Any], seen: str) -> None:
    """Numbers, times, enums, literals, unions, collections, models, dataclasses; postponed annotations too."""
    assert run.value(body, **given).replace("TzInfo(0)", "TzInfo(UTC)") == seen


def test_defaults_are_left_as_they_are() -> None:
    """A default that does not fit its annotation is the author's business."""
    assert defaults() == "('7', None, [1])"
    assert defaults(1, {"name": "web"}, c=["2"]) == "(1, Source(name='web', rows=10), [2])"  # type: ignore[arg-type, list-item]


def test_variadic_and_positional_only_parameters_are_bound_as_in_a_plain_call() -> None:
    """Each value is made to fit."""
    assert variadic("1", "2", "3", flag="true", x="4") == "(1, (2, 3), True, {'x': 4.0})"  # type: ignore[arg-type]
    assert variadic(1) == "(1, (), False, {})"
    assert positional_only("1", b="2") == "(1, 2, 3)"  # type: ignore[arg-type]


def test_workers_bind_them_alike(driver: Driver) -> None:
    """Parameters are stored by name, as a call has bound them."""
    given: dict[str, Any] = {"a": 1, "rest": (2, 3), "flag": True, "more": {"x": 4}}

    assert driver.run(variadic, **given).result() == "(1, (2, 3), True, {'x': 4.0})"
    assert driver.run(positional_only, a=1, b=2).result() == "(1, 2, 3)"


@pytest.mark.parametrize(
    ("body", "given", "message"),
    [
        (limited, {"a": 0, "b": 1, "c": 1}, "'a': Input should be greater than 0 .given 0."),
        (plain, {"a": "x", "b": "y", "c": "z", "d": True, "e": b""}, "'a': .*; 'b': "),
        (kinds, {"a": 1, "b": UUID(int=0), "c": Path(), "d": "fast", "e": "z"}, "'e': Input should be 'x' or 'y'"),
        (models, {"a": {}, "b": {"sources": []}, "c": Window(MOMENT), "d": Point(1, 2)}, "'a.name': Field required"),
        (own_class, {"a": 3}, "'a': "),
    ],
)
def test_misfits_fail_the_run_and_are_all_named(run: Run, body: Any, given: dict[str, Any], message: str) -> None:
    """Each with its place and its value; the body is not called."""
    state = run(body, **given)

    assert state.is_failed()
    with pytest.raises(ParameterTypeError, match=message):
        state.result()


def test_a_child_runs_parameters_are_checked_too(run: Run) -> None:
    """The child fails, and so its parent."""
    assert run.value(parent, n="3") == 4
    with pytest.raises(ParameterTypeError, match="'child' do not fit: 'n'"):
        run.value(parent, n="three")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: child(), "missing a required argument: 'n'"),
        (lambda: child(1, 2), "too many positional arguments"),
        (lambda: child(m=1), "missing a required argument: 'n'"),
        (lambda: child(1, m=1), "unexpected keyword argument 'm'"),
        (lambda: positional_only(a=1, b=2), "'a'"),
    ],
)
def test_arguments_that_do_not_fit_the_signature_say_so(call: Callable[[], Any], message: str) -> None:
    """At the call: no run is made."""
    with pytest.raises(ParameterBindError, match=message):
        call()


def test_parameters_can_be_checked_without_a_run() -> None:
    """`flow.validate_parameters({...})`, by name."""
    assert models.validate_parameters(CASES[5][1])["a"] == Source(name="web")
    assert variadic.validate_parameters({"a": "1"}) == {"a": 1, "rest": (), "flag": False, "more": {}}
    with pytest.raises(ParameterTypeError, match="'n'"):
        child.validate_parameters({"n": "x"})
    with pytest.raises(SignatureMismatchError, match="no parameter 'm'"):
        child.validate_parameters({"m": 1})
    with pytest.raises(ParameterBindError, match="missing"):
        child.validate_parameters({})


def test_parameters_can_be_written_as_json() -> None:
    """`flow.serialize_parameters({...})`; what has no such form is named."""
    given = {"a": Source(name="web"), "c": Window(MOMENT), "d": {1}}

    assert models.serialize_parameters(given) == {
        "a": {"name": "web", "rows": 10},
        "c": {"start": "2026-01-02T03:00:00Z", "days": 1},
        "d": [1],
    }
    with pytest.raises(ParameterTypeError, match="'a' cannot be written as JSON"):
        own_class.serialize_parameters({"a": Opaque()})
