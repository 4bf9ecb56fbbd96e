"""Futures, states and step keys inside arguments: find them, and put values in their place.

Lists, tuples, dicts (values), sets, dataclasses and pydantic models are looked into, at any depth; `quote(...)` is not,
and hands its value on as it is; `opaque(...)` is a future or handed on as it is. `allow_failure(...)` marks what is
inside as not strict. Generators are not looked into: that would use them up.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from orchestra.annotations import allow_failure, freeze, opaque, quote, unmapped
from orchestra.errors import UpstreamFailed
from orchestra.futures import Future
from orchestra.serializers import StepRef
from orchestra.states import State, reason_of
from orchestra.typed_values import MAX_DEPTH

#: Given a future and whether its failure counts: what stands in its place.
Replace = Callable[[Future[Any], bool], Any]

#: Given a value and whether a failure in it counts: what stands in its place, or `_INTO`: look into it.
Leaf = Callable[[Any, bool], Any]

_INTO = object()
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})


def find_futures(value: Any) -> list[tuple[Future[Any], bool]]:
    """The futures inside `value`, each with whether it is strict (its failure must not be passed on)."""
    found: list[tuple[Future[Any], bool]] = []

    def note(future: Future[Any], strict: bool) -> Any:
        found.append((future, strict))
        return future

    _walk(value, _on_future(note, lambda state, strict: state), True, ())
    return found


def replace_futures(value: Any, replace: Replace, on_state: Callable[[State[Any], bool], Any] | None = None) -> Any:
    """`value` with every future replaced, every state by its result, and annotations taken off.

    Gives the same object back where nothing is inside.

    Args:
        on_state: What stands in the place of a state, given whether its failure counts; None: its result.

    Raises:
        UpstreamFailed: A state that is not COMPLETED stands there without `allow_failure`.
    """
    return _walk(value, _on_future(replace, on_state or _result_of), True, ())


def replace_refs(value: Any, fill: Callable[[StepRef], Any]) -> Any:
    """`value`, as it was decoded, with every step key replaced: what `replace_futures` put in, wherever that looks."""

    def on_ref(item: Any, strict: bool) -> Any:
        return fill(item) if isinstance(item, StepRef) else _INTO

    return _walk(value, on_ref, True, ())


def find_refs(value: Any) -> list[StepRef]:
    """The step keys inside a value, as it was decoded."""
    found: list[StepRef] = []

    def note(ref: StepRef) -> StepRef:
        found.append(ref)
        return ref

    replace_refs(value, note)
    return found


def settled(future: Future[Any], strict: bool) -> Any:
    """A `Replace` for futures that are done: the value, or the exception where failure is allowed.

    Raises:
        UpstreamFailed: The task did not succeed, and that counts.
    """
    state = future.final_state()
    if strict and not state.is_completed():
        raise _upstream_failed(future.name, state)
    return state.result(raise_on_failure=False)


def _result_of(state: State[Any], strict: bool) -> Any:
    if strict and not state.is_completed():
        raise _upstream_failed(state.state_details.task_run_id or state.name, state)
    return state.result(raise_on_failure=False)


def _upstream_failed(name: str, state: State[Any]) -> UpstreamFailed:
    """The error of what depends on `name`; where that was not run either, it names the one that failed."""
    if state.name == "UpstreamFailed":
        cause = state.result(raise_on_failure=False)
        if isinstance(cause, UpstreamFailed):
            return UpstreamFailed(cause.culprit, cause.reason)
    return UpstreamFailed(name, reason_of(state.name, state.message))


def _on_future(replace: Replace, on_state: Callable[[State[Any], bool], Any]) -> Leaf:
    def leaf(value: Any, strict: bool) -> Any:
        if isinstance(value, Future):
            return replace(value, strict)
        if isinstance(value, State):
            return on_state(value, strict)
        if isinstance(value, quote):
            return value.value
        if isinstance(value, opaque):
            found = leaf(value.value, strict)
            return value.value if found is _INTO else found
        return _INTO

    return leaf


def _walk(value: Any, leaf: Leaf, strict: bool, above: tuple[int, ...]) -> Any:
    if type(value) in _PLAIN:
        return value
    if (found := leaf(value, strict)) is not _INTO:
        return found
    if id(value) in above or len(above) >= MAX_DEPTH:
        # A container inside itself, or one that is too deep to be sent: a call that runs here takes it as it is.
        return value
    # A partial and `map` below take no frames of Python's stack: a value of the full depth must fit.
    walk = partial(_walk, leaf=leaf, strict=strict, above=(*above, id(value)))
    if isinstance(value, allow_failure):
        return walk(value.value, strict=False)
    if isinstance(value, (unmapped, freeze)):
        return walk(value.value)
    if isinstance(value, dict):
        return _walk_dict(value, walk)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _walk_items(value, walk)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _walk_dataclass(value, walk)
    return _walk_model(value, walk) if _is_model(value) else value


def _walk_dict(value: dict[Any, Any], walk: Callable[[Any], Any]) -> Any:
    changed = {}
    for key, old in value.items():
        new = walk(old)
        if new is not old:
            changed[key] = new
    if not changed:
        return value
    made = copy.copy(value)
    made.update(changed)
    return made


def _walk_items(value: Any, walk: Callable[[Any], Any]) -> Any:
    made = list(map(walk, value))
    if all(new is old for new, old in zip(made, value, strict=True)):
        return value
    if isinstance(value, list):
        return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*made)
    return _base_of(value)(made)


def _base_of(value: Any) -> Callable[[Iterable[Any]], Any]:
    return next(base for base in (tuple, set, frozenset) if isinstance(value, base))


def _is_model(value: Any) -> bool:
    # A model can only exist where pydantic was imported already.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _walk_model(value: Any, walk: Callable[[Any], Any]) -> Any:
    changed = {name: new for name, old in value.__dict__.items() if (new := walk(old)) is not old}
    if not changed:
        return value
    made = copy.copy(value)
    # Not by assignment, which a frozen model refuses and others may check.
    made.__dict__.update(changed)
    return made


def _walk_dataclass(value: Any, walk: Callable[[Any], Any]) -> Any:
    changed = {}
    for field in dataclasses.fields(value):
        old = getattr(value, field.name, None)
        if (new := walk(old)) is not old:
            changed[field.name] = new
    if not changed:
        return value
    made = copy.copy(value)
    for name, new in changed.items():
        object.__setattr__(made, name, new)
    return made
