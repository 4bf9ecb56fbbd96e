"""What may stand under the decorators: functions, methods, partials, builtins, objects that can be called."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from orchestra import flow, task
from orchestra.errors import DefinitionError, NotImportable
from tests.semantics.conftest import Run


class Adder:
    """An object that can be called."""

    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, x: int) -> int:
        """Add."""
        return x + self.by

    def plus(self, x: int) -> int:
        """Add, by a bound method."""
        return x + self.by


@dataclass
class Scaler:
    """A dataclass that can be called; it has no hash."""

    factor: int

    async def __call__(self, x: int) -> int:
        """Scale."""
        return x * self.factor


@dataclass
class Loader:
    """Methods of all kinds as tasks and flows."""

    prefix: str

    @task
    def load(self, name: str) -> str:
        """A method."""
        return self.prefix + name

    @task
    @classmethod
    def kind(cls, mark: str) -> str:
        """A class method."""
        return cls.__name__ + mark

    @task
    @staticmethod
    def upper(text: str) -> str:
        """A static method."""
        return text.upper()

    @flow
    def whole(self, name: str) -> list[str]:
        """A method that is a flow."""
        return [self.load(name), self.upper.submit(self.load.submit(name)).result()]

    @classmethod
    @flow
    def of_class(cls, mark: str) -> list[str]:
        """A class method that is a flow."""
        return [cls.kind(mark), cls.kind.submit(mark).result()]

    @staticmethod
    @flow
    def of_none(text: str) -> str:
        """A static method that is a flow."""
        return Loader.upper(text)


def multiply(left: int, right: int) -> int:
    """A plain function."""
    return left * right


def make(by: int) -> Any:
    """A task made by a function."""

    @task
    def add_made(x: int) -> int:
        return x + by

    return add_made


triple = task(partial(multiply, 3))
add_two = task(Adder(2), retries=1)
add_four = task(Adder(4).plus)
scale = task(Scaler(5))
length = task(len)
largest = task(max, name="largest")
product = task(multiply)
less_one = task(lambda x: x - 1)
add_nine = make(9)
as_int = task(int)
mean = task(operator.add).with_options(name="sum")


@flow
def calls() -> list[Any]:
    """Each of them, called and submitted."""
    one = [triple(2), add_two(1), add_four(1), length("abc"), largest(1, 7), product(2, 3), less_one(3), add_nine(1)]
    two = [triple.submit(2), add_two.submit(1), add_four.submit(1), length.submit("abc"), largest.submit(1, 7)]
    two += [product.submit(2, 3), less_one.submit(3), add_nine.submit(1)]
    return [one, [future.result() for future in two], as_int("7"), mean.submit(1, 2).result()]


@flow
async def awaits() -> list[int]:
    """An object whose call is a coroutine."""
    return [await scale(2), await scale.submit(3)]


@flow
def methods() -> list[Any]:
    """All kinds of methods, as tasks and as flows."""
    loader = Loader("a-")
    return [
        loader.load("x"),
        loader.load.submit("y").result(),
        loader.load.map(["u", "v"]).result(),
        loader.whole("z"),
        Loader.kind("!"),
        Loader.kind.submit("?").result(),
        loader.of_class("*"),
        Loader.of_none("s"),
    ]


#: A flow of a bound method.
bound = flow(Adder(1).plus, name="bound")


def test_whatever_can_be_called_can_be_a_task(run: Run) -> None:
    """Workers find it in the variable that holds it."""
    values = [6, 3, 5, 3, 7, 6, 2, 10]

    assert run.value(calls) == [values, values, 7, 3]
    assert run.value(awaits) == [10, 15]


def test_methods_class_methods_and_static_methods_are_tasks_and_flows(run: Run) -> None:
    """`self` and `cls` go along as arguments do; `@classmethod` may stand above or below."""
    assert run.value(methods) == [
        "a-x",
        "a-y",
        ["a-u", "a-v"],
        ["a-z", "A-Z"],
        "Loader!",
        "Loader?",
        ["Loader*", "Loader*"],
        "S",
    ]


def test_a_flow_may_be_an_object_too(run: Run) -> None:
    """It is named, and found, like a function."""
    assert run.value(bound, x=1) == 2


@pytest.mark.parametrize(
    ("made", "name", "path"),
    [
        (triple, "multiply", "triple"),
        (add_two, "Adder", "add_two"),
        (length, "len", "length"),
        (less_one, "<lambda>", "less_one"),
        (add_nine, "add_made", "add_nine"),
        (bound, "bound", "bound"),
    ],
)
def test_names_and_paths(made: Any, name: str, path: str) -> None:
    """Named after what is called; found in its variable."""
    assert (made.name, made.__name__ if name != "bound" else "bound") == (name, name)
    assert made.spec.path == f"{__name__}:{path}"


def test_what_no_variable_holds_runs_here_and_nowhere_else() -> None:
    """A clear error says where to put it."""
    hidden = flow(partial(multiply, 2))

    assert hidden(4) == 8
    with pytest.raises(NotImportable, match="top level of a module"):
        hidden.delay(4)


@pytest.mark.parametrize("decorate", [flow, task])
def test_what_cannot_be_called_is_refused_with_the_remedy(decorate: Any) -> None:
    """Where it is declared."""
    with pytest.raises(DefinitionError, match="takes a function"):
        decorate("name")
    with pytest.raises(DefinitionError, match=r"already; use \.with_options"):
        decorate(decorate(multiply))


def test_a_flow_cannot_be_a_task_too() -> None:
    """Nor the other way round."""
    with pytest.raises(DefinitionError, match="cannot be a task too"):
        task(flow(multiply))
    with pytest.raises(DefinitionError, match="cannot be a flow too"):
        flow(product)


def test_fn_is_the_function_itself() -> None:
    """Called without orchestra."""
    assert product.fn is multiply
    assert Loader("b").load.fn("c") == "bc"
