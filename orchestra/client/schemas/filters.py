"""Filters of a client's searches, by Prefect's names: what is set must fit, and all of it.

`FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=["FAILED"])))`; a mapping does as well:
`FlowRunFilter(state={"type": {"any_": ["FAILED"]}})`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from orchestra.states import StateType
from orchestra.store.search import Selection, Test
from orchestra.unbuilt import absent


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Any(_Part):
    any_: list[str] | None = None


class _AnyNot(_Any):
    not_any_: list[str] | None = None


class _AnyLike(_Any):
    like_: str | None = None


class _Tags(_Part):
    all_: list[str] | None = None
    any_: list[str] | None = None
    is_null_: bool | None = None


class _When(_Part):
    before_: datetime | None = None
    after_: datetime | None = None


class _WhenOrNever(_When):
    is_null_: bool | None = None


class _StateTypes(_Part):
    any_: list[StateType] | None = None
    not_any_: list[StateType] | None = None


class _Level(_Part):
    ge_: int | None = None
    le_: int | None = None


class _Filter(_Part):
    def tests(self) -> tuple[Test, ...]:
        """The tests that are set, one by one."""
        return tuple(_tests(self, ""))


def _tests(part: BaseModel, field: str) -> Iterator[Test]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from _tests(value, f"{field}_{name}" if field else name)
        elif value is not None:
            yield Test(field, name.removesuffix("_"), value)


class FlowFilterId(_Any):
    """Flows with one of these ids."""


class FlowFilterName(_AnyLike):
    """Flows with one of these names, or with this text in their name (in any case)."""


class FlowFilter(_Filter):
    """Which flows are meant."""

    id: FlowFilterId | None = None
    name: FlowFilterName | None = None


class FlowRunFilterId(_AnyNot):
    """Flow runs with one of these ids, or with none of them."""


class FlowRunFilterName(_AnyLike):
    """Flow runs with one of these names, or with this text in their name (in any case)."""


class FlowRunFilterTags(_Tags):
    """Flow runs that have all of these tags, or any, or no tag at all."""


class FlowRunFilterStateType(_StateTypes):
    """Flow runs in states of one of these types, or of none of them."""


class FlowRunFilterStateName(_AnyNot):
    """Flow runs in states of one of these names, or of none of them."""


class FlowRunFilterState(_Part):
    """Flow runs in these states."""

    type: FlowRunFilterStateType | None = None
    name: FlowRunFilterStateName | None = None


class FlowRunFilterParentFlowRunId(_Any):
    """Subflow runs of one of these flow runs."""


class FlowRunFilterWorkQueueName(_Any):
    """Flow runs on one of these queues."""


class FlowRunFilterFlowVersion(_Any):
    """Flow runs of one of these versions of their flow."""


class FlowRunFilterIdempotencyKey(_AnyNot):
    """Flow runs with one of these idempotency keys, or with none of them."""


class FlowRunFilterStartTime(_WhenOrNever):
    """Flow runs that started then, or not yet."""


class FlowRunFilterEndTime(_WhenOrNever):
    """Flow runs that ended then, or not yet."""


class FlowRunFilterExpectedStartTime(_When):
    """Flow runs that were, or are, to start then."""


class FlowRunFilterCreated(_When):
    """Flow runs that were created then."""


class FlowRunFilterDeploymentId(_Any):
    """Flow runs of one of these deployments."""


class FlowRunFilter(_Filter):
    """Which flow runs are meant."""

    id: FlowRunFilterId | None = None
    name: FlowRunFilterName | None = None
    tags: FlowRunFilterTags | None = None
    state: FlowRunFilterState | None = None
    parent_flow_run_id: FlowRunFilterParentFlowRunId | None = None
    root_flow_run_id: FlowRunFilterParentFlowRunId | None = None
    work_queue_name: FlowRunFilterWorkQueueName | None = None
    flow_version: FlowRunFilterFlowVersion | None = None
    deployment_id: FlowRunFilterDeploymentId | None = None
    idempotency_key: FlowRunFilterIdempotencyKey | None = None
    created: FlowRunFilterCreated | None = None
    start_time: FlowRunFilterStartTime | None = None
    end_time: FlowRunFilterEndTime | None = None
    expected_start_time: FlowRunFilterExpectedStartTime | None = None


class TaskRunFilterId(_Any):
    """Task runs with one of these ids."""


class TaskRunFilterName(_AnyLike):
    """Task runs with one of these names, or with this text in their name (in any case)."""


class TaskRunFilterTags(_Tags):
    """Task runs that have all of these tags, or any, or no tag at all."""


class TaskRunFilterStateType(_StateTypes):
    """Task runs in states of one of these types, or of none of them."""


class TaskRunFilterStateName(_AnyNot):
    """Task runs in states of one of these names, or of none of them."""


class TaskRunFilterState(_Part):
    """Task runs in these states."""

    type: TaskRunFilterStateType | None = None
    name: TaskRunFilterStateName | None = None


class TaskRunFilterFlowRunId(_Any):
    """Task runs of one of these flow runs."""


class TaskRunFilterTaskKey(_Any):
    """Task runs of the tasks at one of these paths (`module:qualname`)."""


class TaskRunFilterStartTime(_WhenOrNever):
    """Task runs that started then, or not yet."""


class TaskRunFilterEndTime(_WhenOrNever):
    """Task runs that ended then, or not yet."""


class TaskRunFilterExpectedStartTime(_When):
    """Task runs that were, or are, to start then."""


class TaskRunFilter(_Filter):
    """Which task runs are meant."""

    id: TaskRunFilterId | None = None
    name: TaskRunFilterName | None = None
    tags: TaskRunFilterTags | None = None
    state: TaskRunFilterState | None = None
    flow_run_id: TaskRunFilterFlowRunId | None = None
    task_key: TaskRunFilterTaskKey | None = None
    start_time: TaskRunFilterStartTime | None = None
    end_time: TaskRunFilterEndTime | None = None
    expected_start_time: TaskRunFilterExpectedStartTime | None = None


class ArtifactFilterId(_Any):
    """Artifacts with one of these ids."""


class ArtifactFilterKey(_AnyLike):
    """Artifacts of one of these keys, with this text in their key, or with any key or none."""

    exists_: bool | None = None


class ArtifactFilterFlowRunId(_Any):
    """Artifacts of one of these flow runs."""


class ArtifactFilterTaskRunId(_Any):
    """Artifacts of one of these task runs."""


class ArtifactFilterType(_AnyNot):
    """Artifacts of one of these types, or of none of them."""


class ArtifactFilter(_Filter):
    """Which artifacts are meant."""

    id: ArtifactFilterId | None = None
    key: ArtifactFilterKey | None = None
    flow_run_id: ArtifactFilterFlowRunId | None = None
    task_run_id: ArtifactFilterTaskRunId | None = None
    type: ArtifactFilterType | None = None


class ArtifactCollectionFilterLatestId(_Any):
    """Keys whose newest artifact has one of these ids."""


class ArtifactCollectionFilterKey(ArtifactFilterKey):
    """One of these keys, or those with this text."""


class ArtifactCollectionFilterFlowRunId(_Any):
    """Keys whose newest artifact is of one of these flow runs."""


class ArtifactCollectionFilterTaskRunId(_Any):
    """Keys whose newest artifact is of one of these task runs."""


class ArtifactCollectionFilterType(_AnyNot):
    """Keys whose newest artifact is of one of these types, or of none of them."""


class ArtifactCollectionFilter(_Filter):
    """Which keys are meant, by their newest artifacts."""

    latest_id: ArtifactCollectionFilterLatestId | None = None
    key: ArtifactCollectionFilterKey | None = None
    flow_run_id: ArtifactCollectionFilterFlowRunId | None = None
    task_run_id: ArtifactCollectionFilterTaskRunId | None = None
    type: ArtifactCollectionFilterType | None = None


class LogFilterName(_Any):
    """Lines of one of these loggers."""


class LogFilterLevel(_Level):
    """Lines of at least, or at most, this level (a number of `logging`)."""


class LogFilterTimestamp(_When):
    """Lines that were logged then."""


class LogFilterFlowRunId(_Any):
    """Lines of one of these flow runs, their tasks' included."""


class LogFilterTaskRunId(_Any):
    """Lines of one of these task runs."""


class LogFilter(_Filter):
    """Which log lines are meant."""

    name: LogFilterName | None = None
    level: LogFilterLevel | None = None
    timestamp: LogFilterTimestamp | None = None
    flow_run_id: LogFilterFlowRunId | None = None
    task_run_id: LogFilterTaskRunId | None = None


class Filters(BaseModel):
    """Which records a search is for: those that fit, and whose flow, flow run and task runs do."""

    model_config = ConfigDict(frozen=True)

    flows: FlowFilter | None = None
    flow_runs: FlowRunFilter | None = None
    task_runs: TaskRunFilter | None = None

    def selection(self) -> Selection:
        """As the store searches for it."""
        given = (self.flows, self.flow_runs, self.task_runs)
        return Selection(*(() if each is None else each.tests() for each in given))


__getattr__ = absent(
    __name__,
    "deployments and work pools",
    """
    DeploymentFilter DeploymentFilterId DeploymentFilterName DeploymentFilterTags
    WorkPoolFilter WorkPoolFilterName WorkPoolFilterType WorkQueueFilter WorkQueueFilterName
    """,
)
