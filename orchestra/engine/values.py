"""Values on their way into the journal and back: what a body gets is what a replay would give it."""

from __future__ import annotations

from typing import Any

from orchestra import results, serializers, states
from orchestra.errors import OrchestraError, RunFailed, SerializationError, StoreError
from orchestra.results import Keeping
from orchestra.states import State, StateDetails, StateType
from orchestra.store.journal import Ending

#: Of a state, as its column is.
_LONGEST_NAME = 64
_SELF = (type(None), bool, int, float, str)


def ending_of(
    state: State[Any],
    *,
    what: str,
    start_time: float | None = None,
    attempt: int = 1,
    keeping: Keeping | None = None,
) -> tuple[Ending, State[Any]]:
    """A final state as the journal keeps it, and as it comes back from there.

    A value that cannot be encoded, or not be read again, or is over the cap, fails the run with a clear error.

    Args:
        keeping: How the value is kept, where that is not the ordinary way. One that goes to a storage outside is there
            when this returns, ahead of the transaction that refers to it.

    Raises:
        StoreError: The storage or the database is away.
    """
    blob = None
    if state.is_completed():
        try:
            data = serializers.encode(
                state.data, what=what, serializer="auto" if keeping is None else keeping.serializer
            )
            results.split(data, what=what)
            value = state.data if type(state.data) in _SELF and keeping is None else _read_back(data, what)
            blob = None if keeping is None else keeping.outside(data)
        except StoreError:
            raise
        except OrchestraError as error:
            return ending_of(states.from_exception(error), what=what, start_time=start_time, attempt=attempt)
    else:
        data, value = _encode_failure(state)
    name = serializers.clean_text(state.name)[:_LONGEST_NAME]
    ending = Ending(state.type, name, _clean(state.message), data, start_time, None, attempt, blob)
    return ending, State(state.type, state.name, state.message, value, state.timestamp, state.state_details)


def state_of(
    state_type: str, name: str, message: str | None, data: bytes | None, details: StateDetails | None = None
) -> State[Any]:
    """A final state as the journal gives it back. The signature is checked before anything is loaded.

    Raises:
        SerializationError: What is kept cannot be read here.
    """
    kind = StateType(state_type)
    value: Any = None
    if data is not None:
        value = serializers.decode(data) if kind is StateType.COMPLETED else serializers.decode_exception(data)
    return State(kind, name, message, value, state_details=details or StateDetails())


def encode_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """A call's arguments.

    Raises:
        SerializationError: They cannot be encoded.
    """
    return serializers.encode([list(args), kwargs], what="the arguments of a task")


def decode_inputs(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments, as they were encoded."""
    args, kwargs = serializers.decode(data)
    return tuple(args), kwargs


def _read_back(data: bytes, what: str) -> Any:
    try:
        return serializers.decode(data)
    except SerializationError as error:
        raise SerializationError(
            f"{what} can be written, but not be read again: {error}. Return plain data, or give the class of that part "
            "a __reduce__ with what it takes to make such an object again"
        ) from error


def _encode_failure(state: State[Any]) -> tuple[bytes, BaseException]:
    error = state.data if isinstance(state.data, BaseException) else _error_of(state)
    return serializers.encode_exception(error)


def _error_of(state: State[Any]) -> RunFailed:
    try:
        state.result()
    except RunFailed as error:
        return error
    raise SerializationError(f"the state {state.name} cannot be kept")


def _clean(message: str | None) -> str | None:
    return None if message is None else serializers.clean_text(message)
