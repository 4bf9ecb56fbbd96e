"""What flows and tasks have in common: a function, its spec, and what it is bound to."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, ParamSpec, Self, TypeVar

from orchestra import clock
from orchestra.annotations import allow_failure
from orchestra.engine.parameters import signature
from orchestra.errors import DefinitionError, ReservedArgumentError
from orchestra.futures import Future
from orchestra.retries import delay_option
from orchestra.specs import FlowSpec, TaskSpec, given_options
from orchestra.states import State

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

#: Names that calls keep for themselves.
RESERVED = frozenset({"wait_for", "return_state"})


class Decorated(Generic[P, R]):
    """A function under `@flow` or `@task`."""

    #: "flow" or "task", as messages say it.
    kind: ClassVar[str]
    spec: FlowSpec | TaskSpec

    @property
    def fn(self) -> Callable[P, R]:
        """The function itself, which runs without orchestra when called."""
        return functools.partial(self.spec.fn, *self._bound) if self._bound else self.spec.fn

    @property
    def name(self) -> str:
        """Its name: the function's, or as `name=` says."""
        return self.spec.name

    def __repr__(self) -> str:
        return f"<{self.kind} {self.spec.name!r} at {self.spec.path}>"

    def having(self, spec: Any) -> Self:
        """A copy of it with another spec; for orchestra itself."""
        made = copy.copy(self)
        made._adopt(spec)
        return made

    def _adopt(self, spec: FlowSpec | TaskSpec) -> None:
        wrapper: Any = self
        functools.update_wrapper(wrapper, spec.fn, updated=())
        self.spec = replace(spec, decorated=self)
        self._is_async = spec.is_async
        self._bound: tuple[Any, ...] = getattr(self, "_bound", ())

    def _bind(self, instance: Any) -> Self:
        """A copy whose calls get `instance` as their first argument: `self` of a method."""
        bound = copy.copy(self)
        bound._bound = (instance, *self._bound)
        return bound


def require_function(fn: Any, decorated: type[Decorated[..., Any]]) -> None:
    """Check that `fn` can be a flow or task.

    Raises:
        DefinitionError: It is no function, or decorated already.
        ReservedArgumentError: One of its parameters has a name that calls keep for themselves.
    """
    kind = decorated.kind
    if isinstance(fn, decorated):
        raise DefinitionError(f"{fn!r} is a {kind} already; use .with_options(...) for a copy with other options")
    if isinstance(fn, (staticmethod, classmethod)):
        raise DefinitionError(f"put @staticmethod or @classmethod above @{kind}, not below it")
    if not callable(fn):
        raise DefinitionError(f"@{kind} takes a function, not {fn!r}; options go by name: @{kind}(retries=3)")
    if reserved := RESERVED & set(signature(fn).parameters):
        raise ReservedArgumentError(
            f"{kind} function {fn!r} has a parameter named {min(reserved)!r}, which calls of a {kind} keep for "
            "themselves; rename it"
        )


def spec_fields(
    options: Mapping[str, Any], known: Mapping[str, Any], spec: type[FlowSpec | TaskSpec]
) -> dict[str, Any]:
    """Options that flows and tasks share, as fields of a spec.

    Args:
        options: As the user gave them.
        known: The options there are, by name.
        spec: What they are fields of.

    Raises:
        DefinitionError: One is unknown, or of a wrong kind.
    """
    kind = "flow" if spec is FlowSpec else "task"
    if unknown := sorted(set(options) - known.keys()):
        raise DefinitionError(
            f"a {kind} has no option {', '.join(map(repr, unknown))}; it has {', '.join(sorted(known))}"
        )
    fields = given_options(options, spec, kind)
    for name in ("timeout_seconds", "lease_seconds"):
        if fields.get(name) is not None:
            fields[name] = clock.seconds(fields[name])
    if "retry_delay_seconds" in fields:
        fields["retry_delay_seconds"] = delay_option(fields["retry_delay_seconds"])
    return fields


def waited_for(wait_for: Any) -> tuple[Any, ...]:
    """What `wait_for=` names: nothing, one future or state, or several."""
    if wait_for is None:
        return ()
    return (wait_for,) if isinstance(wait_for, (Future, State, allow_failure)) else tuple(wait_for)
