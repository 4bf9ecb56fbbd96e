"""What the API's requests and answers are made of: pages, names, limits, and the searches by filters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Header, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from orchestra.client.schemas.filters import FlowFilter, FlowRunFilter, LogFilter, TaskRunFilter
from orchestra.client.schemas.sorting import FlowRunSort, FlowSort, LogSort, TaskRunSort
from orchestra.errors import ParameterError
from orchestra.states import StateType
from orchestra.store import queries
from orchestra.store.search import Selection, Test
from orchestra.store.tables import LONGEST_KEY, LONGEST_NAME

T = TypeVar("T")

#: Most records of one answer.
MOST = 200
#: Most values of one test of a filter, and the longest text of one.
_MOST_VALUES, _LONGEST_VALUE = 200, 1024
#: Text on one line: what no database refuses, and no terminal obeys.
_LINE = r"^[^\x00-\x1f\x7f]*$"

Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=_LINE)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=_LINE)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_KEY, pattern=_LINE)]
Text = Annotated[str, StringConstraints(max_length=64 * 1024, pattern=r"^[^\x00]*$")]
#: A count that a column holds.
Count = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Seconds = Annotated[float, Field(gt=0, lt=1e10)]
Tags = Annotated[list[Name], Field(max_length=100)]
#: Parameters and the like: any JSON.
Values = dict[Annotated[str, StringConstraints(max_length=LONGEST_NAME)], Any]

Limit = Annotated[int, Query(ge=1, le=MOST, description="Most records of the answer.")]
After = Annotated[Key | None, Query(description="The `next` of the page before.")]
StateTypes = Annotated[list[StateType], Query(description="Only of these types.", max_length=20)]
StateNames = Annotated[list[Name], Query(description="Only in states of these names, as Late.", max_length=20)]
OfTags = Annotated[list[Name], Query(description="Only those that have all of these tags.", max_length=20)]


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next: str | None = Field(
        default=None, description="Hand this as `after` to get the next page; null: this was the last."
    )


class Body(BaseModel):
    """What a request says: what is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class Deleted(BaseModel):
    """How many were deleted."""

    deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRunRead(queries.FlowRun):
    """A flow run, with what only its own page shows. What is stored is shown as plain JSON; pickles by their size."""

    result: Any
    unfinished: int
    needed: int
    deadline: datetime | None
    worker: str | None
    lease_until: datetime | None
    lapses: int
    pauses: tuple[queries.PauseRecord, ...]
    owed_hooks: tuple[queries.OwedHooksRecord, ...]
    states: tuple[queries.StateRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRunRead(queries.TaskRun):
    """A task run, with what only its own page shows. What is stored is shown as plain JSON; pickles by their size."""

    task_inputs: Any
    result: Any
    upstream: tuple[str, ...]
    lease_until: datetime | None
    lapses: int
    states: tuple[queries.StateRecord, ...]


def flow_run_read(details: queries.FlowRunDetails) -> FlowRunRead:
    """The details of a run as one flat record."""
    return FlowRunRead(**_flat(details))


def task_run_read(details: queries.TaskRunDetails) -> TaskRunRead:
    """The details of a task run as one flat record."""
    return TaskRunRead(**_flat(details))


def _flat(details: Any) -> dict[str, Any]:
    own = {each.name: getattr(details, each.name) for each in fields(details)}
    run = own.pop("run")
    return {each.name: getattr(run, each.name) for each in fields(run)} | own


# -- searches ----------------------------------------------------------------------------------------------------


def _tests(given: FlowFilter | FlowRunFilter | TaskRunFilter | LogFilter | None) -> tuple[Test, ...]:
    return () if given is None else given.tests()


def _modest(given: Any) -> Any:
    """Refuse what no person asks, and what a database would choke on."""
    for test in given.tests():
        values = test.value if isinstance(test.value, list) else [test.value]
        if len(values) > _MOST_VALUES:
            raise ValueError(f"{test.field}: at most {_MOST_VALUES} values")
        if any(isinstance(each, str) and (len(each) > _LONGEST_VALUE or "\0" in each) for each in values):
            raise ValueError(f"{test.field}: text of at most {_LONGEST_VALUE} characters, and none of them NUL")
        if any(type(each) is int and abs(each) >= 2**31 for each in values):
            raise ValueError(f"{test.field}: a number below 2^31")
    return given


Flows = Annotated[FlowFilter, AfterValidator(_modest)]
FlowRuns = Annotated[FlowRunFilter, AfterValidator(_modest)]
TaskRuns = Annotated[TaskRunFilter, AfterValidator(_modest)]
Logs = Annotated[LogFilter, AfterValidator(_modest)]

_FAILED_TODAY: JsonDict = {
    "flow_runs": {"state": {"type": {"any_": ["FAILED"]}}, "start_time": {"after_": "2026-11-22T00:00:00Z"}},
    "sort": "START_TIME_DESC",
    "limit": 50,
}


class Selected(Body):
    """Which runs are meant: those that fit, and whose flow, flow run and task runs do."""

    flows: Flows | None = None
    flow_runs: FlowRuns | None = None
    task_runs: TaskRuns | None = None

    def selection(self, *more: Test) -> Selection:
        """As the store searches for it, with more tests of the flow runs."""
        return Selection(_tests(self.flows), (*_tests(self.flow_runs), *more), _tests(self.task_runs))


class _Paged(Selected):
    limit: int = Field(default=MOST, ge=0, le=MOST, description="Most records of the answer.")
    offset: int = Field(default=0, ge=0, lt=2**31, description="How many to leave out before.")


class FlowSearch(_Paged):
    """A search for flows."""

    sort: FlowSort = FlowSort.NAME_ASC


class FlowRunSearch(_Paged):
    """A search for flow runs."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_FAILED_TODAY]})

    sort: FlowRunSort = FlowRunSort.CREATED_DESC


class TaskRunSearch(_Paged):
    """A search for task runs."""

    sort: TaskRunSort = TaskRunSort.CREATED_DESC


class LogSearch(Body):
    """A search for log lines."""

    logs: Logs | None = None
    sort: LogSort = LogSort.TIMESTAMP_ASC
    limit: int = Field(default=MOST, ge=0, le=MOST, description="Most lines of the answer.")
    offset: int = Field(default=0, ge=0, lt=2**31, description="How many to leave out before.")

    def tests(self) -> tuple[Test, ...]:
        """What is searched for."""
        return _tests(self.logs)


# -- headers -----------------------------------------------------------------------------------------------------


def _idempotency_key(
    idempotency_key: Annotated[
        Key | None, Header(description="The same key gives the same run again, whatever its state.")
    ] = None,
) -> str | None:
    return idempotency_key


IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]


def one_key(header: str | None, body: str | None) -> str | None:
    """The idempotency key of a request, which says it in its header, or in its body.

    Raises:
        ParameterError: It says two.
    """
    if header and body and header != body:
        raise ParameterError("the header Idempotency-Key and idempotency_key differ: give one of them")
    return header or body
