"""What runs here now: the flow run and the task run of the calling code, as context variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestra.errors import MissingContextError
from orchestra.runners.base import Runner
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.states import State


class SharedTransaction(Protocol):
    """A transaction that is to be committed together with the end of a task run."""

    def block(self) -> AbstractContextManager[Any]:
        """A session in it."""
        ...

    def also(self, effect: Callable[[Any, float], None]) -> None:
        """Do this in it too, when it is committed: it gets the connection, and the instant of the database's clock."""
        ...

    def settle(self, state: State[Any]) -> State[Any]:
        """The body has ended so: commit or roll back; gives how the attempt has ended."""
        ...

    def roll_back(self) -> None:
        """Undo everything; does nothing where it has ended."""
        ...


class LineCounter(Protocol):
    """Numbers the log lines of a flow body, so that a replay skips those already written."""

    def next(self, series: str = "") -> tuple[str, int] | None:
        """Branch and ordinal of the next line; None: it was written before, drop it.

        Args:
            series: Lines of one series are numbered apart from the others.
        """
        ...


class OpenTransaction(Protocol):
    """A block of `transaction()`, as the engine sees it."""

    @property
    def is_over(self) -> bool:
        """Whether nothing new belongs to it: it was committed, or its block has ended."""
        ...

    @property
    def flow_run(self) -> FlowRunContext | None:
        """The flow run in which it was opened."""
        ...

    @property
    def task_run(self) -> TaskRunContext | None:
        """The task run in whose body it was opened."""
        ...

    @property
    def parent(self) -> OpenTransaction | None:
        """The block around it, of the same body."""
        ...


@dataclass(slots=True)
class FlowRunContext:
    """The flow run whose body runs here. Instants are seconds since the epoch."""

    flow: FlowSpec
    run_id: str
    run_name: str
    parameters: dict[str, Any]
    runner: Runner
    tags: tuple[str, ...] = ()
    run_attempt: int = 1
    #: The attempt opened when a person last had it retried from a step: what it starts and sends since is new.
    anew_since: int = 1
    parent_run_id: str | None = None
    root_run_id: str | None = None
    scheduled_start_time: float | None = None
    start_time: float | None = None
    log_prints: bool = False
    lines: LineCounter | None = None
    depth: int = 0
    #: The parameters, and the secrets that were found in them (`orchestra.logging`).
    secrets: Any = field(default=None, repr=False, compare=False)
    #: Of the deployment whose run it is.
    deployment_id: str | None = None

    @classmethod
    def get(cls) -> FlowRunContext | None:
        """That of the flow run whose body, or whose task's body, runs here; None outside of one."""
        return flow_run_context.get()

    @property
    def id(self) -> str:
        """The flow run's id."""
        return self.run_id

    @property
    def name(self) -> str:
        """The flow run's name."""
        return self.run_name

    @property
    def flow_run(self) -> FlowRunContext:
        """The run itself, by the name under which Prefect's context has it: `get_run_context().flow_run.id`."""
        return self


