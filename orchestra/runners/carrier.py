"""The Carrier protocol: how the engine reaches Celery, without knowing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestra.store.announcements import Announcement


@dataclass(frozen=True, slots=True)
class RanInline:
    """A step that ran inside a segment, as those are told of it who watch the worker. Times in seconds."""

    task_run_id: str
    flow_run_id: str
    step_key: str
    name: str
    start_time: float
    end_time: float
    state_type: str
    state_name: str
    message: str | None


class Carrier(Protocol):
    """Carries announcements to workers. What it loses, the sweeper announces again."""

    @property
    def queues(self) -> frozenset[str]:
        """The queues that this process's worker consumes; none in a client."""
        ...

    @property
    def default_queue(self) -> str:
        """The queue of what names no other."""
        ...

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Publish the messages of rows that are due, and of the others when they are.

        Never raises: a broker that is away costs a sweep.
        """
        ...

    def later(self, announcement: Announcement) -> None:
        """Announce at the row's due time, by a timer of this process; lost with the process."""
        ...

    def route(self, path: str) -> tuple[str | None, int | None]:
        """Queue and priority that the app's `task_routes` give a flow or task, asked as `module.qualname`."""
        ...

    def check_queue(self, name: str) -> None:
        """Refuse a queue that the app does not know, where it allows no others.

        Raises:
            ConfigurationError: It says which queues there are.
        """
        ...

    def slots(self, queue: str) -> int:
        """How many tasks of this queue the live workers can run at once; a few seconds old."""
        ...

    def stopping(self) -> bool:
        """Whether this process's worker shuts down: segments park at their next orchestra call."""
        ...

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to hear of steps that run inside a segment."""
        ...

    def tell(self, ran: RanInline) -> None:
        """Tell who watches of one that has ended. Never raises."""
        ...
