"""Where the command line and clients ask: the database itself, or the API of a server (ORCHESTRA_API_URL)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestra import artifacts as kept
from orchestra import lazy, settings
from orchestra import variables as setting
from orchestra.client.database_operations import DatabaseOperations
from orchestra.client.endings import ending
from orchestra.engine import leases, operations
from orchestra.errors import StoreUnavailable
from orchestra.states import State, StateType
from orchestra.store import (
    artifacts,
    behind,
    events,
    journal,
    logs,
    queries,
    runs,
    search,
    variables,
)
from orchestra.store.artifacts import Artifact, NewArtifact
from orchestra.store.database import database
from orchestra.store.events import EventFilter, EventRecord
from orchestra.store.logs import LogLine, Tail
from orchestra.store.queries import (
    Flow,
    FlowRun,
    FlowRunDetails,
    Node,
    Page,
    StateRecord,
    StepCount,
    TaskRun,
    TaskRunDetails,
    full_page,
    page_of,
)
from orchestra.store.variables import Variable
from orchestra.store.wake import ANYTHING, RUN, STEP, Bell

if TYPE_CHECKING:
    from orchestra.client.http import HttpBackend
    from orchestra.client.schemas.filters import Filters, LogFilter

#: Seconds between two looks for new events.
_LOOK, _LEAST = 0.3, 0.05


def backend(*, of_runs: bool = False) -> DatabaseBackend | HttpBackend:
    """What this process asks, by its settings.

    Args:
        of_runs: Runs are asked for: where it is the database, local runs of dead processes show as Crashed first.
    """
    current = settings.current()
    if current.api_url:
        return lazy.load("http_backend")(current.api_url, current.api_key)  # type: ignore[no-any-return]  # a door is untyped
    db = database()
    if of_runs:
        leases.mark_dead(db)
    return DatabaseBackend(db)


class DatabaseBackend(DatabaseOperations):
    """Asks the database. Each method is one of `HttpBackend` too, with the same meaning, records and errors."""

    # -- flow runs -----------------------------------------------------------------------------------------------

    def list_flow_runs(self, *, limit: int, after: str | None = None, **wanted: Any) -> Page[FlowRun]:
        """As `queries.list_flow_runs`, and looks on until the page is full."""

        def ask(most: int, after: str | None) -> Page[FlowRun]:
            return queries.list_flow_runs(self.db, limit=most, after=after, **wanted)

        return full_page(ask, limit, after)

    def read_flow_run(self, flow_run_id: str) -> FlowRunDetails:
        """As `queries.read_flow_run`."""
        return queries.read_flow_run(self.db, flow_run_id)

    def flow_run_state(self, flow_run_id: str) -> StateRecord:
        """As `queries.flow_run_state`."""
        return queries.flow_run_state(self.db, flow_run_id)

    def bell(self, flow_run_id: str) -> Bell:
        """Rings when something in a flow run changes, where hints are heard; for use in a `with`."""
        return self.db.wake.bell((RUN, flow_run_id), (STEP, flow_run_id))

    def state_history(self, flow_run_id: str) -> list[StateRecord]:
        """As `queries.state_history`."""
        return list(queries.state_history(self.db, flow_run_id))

    def step_counts(self, flow_run_id: str) -> list[StepCount]:
        """As `queries.step_counts`."""
        return queries.step_counts(self.db, flow_run_id)

    def run_graph(self, flow_run_id: str) -> list[Node]:
        """As `queries.run_graph`."""
        return queries.run_graph(self.db, flow_run_id)

    def find_flow_runs(self, wanted: Filters, *, sort: str, limit: int | None, offset: int) -> list[FlowRun]:
        """As `search.find_flow_runs`."""
        return search.find_flow_runs(self.db, wanted.selection(), sort=sort, limit=limit, offset=offset)

    def count_flow_runs(self, wanted: Filters) -> int:
        """As `search.count_flow_runs`."""
        return search.count_flow_runs(self.db, wanted.selection())

    def flow_run_ending(self, flow_run_id: str) -> State[Any]:
        """The state of a run with its value or exception.

        Raises:
            MissingResult: It completed, and its result was not kept.
        """
        row = runs.read(self.db, flow_run_id)
        return ending(row, runs.result_of(self.db, row), f"flow run {flow_run_id}")

    def cancel(self, flow_run_id: str) -> None:
        """As `operations.cancel`."""
        operations.cancel(self.db, flow_run_id)

    def pause(self, flow_run_id: str) -> None:
        """As `operations.pause`."""
        operations.pause(self.db, flow_run_id)

    def suspend(self, flow_run_id: str) -> None:
        """As `operations.suspend`."""
        operations.suspend(self.db, flow_run_id)

    def resume(self, flow_run_id: str, *, run_input: Any = None, key: str | None = None) -> None:
        """As `operations.resume`."""
        operations.resume(self.db, flow_run_id, run_input=run_input, key=key)

    def retry(self, flow_run_id: str, *, from_task_run_id: str | None = None) -> None:
        """As `operations.retry`."""
        operations.retry(self.db, flow_run_id, from_task_run_id=from_task_run_id)

    def delete(self, flow_run_id: str) -> None:
        """As `operations.delete`."""
        operations.delete(self.db, flow_run_id)

    def set_state(self, flow_run_id: str, type: StateType, name: str, *, force: bool) -> StateRecord:
        """As `operations.set_state`; gives the state then."""
        operations.set_state(self.db, flow_run_id, type, name, force=force)
        return queries.flow_run_state(self.db, flow_run_id)

    # -- task runs and logs --------------------------------------------------------------------------------------

    def list_task_runs(self, *, limit: int, after: str | None = None, **wanted: Any) -> Page[TaskRun]:
        """As `queries.list_task_runs`, and looks on until the page is full."""

        def ask(most: int, after: str | None) -> Page[TaskRun]:
            return queries.list_task_runs(self.db, limit=most, after=after, **wanted)

        return full_page(ask, limit, after)

    def read_task_run(self, task_run_id: str) -> TaskRunDetails:
        """As `queries.read_task_run`."""
        return queries.read_task_run(self.db, task_run_id)

    def task_run_names(self, flow_run_id: str) -> dict[str, str]:
        """As `queries.task_run_names`."""
        return queries.task_run_names(self.db, flow_run_id)

    def find_task_runs(self, wanted: Filters, *, sort: str, limit: int | None, offset: int) -> list[TaskRun]:
        """As `search.find_task_runs`."""
        return search.find_task_runs(self.db, wanted.selection(), sort=sort, limit=limit, offset=offset)

    def count_task_runs(self, wanted: Filters) -> int:
        """As `search.count_task_runs`."""
        return search.count_task_runs(self.db, wanted.selection())

    def task_run_ending(self, task_run_id: str) -> State[Any]:
        """As `flow_run_ending`, of a task run."""
        row = journal.step_row(self.db, task_run_id)
        data = journal.result_of(self.db, row["run_id"], row["run_attempt"], row["step_key"])
        return ending(row, data, f"task run {task_run_id}")

    def read_logs(self, flow_run_id: str, **wanted: Any) -> list[LogLine]:
        """As `logs.read`."""
        return logs.read(self.db, flow_run_id, **wanted)

    def tail(self, flow_run_id: str, *, step_id: str | None, level: int | None) -> Tail:
        """As `logs.Tail`."""
        return Tail(self.db, flow_run_id, step_id=step_id, level=level)

    def find_logs(self, wanted: LogFilter | None, *, sort: str, limit: int | None, offset: int) -> list[LogLine]:
        """As `search.find_logs`."""
        tests = () if wanted is None else wanted.tests()
        return search.find_logs(self.db, tests, sort=sort, limit=limit, offset=offset)

    # -- flows ---------------------------------------------------------------------------------------------------

    def list_flows(self, *, limit: int, after: str | None) -> Page[Flow]:
        """As `queries.list_flows`."""
        return queries.list_flows(self.db, limit=limit, after=after)

    def find_flows(self, wanted: Filters, *, sort: str, limit: int | None, offset: int) -> list[Flow]:
        """As `search.find_flows`."""
        return search.find_flows(self.db, wanted.selection(), sort=sort, limit=limit, offset=offset)

    def count_flows(self, wanted: Filters) -> int:
        """As `search.count_flows`."""
        return search.count_flows(self.db, wanted.selection())

    # -- artifacts and variables ---------------------------------------------------------------------------------

    def list_artifacts(
        self, wanted: artifacts.Query, *, limit: int, after: str | None, with_data: bool
    ) -> Page[Artifact]:
        """As `artifacts.page`."""
        found = artifacts.page(self.db, wanted, limit=limit + 1, after=after, with_data=with_data)
        return page_of(found, limit, lambda each: each.id)

    def list_latest_artifacts(
        self, *, type: str | None, limit: int, after: str | None, with_data: bool
    ) -> Page[Artifact]:
        """As `artifacts.page_latest`."""
        found = artifacts.page_latest(self.db, type=type, limit=limit + 1, after=after, with_data=with_data)
        return page_of(found, limit, lambda each: each.id)

    def read_artifact(self, artifact_id: str) -> Artifact:
        """As `artifacts.read`."""
        return artifacts.read(self.db, artifact_id)

    def create_artifact(self, new: NewArtifact) -> str:
        """As `artifacts.keep`."""
        return kept.keep(new)

    def change_artifact(self, artifact_id: str, given: Mapping[str, Any]) -> None:
        """As `artifacts.change`, of what may be changed."""
        kept.change(artifact_id, kept.changes_of(given))

    def delete_artifact(self, artifact_id: str) -> None:
        """As `artifacts.delete`."""
        kept.delete(artifact_id)

    def delete_artifacts_of_key(self, key: str) -> int:
        """As `artifacts.delete_key`."""
        return artifacts.delete_key(self.db, key)

    def list_variables(self, *, limit: int, after: str | None) -> Page[Variable]:
        """As `variables.page`."""
        return page_of(variables.page(self.db, limit=limit + 1, after=after), limit, lambda each: each.name)

    def read_variable(self, name: str) -> Variable:
        """As `variables.read`."""
        return variables.read(self.db, name)

    def set_variable(self, name: str, value: Any, *, tags: Iterable[str], overwrite: bool) -> None:
        """As `Variable.set`."""
        setting.set_variable(name, value, tags, overwrite=overwrite)

    def change_variable(self, name: str, **given: Any) -> None:
        """As `variables.change_variable`."""
        setting.change_variable(name, **given)

    def unset_variable(self, name: str) -> None:
        """As `variables.remove_variable`."""
        setting.remove_variable(name)

    # -- events --------------------------------------------------------------------------------------------------

    def list_events(
        self, wanted: EventFilter, *, limit: int, after: str | None
    ) -> tuple[list[EventRecord], str | None]:
        """As `events.page`."""
        return events.page(self.db, wanted, limit=limit, after=after)

    def follow_events(self, wanted: EventFilter, *, since: float | None) -> Iterator[EventRecord]:
        """Events as they come; does not end. As `events.Tail`."""
        tail = events.Tail(self.db, wanted, since=since)
        with self.db.wake.bell(*ANYTHING) as bell:
            while True:
                yield from tail.poll()
                bell.wait(_LOOK, least=_LEAST)

    def emit_event(
        self,
        event: str,
        resource: Mapping[str, str],
        *,
        related: Sequence[Mapping[str, str]],
        payload: Mapping[str, Any] | None,
    ) -> str:
        """Tell of an event, which is written when this comes back; gives its id.

        Raises:
            StoreUnavailable: It is not written.
        """
        made = lazy.load("emit_event")(event, dict(resource), related=[dict(each) for each in related], payload=payload)
        if not behind.flush():
            raise StoreUnavailable("the database does not answer: the event is not written")
        return str(made.id)

    def hello(self) -> None:
        """Come back once it answers.

        Raises:
            StoreUnavailable: It does not.
        """
        self.db.now()


#: What is asked.
Backend: TypeAlias = "DatabaseBackend | HttpBackend"