@dataclass(slots=True)
class TaskRunContext:
    """The task run whose body runs here."""

    task: TaskSpec
    task_run_id: str
    task_run_name: str
    flow_run: FlowRunContext | None
    step_key: str | None
    attempt: int
    idempotency_key: str
    parameters: dict[str, Any] = field(default_factory=dict)
    log_prints: bool = False
    #: Carries out the calls that the task's body makes; None: they run plainly, in this process.
    runner: Runner | None = None
    #: What `db_transaction()` has opened in the attempt that runs.
    atomic: SharedTransaction | None = None
    #: The database's part of that, while the end is recorded in it.
    joint: Any = None
    #: Records an end within an open transaction, commits both, and gives the final state; where that is not Completed,
    #: nothing was recorded. None: nobody here records the end of this task run.
    record: Callable[[State[Any], Any], State[Any] | None] | None = None
    #: The final state, once it was recorded so.
    recorded: State[Any] | None = None
    #: Set by a body that fails: it asks for another try after so many seconds.
    retry_delay: float | None = None
    #: The task's own, and those in force where it was called.
    tags: tuple[str, ...] = ()
    #: What of it is kept for later calls, and who waits for that (`engine.caching`); None: it is not cached.
    cached: Any = None
    #: The task's own transaction, where its body has asked for it.
    transaction: OpenTransaction | None = None
    #: The block in which it was called, where that is another process's: `(run attempt, key)`.
    called_in: tuple[int, str] | None = None
    #: Numbers the artifacts that its tries make, by try and name.
    made: dict[tuple[int, str], Iterator[int]] = field(default_factory=dict)
    #: As `FlowRunContext.secrets`.
    secrets: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def get(cls) -> TaskRunContext | None:
        """That of the task run whose body runs here; None outside of one."""
        return task_run_context.get()

    @property
    def id(self) -> str:
        """The task run's id."""
        return self.task_run_id

    @property
    def name(self) -> str:
        """The task run's name."""
        return self.task_run_name

    @property
    def flow_run_id(self) -> str | None:
        """The id of the flow run it is in; None outside of one."""
        return None if self.flow_run is None else self.flow_run.run_id

    @property
    def run_count(self) -> int:
        """The number of this try, 1 for the first."""
        return self.attempt

    @property
    def task_run(self) -> TaskRunContext:
        """The run itself, by the name under which Prefect's context has it: `get_run_context().task_run.id`."""
        return self


flow_run_context: ContextVar[FlowRunContext | None] = ContextVar("orchestra_flow_run", default=None)
task_run_context: ContextVar[TaskRunContext | None] = ContextVar("orchestra_task_run", default=None)
#: The innermost block of `transaction()` around the calling code, or around the call of the body that it is in.
transaction_context: ContextVar[OpenTransaction | None] = ContextVar("orchestra_transaction", default=None)
#: The tags in force: what `tags()` gave, and in a flow body the run's own.
tags_context: ContextVar[frozenset[str]] = ContextVar("orchestra_tags", default=frozenset())


@contextmanager
def tags(*new_tags: str) -> Iterator[frozenset[str]]:
    """Tag the flow runs and task runs that are started inside; gives all tags in force there.

    Blocks nest, and their tags add up. A flow run hands its tags on to its task runs and subflow runs.

    Raises:
        TypeError: A tag is no text.
    """
    for tag in new_tags:
        if not isinstance(tag, str):
            raise TypeError(f"a tag is a text, not {tag!r}; several are given one by one: tags('daily', 'eu')")
    token = tags_context.set(tags_context.get() | frozenset(new_tags))
    try:
        yield tags_context.get()
    finally:
        tags_context.reset(token)


def tags_of(own: frozenset[str]) -> tuple[str, ...]:
    """The tags of a task run that is started now: the task's own and those in force, sorted."""
    return tuple(sorted(own | tags_context.get()))


def transaction_here() -> Any:
    """The innermost block of the calling body that what is asked for now belongs to; None where it is in none."""
    found = transaction_context.get()
    if found is None or found.flow_run is not flow_run_context.get() or found.task_run is not task_run_context.get():
        return None
    while found is not None and found.is_over:
        found = found.parent
    return found


def get_run_context() -> FlowRunContext | TaskRunContext:
    """The context of the task run that runs here, else of the flow run.

    Raises:
        MissingContextError: No flow or task runs here.
    """
    found = task_run_context.get() or flow_run_context.get()
    if found is None:
        raise MissingContextError("no flow or task runs here: get_run_context() works in their bodies only")
    return found


def current_runner() -> Runner | None:
    """The runner of the calling code: its task's if it is in a task, else its flow's; None: runs plainly."""
    if (task_run := task_run_context.get()) is not None:
        return task_run.runner
    if (flow_run := flow_run_context.get()) is not None:
        return flow_run.runner
    return None
