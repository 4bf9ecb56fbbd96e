"""States: what people see of a run. Data only; `state.result()` reads what the state carries."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from orchestra import callables, errors, masking

T = TypeVar("T")


class _NotKept:
    """Stands for the value of a run that ended well, and whose result was not kept."""

    def __repr__(self) -> str:
        return "<not kept>"


#: The `data` of a completed run whose result was not kept.
NOT_KEPT = _NotKept()


class StateType(enum.StrEnum):
    """The nine kinds of state; names beside them (`Late`, `AwaitingRetry`…) are finer."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CANCELLING = "CANCELLING"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"


#: States a run does not leave by itself.
FINAL = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED})

_S = StateType
_LIVE = frozenset({_S.SCHEDULED, _S.PENDING, _S.RUNNING, _S.PAUSED})
#: From each type to the types it may go to. A final run is opened again by `flow-run retry` only.
TRANSITIONS: dict[StateType, frozenset[StateType]] = {
    _S.SCHEDULED: _LIVE | FINAL | {_S.CANCELLING},
    _S.PENDING: _LIVE | FINAL | {_S.CANCELLING},
    _S.RUNNING: _LIVE | FINAL | {_S.CANCELLING},
    _S.PAUSED: _LIVE | FINAL | {_S.CANCELLING},
    _S.CANCELLING: frozenset({_S.CANCELLED, _S.CRASHED, _S.FAILED, _S.COMPLETED}),
    _S.COMPLETED: frozenset({_S.SCHEDULED}),
    _S.FAILED: frozenset({_S.SCHEDULED}),
    _S.CRASHED: frozenset({_S.SCHEDULED}),
    _S.CANCELLED: frozenset({_S.SCHEDULED}),
}


def may_follow(old: StateType, new: StateType) -> bool:
    """Whether a run may go from `old` to `new`."""
    return new in TRANSITIONS[old]


@dataclass(frozen=True, slots=True)
class StateDetails:
    """Which runs a state belongs to."""

    flow_run_id: str | None = None
    task_run_id: str | None = None
    cache_key: str | None = None
    scheduled_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class State(Generic[T]):
    """One state of a run.

    `data` is the value of a COMPLETED run, the exception of a failed one, or None.
    """

    type: StateType
    name: str = ""
    message: str | None = None
    data: Any = field(default=None, repr=False)
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False, repr=False)
    state_details: StateDetails = field(default_factory=StateDetails, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.type.value.capitalize())

    def result(self, raise_on_failure: bool = True) -> T | Any:
        """The value of a completed run. In the body of a coroutine function it is awaited: `await state.result()`.

        Args:
            raise_on_failure: Raise the exception of a run that did not complete; else return it.

        Raises:
            UnfinishedRun: The run has not ended.
            MissingResult: The run completed, and its value was not kept.
            Exception: The run's own exception, or a `RunFailed` that says how it ended.
        """
        if callables.called_in_coroutine():
            return self.aresult(raise_on_failure)
        return self.outcome(raise_on_failure)

    async def aresult(self, raise_on_failure: bool = True) -> T | Any:
        """As `result`, always awaited."""
        return self.outcome(raise_on_failure)

    def outcome(self, raise_on_failure: bool = True) -> T | Any:
        """As `result`, never awaited."""
        if not self.is_final():
            raise errors.UnfinishedRun(f"the run is {self.name}; its result is there when it has ended")
        if self.data is NOT_KEPT:
            raise errors.MissingResult(
                "the run completed, but its result was not kept: a run in a process of its own keeps it only with "
                "persist_result=True"
            )
        if self.is_completed():
            return self.data
        error = self.data if isinstance(self.data, BaseException) else self._error()
        if raise_on_failure:
            raise error
        return error

    def _error(self) -> errors.RunFailed:
        kind = {
            StateType.CANCELLED: errors.CancelledRun,
            StateType.CRASHED: errors.CrashedRun,
        }.get(self.type, errors.FailedRun)
        return kind(self.message or f"the run ended {self.name}")

    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self.type in FINAL

    def is_completed(self) -> bool:
        """Whether the run ended well."""
        return self.type is StateType.COMPLETED

    def is_failed(self) -> bool:
        """Whether the run ended FAILED."""
        return self.type is StateType.FAILED

    def is_crashed(self) -> bool:
        """Whether the run ended because its process died."""
        return self.type is StateType.CRASHED

    def is_cancelled(self) -> bool:
        """Whether the run was cancelled."""
        return self.type is StateType.CANCELLED

    def is_cancelling(self) -> bool:
        """Whether the run is being cancelled."""
        return self.type is StateType.CANCELLING

    def is_running(self) -> bool:
        """Whether the run is RUNNING."""
        return self.type is StateType.RUNNING

    def is_scheduled(self) -> bool:
        """Whether the run waits for its time."""
        return self.type is StateType.SCHEDULED

    def is_pending(self) -> bool:
        """Whether the run waits for a worker."""
        return self.type is StateType.PENDING

    def is_paused(self) -> bool:
        """Whether the run waits for a person."""
        return self.type is StateType.PAUSED


def Scheduled(
    message: str | None = None, *, scheduled_time: datetime | None = None, name: str = "", **fields: Any
) -> State[Any]:
    """A run that waits for its time."""
    if scheduled_time is not None:
        fields["state_details"] = replace(fields.get("state_details") or StateDetails(), scheduled_time=scheduled_time)
    return State(StateType.SCHEDULED, name, message, **fields)


