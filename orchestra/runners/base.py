"""The Runner protocol: what a body's calls become.

The local runner carries them out here; the durable one (engine/segment.py) journals them.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from orchestra.futures import Future, Waiter
from orchestra.specs import Call, FlowSpec, TaskSpec
from orchestra.states import State

if TYPE_CHECKING:
    # Loaded with the first pause: it takes the serializers along.
    from orchestra.questions import Message, Pause, Receive, Slots


class Runner(Waiter, Protocol):
    """How the calls of one flow body are carried out. Every wait is in seconds."""

    @property
    def keeper(self) -> Any:
        """Keeps the transactions of the body (`orchestra.transactions.Keeper`)."""
        ...

    def patched(self, name: str) -> bool:
        """Whether the body goes by the patch of that name: False where it passed here before there was one."""
        ...

    def call_task(self, task: TaskSpec, call: Call) -> State[Any]:
        """The final state of a direct call, carried out now; arguments may hold futures."""
        ...

    async def call_task_async(self, task: TaskSpec, call: Call) -> State[Any]:
        """As `call_task`, for a coroutine function."""
        ...

    def submit_task(self, task: TaskSpec, call: Call) -> Future[Any]:
        """Have the task run as soon as its upstreams are done; returns at once."""
        ...

    def call_flow(self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]) -> State[Any]:
        """The final state of a child run. Parameters are bound, not yet resolved or validated."""
        ...

    async def call_flow_async(
        self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]
    ) -> State[Any]:
        """As `call_flow`, for a coroutine function."""
        ...

    def sleep(self, seconds: float) -> None:
        """Go on after `seconds`."""
        ...

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`, holding up the calling branch only."""
        ...

    def pause(self, pause: Pause) -> Any:
        """Go on when a person resumes the run; gives what the pause makes of the answer.

        Raises:
            PauseTimeout: Nobody did in time.
        """
        ...

    async def pause_async(self, pause: Pause) -> Any:
        """As `pause`, holding up the calling branch only."""
        ...

    def receive(self, wanted: Receive) -> Any:
        """Go on when a message has come: a dictionary of `value`, `key` and `sender`.

        Raises:
            InputTimeout: None came in time.
        """
        ...

    async def receive_async(self, wanted: Receive) -> Any:
        """As `receive`, holding up the calling branch only."""
        ...

    def emit(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write an event, or give the one that an earlier start of the body has written here."""
        ...

    def slots(self, wanted: Slots) -> AbstractContextManager[None]:
        """Slots of concurrency limits, had while inside.

        Raises:
            AcquireConcurrencySlotTimeoutError: They were not to be had in time.
            ConcurrencySlotAcquisitionError: They can never be had.
        """
        ...

    def slots_async(self, wanted: Slots) -> AbstractAsyncContextManager[None]:
        """As `slots`, waiting in the calling branch only."""
        ...

    def send(self, message: Message) -> None:
        """Send a message to another run.

        Raises:
            FlowRunNotFound: There is no such run.
            IllegalTransition: It has ended.
        """
        ...
