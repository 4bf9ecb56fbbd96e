"""What a body's return value makes of its run: the rules for final states. Pure but for waiting on futures."""

from __future__ import annotations

from typing import Any

from orchestra import states
from orchestra.engine.arguments import replace_futures
from orchestra.futures import Future
from orchestra.states import State


def task_state(value: Any) -> State[Any]:
    """The state of a task attempt whose body returned `value`.

    A final State is used as it is, a future (or a list, tuple or set of them) is waited for.

    Raises:
        Exception: What a returned future's task raised.
    """
    if isinstance(value, State):
        return _final(value)
    if isinstance(value, Future) or _all_are(value, Future):
        value = replace_futures(value, lambda future, strict: future.result())
    return State(states.StateType.COMPLETED, data=value)


def flow_state(value: Any) -> State[Any]:
    """The final state of a flow whose body returned `value`, when all it submitted has ended.

    A State is used as it is; futures or states, alone or as a list, tuple or set, are taken together; anything
    else is COMPLETED, with the futures inside replaced by their values (a failed one by its exception).
    """
    if isinstance(value, State):
        return _final(value)
    if isinstance(value, Future):
        final = value.final_state()
        return _of_one(final)
    if _all_are(value, (Future, State)):
        return _of_many(value, [item.final_state() if isinstance(item, Future) else item for item in value])
    return State(states.StateType.COMPLETED, data=replace_futures(value, _value_or_error, _outcome_of))


def _final(state: State[Any]) -> State[Any]:
    return state if state.is_final() else states.Failed(f"the body returned what is not final: {state.name}")


def _of_one(state: State[Any]) -> State[Any]:
    whole = states.aggregate([state])
    return State(whole.type, whole.name, whole.message, state.data)


def _of_many(value: Any, found: list[State[Any]]) -> State[Any]:
    whole = states.aggregate(found)
    if not whole.is_completed():
        return _final(whole)
    data = [state.data for state in found]
    kind = type(value)
    return State(whole.type, whole.name, whole.message, kind(data) if kind in (tuple, set, frozenset) else data)


def _value_or_error(future: Future[Any], strict: bool) -> Any:
    return future.final_state().result(raise_on_failure=False)


def _outcome_of(state: State[Any], strict: bool) -> Any:
    """What a state inside a returned value says; its failure is the caller's to look at."""
    return state.result(raise_on_failure=False) if state.is_final() else state


def _all_are(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) and bool(value) and all(isinstance(v, kinds) for v in value)