def Late(message: str | None = None, **fields: Any) -> State[Any]:
    """A run whose time has passed, and that no worker has taken."""
    return Scheduled(message, name="Late", **fields)


def AwaitingRetry(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that failed, and waits to be tried again."""
    return Scheduled(message, name="AwaitingRetry", **fields)


def AwaitingConcurrencySlot(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that waits for a slot of a limit."""
    return Scheduled(message, name="AwaitingConcurrencySlot", **fields)


def Pending(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that waits for a worker."""
    return State(StateType.PENDING, message=message, **fields)


def Running(message: str | None = None, **fields: Any) -> State[Any]:
    """A run whose body runs."""
    return State(StateType.RUNNING, message=message, **fields)


def Retrying(message: str | None = None, **fields: Any) -> State[Any]:
    """A run whose body runs again after it failed."""
    return State(StateType.RUNNING, "Retrying", message, **fields)


def Completed(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that ended well."""
    return State(StateType.COMPLETED, message=message, **fields)


def Failed(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that failed."""
    return State(StateType.FAILED, message=message, **fields)


def Crashed(message: str | None = None, **fields: Any) -> State[Any]:
    """A run whose process died."""
    return State(StateType.CRASHED, message=message, **fields)


def Cancelling(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that is being cancelled."""
    return State(StateType.CANCELLING, message=message, **fields)


def Cancelled(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that was cancelled."""
    return State(StateType.CANCELLED, message=message, **fields)


def Paused(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that waits for a person."""
    return State(StateType.PAUSED, message=message, **fields)


def Suspended(message: str | None = None, **fields: Any) -> State[Any]:
    """A run that waits for a person, and holds nothing meanwhile."""
    return State(StateType.PAUSED, "Suspended", message, **fields)


#: Longest message of a state, in characters.
LONGEST_MESSAGE = 64 * 1024
#: Longest part of it that is repeated with what is not run because of that state.
_LONGEST_REASON = 300


def from_body(error: BaseException) -> State[Any]:
    """The final state of a run whose body raised `error`.

    That something in it crashed or was cancelled fails it, as any other error does.
    """
    if isinstance(error, errors.CrashedRun | errors.CancelledRun):
        return State(StateType.FAILED, "Failed", describe(error), error)
    return from_exception(error)


def from_exception(error: BaseException) -> State[Any]:
    """The final state of a run that ended by `error`."""
    if isinstance(error, errors.RunTimeout):
        return State(StateType.FAILED, "TimedOut", _cut(str(error)), error)
    if isinstance(error, errors.UpstreamFailed):
        return State(StateType.FAILED, "UpstreamFailed", _cut(str(error)), error)
    if isinstance(error, errors.TransactionHookFailed):
        return State(StateType.FAILED, type(error).__name__, _cut(str(error)), error)
    if isinstance(error, errors.CrashedRun):
        return State(StateType.CRASHED, "Crashed", _cut(str(error)), error)
    if isinstance(error, errors.CancelledRun):
        return State(StateType.CANCELLED, "Cancelled", _cut(str(error)), error)
    return State(StateType.FAILED, "Failed", describe(error), error)


def describe(error: BaseException) -> str:
    """An exception as one line of text, also if its own `__str__` fails."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"<its text cannot be made: {type(broken).__name__}>"
    return _cut(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def reason_of(name: str, message: str | None) -> str:
    """Why a run did not succeed, as those say that are not run because of it: there may be thousands of them."""
    return _cut(message or name, _LONGEST_REASON)


def _cut(text: str, longest: int = LONGEST_MESSAGE) -> str:
    # As in log lines: what people read of an error shows no password.
    text = masking.mask(text)
    left = len(text) - longest
    return text if left <= 0 else f"{text[:longest]}… (and {left:,} more characters)"


def aggregate(states: Iterable[State[Any]]) -> State[Any]:
    """The final state of a flow that returned these states.

    All COMPLETED gives COMPLETED; else any CANCELLED gives CANCELLED, any PAUSED gives PAUSED, else FAILED.
    """
    found = list(states)
    data = [state.data for state in found]
    bad = [state for state in found if not state.is_completed()]
    if not bad:
        return Completed("All states completed.", data=data)
    counted = f"{len(bad)}/{len(found)} states failed."
    for kind in (StateType.CANCELLED, StateType.PAUSED):
        if any(state.type is kind for state in bad):
            return State(kind, message=counted)
    first = next((state.data for state in bad if isinstance(state.data, BaseException)), None)
    return Failed(counted, data=first)


def is_state(value: object) -> bool:
    """Whether a value is a state."""
    return isinstance(value, State)


def get_state_exception(state: State[Any]) -> BaseException:
    """The exception with which a run ended.

    Raises:
        ValueError: It ended well, or has not ended.
    """
    if not state.is_final() or state.is_completed():
        raise ValueError(f"a run that is {state.name} has no exception")
    found = state.outcome(raise_on_failure=False)
    return found if isinstance(found, BaseException) else errors.FailedRun(state.message or state.name)


def raise_state_exception(state: State[Any]) -> None:
    """Raise the exception of a run that ended otherwise than well; does nothing where it completed or goes on."""
    if state.is_final() and not state.is_completed():
        raise get_state_exception(state)
