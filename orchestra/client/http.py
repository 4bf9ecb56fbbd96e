"""Asks a server's API in the place of the database: the same records, and the same errors, over HTTP."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

import httpx2
from pydantic_core import to_jsonable_python

from orchestra import errors, settings
from orchestra.client.caller import MOST, error_of, given_of, path_of, read, read_all
from orchestra.client.endings import ending
from orchestra.client.http_operations import HttpOperations
from orchestra.client.schemas.filters import Filters, LogFilter
from orchestra.errors import DatabaseNeeded, StoreUnavailable
from orchestra.states import State, StateType
from orchestra.store.artifacts import Artifact, NewArtifact, Query
from orchestra.store.database import Database, database
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
)
from orchestra.store.tables import Kind
from orchestra.store.variables import Variable

T = TypeVar("T")

logger = logging.getLogger("orchestra.client")

#: Seconds that a stream may be silent, which says that it lives every 15; and until it is asked for again.
_STREAM, _RECONNECT = 60.0, 1.0
#: Of a stream, so many of the last events are known again when it was broken off.
_REMEMBERED = 10_000


class Silence:
    """Waits as a `Bell` does of which nothing is heard."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait(self, often: float, seldom: float = 0.0, *, least: float = 0.0) -> None:
        """Return after `often` seconds; the others are for those who hear."""
        time.sleep(often)


class HttpBackend(HttpOperations):
    """Asks the API. Each method is one of `DatabaseBackend` too, with the same meaning, records and errors.

    Raises:
        StoreUnavailable: (each method) The server, or its database, does not answer.
    """

    @property
    def db(self) -> Database:
        """The database, for what the API has not; only where ORCHESTRA_DATABASE_URL is set too.

        Raises:
            DatabaseNeeded: It is not.
        """
        if not settings.current().database_url:
            raise DatabaseNeeded(self.url)
        return database()

    # -- flow runs -----------------------------------------------------------------------------------------------

    def list_flow_runs(
        self,
        *,
        limit: int,
        after: str | None = None,
        flow_name: str | None = None,
        state_types: Iterable[str] = (),
        state_names: Iterable[str] = (),
        parent_flow_run_id: str | None = None,
        tags: Iterable[str] = (),
        deployment_id: str | None = None,
    ) -> Page[FlowRun]:
        """The newest flow runs first."""
        wanted = {
            "flow_name": flow_name,
            "state_type": list(state_types),
            "state_name": list(state_names),
            "parent_flow_run_id": parent_flow_run_id,
            "tag": list(tags),
            "deployment_id": deployment_id,
        }
        return self._page("flow_runs", FlowRun, wanted, limit, after)

    def read_flow_run(self, flow_run_id: str) -> FlowRunDetails:
        """A flow run."""
        return _details(FlowRunDetails, self._get(path_of("flow_runs", flow_run_id)))

    def flow_run_state(self, flow_run_id: str) -> StateRecord:
        """The state it is in."""
        return read(StateRecord, self._get(path_of("flow_runs", flow_run_id, "state")))

    def bell(self, flow_run_id: str) -> Silence:
        """What never rings: who waits looks by itself."""
        return Silence()

    def state_history(self, flow_run_id: str) -> list[StateRecord]:
        """The states it was in, the oldest first."""
        return read_all(StateRecord, self._get(path_of("flow_runs", flow_run_id, "states")))

    def step_counts(self, flow_run_id: str) -> list[StepCount]:
        """How many steps of each task are in each state."""
        return read_all(StepCount, self._get(path_of("flow_runs", flow_run_id, "steps")))

    def run_graph(self, flow_run_id: str) -> list[Node]:
        """Its steps, with what each waited for."""
        return read_all(Node, self._get(path_of("flow_runs", flow_run_id, "graph")))

    def find_flow_runs(self, wanted: Filters, *, sort: str, limit: int | None, offset: int) -> list[FlowRun]:
        """Flow runs that fit."""
        return list(self._found("flow_runs", FlowRun, _body(wanted), sort, limit, offset))

    def count_flow_runs(self, wanted: Filters) -> int:
        """How many fit."""
        return int(self._post("flow_runs/count", _body(wanted)))

    def flow_run_ending(self, flow_run_id: str) -> State[Any]:
        """The state of a run with its value or exception, decoded here: a signature is checked by this host's key."""
        state, data = self.flow_run_state(flow_run_id), self._bytes(path_of("flow_runs", flow_run_id, "result"))
        return ending(_row(state), data, f"flow run {flow_run_id}")

    def cancel(self, flow_run_id: str) -> None:
        """Cancel it with all that it started."""
        self._post(path_of("flow_runs", flow_run_id, "cancel"))

    def pause(self, flow_run_id: str) -> None:
        """Start no more of it until it is resumed."""
        self._post(path_of("flow_runs", flow_run_id, "pause"))

    def suspend(self, flow_run_id: str) -> None:
        """As `pause`, shown as Suspended."""
        self._post(path_of("flow_runs", flow_run_id, "suspend"))

    def resume(self, flow_run_id: str, *, run_input: Any = None, key: str | None = None) -> None:
        """Let it go on, with what it waits for."""
        given = {"run_input": to_jsonable_python(run_input), "key": key}
        self._post(path_of("flow_runs", flow_run_id, "resume"), given)

    def retry(self, flow_run_id: str, *, from_task_run_id: str | None = None) -> None:
        """Run it again in place, or anew from a task run on."""
        given = None if from_task_run_id is None else {"from_task_run_id": from_task_run_id}
        self._post(path_of("flow_runs", flow_run_id, "retry"), given)

    def delete(self, flow_run_id: str) -> None:
        """Delete it with all that belongs to it."""
        self._ask("DELETE", path_of("flow_runs", flow_run_id))

    def set_state(self, flow_run_id: str, type: StateType, name: str, *, force: bool) -> StateRecord:
        """Bring it into a state by the verb that does so; gives the state then."""
        wanted = {"state": {"type": type.value, "name": name}, "force": force}
        return read(StateRecord, self._post(path_of("flow_runs", flow_run_id, "set_state"), wanted)["state"])

    # -- task runs and logs --------------------------------------------------------------------------------------

    def list_task_runs(
        self,
        *,
        limit: int,
        after: str | None = None,
        flow_run_id: str | None = None,
        every_attempt: bool = False,
        kinds: Iterable[str] = (Kind.TASK,),
        state_types: Iterable[str] = (),
        state_names: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> Page[TaskRun]:
        """The newest task runs first, or those of one flow run in order of asking."""
        wanted = {
            "flow_run_id": flow_run_id,
            "every_attempt": every_attempt,
            "every_kind": not tuple(kinds),
            "state_type": list(state_types),
            "state_name": list(state_names),
            "tag": list(tags),
        }
        return self._page("task_runs", TaskRun, wanted, limit, after)

    def read_task_run(self, task_run_id: str) -> TaskRunDetails:
        """A task run."""
        return _details(TaskRunDetails, self._get(path_of("task_runs", task_run_id)))

    def task_run_names(self, flow_run_id: str) -> dict[str, str]:
        """The names of all task runs of a flow run, by id."""
        page = self.list_task_runs(limit=2**31, flow_run_id=flow_run_id, every_attempt=True, kinds=())
        return {each.id: each.name for each in page.items}

    def find_task_runs(self, wanted: Filters, *, sort: str, limit: int | None, offset: int) -> list[TaskRun]:
        """Task runs that fit."""
        return list(self._found("task_runs", TaskRun, _body(wanted), sort, limit, offset))

    def count_task_runs(self, wanted: Filters) -> int:
        """How many fit."""
        return int(self._post("task_runs/count", _body(wanted)))

    def task_run_ending(self, task_run_id: str) -> State[Any]:
        """As `flow_run_ending`, of a task run."""
        state, data = (
            self.read_task_run(task_run_id).run.state,
            self._bytes(path_of("task_runs", task_run_id, "result")),
        )
        return ending(_row(state), data, f"task run {task_run_id}")

    def read_logs(
        self,
        flow_run_id: str,
        *,
        step_id: str | None = None,
        level: int | None = None,
        after_id: int = 0,
        limit: int = MOST,
        tail: int | None = None,
    ) -> list[LogLine]:
        """Lines of a flow run, its tasks' included, in the order they were written."""
        at, wanted = path_of("flow_runs", flow_run_id, "logs"), {"task_run_id": step_id, "level": level}
        if tail is not None and tail <= MOST:
            return [_line(each) for each in self._get(at, wanted | {"tail": True, "limit": tail})["items"]]
        found: list[LogLine] = []
        last: str | int | None = after_id
        while last is not None and (tail is not None or len(found) < limit):
            most = MOST if tail is not None else min(MOST, limit - len(found))
            page = self._get(at, wanted | {"after": last, "limit": most})
            found += [_line(each) for each in page["items"]]
            last = page["next"]
        return found if tail is None else found[-tail:]

    def tail(self, flow_run_id: str, *, step_id: str | None, level: int | None) -> Tail:
        """Follows the lines of a flow run."""
        return Tail.of(
            lambda after_id: self.read_logs(flow_run_id, step_id=step_id, level=level, after_id=after_id, limit=2**31)
        )

    def find_logs(self, wanted: LogFilter | None, *, sort: str, limit: int | None, offset: int) -> list[LogLine]:
        """Log lines that fit."""
        body = {} if wanted is None else {"logs": wanted.model_dump(mode="json", exclude_none=True)}
        return [_line(each) for each in self._pages("logs", body, sort, limit, offset)]

    # -- flows ---------------------------------------------------------------------------------------------------

    def list_flows(self, *, limit: int, after: str | None) -> Page[Flow]:
        """Flows by name."""
        return self._page("flows", Flow, {}, limit, after)

    def find_flows(self, wanted: Filters, *, sort: str, limit: int | None, offset: int) -> list[Flow]:
        """Flows that fit."""
        return list(self._found("flows", Flow, _body(wanted), sort, limit, offset))

    def count_flows(self, wanted: Filters) -> int:
        """How many fit."""
        return int(self._post("flows/count", _body(wanted)))

    # -- artifacts and variables ---------------------------------------------------------------------------------

    def list_artifacts(self, wanted: Query, *, limit: int, after: str | None, with_data: bool) -> Page[Artifact]:
        """Artifacts, the newest first."""
        return self._page("artifacts", Artifact, {**asdict(wanted), "with_data": with_data}, limit, after)

    def list_latest_artifacts(
        self, *, type: str | None, limit: int, after: str | None, with_data: bool
    ) -> Page[Artifact]:
        """The newest artifact of each key, the newest first."""
        return self._page("artifacts/latest", Artifact, {"type": type, "with_data": with_data}, limit, after)

    def read_artifact(self, artifact_id: str) -> Artifact:
        """An artifact."""
        return read(Artifact, self._get(path_of("artifacts", artifact_id)))

    def create_artifact(self, new: NewArtifact) -> str:
        """Make an artifact; gives its id."""
        given: dict[str, Any] = asdict(new)
        del given["id"]
        metadata, data = given.pop("metadata"), given.pop("data")
        given |= {"data": data and json.loads(data), "metadata_": metadata and json.loads(metadata)}
        return str(self._post("artifacts", given)["id"])

    def change_artifact(self, artifact_id: str, given: Mapping[str, Any]) -> None:
        """Change what an artifact shows; what is not given stays."""
        self._ask("PATCH", path_of("artifacts", artifact_id), json=to_jsonable_python(given))

    def delete_artifact(self, artifact_id: str) -> None:
        """Delete an artifact."""
        self._ask("DELETE", path_of("artifacts", artifact_id))

    def delete_artifacts_of_key(self, key: str) -> int:
        """Delete all versions of a key; gives how many there were."""
        return int(self._ask("DELETE", path_of("artifacts", "key", key)).json()["deleted"])

    def list_variables(self, *, limit: int, after: str | None) -> Page[Variable]:
        """Variables by name."""
        return self._page("variables", Variable, {}, limit, after)

    def read_variable(self, name: str) -> Variable:
        """A variable."""
        return read(Variable, self._get(path_of("variables", name)))

    def set_variable(self, name: str, value: Any, *, tags: Iterable[str], overwrite: bool) -> None:
        """Set a variable."""
        new = {"name": name, "value": value, "tags": list(tags)}
        try:
            self._post("variables", new)
        except errors.VariableExists:
            if not overwrite:
                raise
            self._ask("PATCH", path_of("variables", name), json={"value": value, "tags": list(tags)})

    def change_variable(self, name: str, **given: Any) -> None:
        """Change the value or the tags of a variable; what is not named stays."""
        self._ask("PATCH", path_of("variables", name), json=to_jsonable_python(given))

    def unset_variable(self, name: str) -> None:
        """Delete a variable."""
        self._ask("DELETE", path_of("variables", name))

    # -- events --------------------------------------------------------------------------------------------------

    def list_events(
        self, wanted: EventFilter, *, limit: int, after: str | None
    ) -> tuple[list[EventRecord], str | None]:
        """Events, the newest first, and where the next page begins."""
        asked = {**_asked(wanted), "since": wanted.since, "until": wanted.until}
        found: list[EventRecord] = []
        while True:
            page = self._get("events", {**asked, "limit": min(MOST, limit - len(found)), "after": after})
            found += map(_event, page["items"])
            after = page["next"]
            if after is None or len(found) >= limit:
                return found, after

    def follow_events(self, wanted: EventFilter, *, since: float | None) -> Iterator[EventRecord]:
        """Events as they come; does not end: where the server went away meanwhile, it goes on from there."""
        last, heard = "", False
        seen: deque[str] = deque(maxlen=_REMEMBERED)
        while True:
            begin = {"last-event-id": last} if last else {}
            try:
                params = given_of({**_asked(wanted), "since": since})
                url = f"{self.url}/events/stream"
                with self._http.stream("GET", url, params=params, headers=begin, timeout=_STREAM) as answer:
                    if not answer.is_success:
                        answer.read()
                        raise error_of(answer, self.url)
                    heard = True
                    for line in answer.iter_lines():
                        name, _, text = line.partition(": ")
                        if name == "id":
                            last = text
                        elif name == "data" and (event := _event(json.loads(text))).id not in seen:
                            seen.append(event.id)
                            yield event
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                if not heard:
                    raise StoreUnavailable(f"the API at {self.url} does not answer ({error})") from error
            time.sleep(_RECONNECT)

    def emit_event(
        self,
        event: str,
        resource: Mapping[str, str],
        *,
        related: Sequence[Mapping[str, str]],
        payload: Mapping[str, Any] | None,
    ) -> str:
        """Tell of an event; gives its id."""
        new = {"event": event, "resource": dict(resource), "related": list(related), "payload": dict(payload or {})}
        return str(self._post("events", new)["id"])

    def hello(self) -> None:
        """Come back once it answers."""
        self._get("admin/version")


def _details(shape: type[T], flat: dict[str, Any]) -> T:
    """Details from their flat form: the fields of their run among their own."""
    return read(shape, {**flat, "run": flat})


def _line(found: Mapping[str, Any]) -> LogLine:
    return LogLine(
        id=found["id"],
        run_id=found["flow_run_id"],
        step_id=found["task_run_id"],
        logger=found["name"],
        level=found["level"],
        message=found["message"],
        timestamp=datetime.fromisoformat(found["timestamp"]).timestamp(),
    )


def _event(found: Mapping[str, Any]) -> EventRecord:
    return EventRecord(
        id=found["id"],
        occurred=datetime.fromisoformat(found["occurred"]).timestamp(),
        event=found["event"],
        resource=found["resource"],
        related=found["related"],
        payload=found["payload"],
        follows=found["follows"],
        cursor="",
    )


def _asked(wanted: EventFilter) -> dict[str, Any]:
    return {
        "event": list(wanted.events),
        "resource": list(wanted.resources),
        "flow_run_id": wanted.flow_run_id,
    }


def _row(state: StateRecord) -> dict[str, Any]:
    return {"state_type": state.type, "state_name": state.name, "state_message": state.message}


def _body(wanted: Filters) -> dict[str, Any]:
    return wanted.model_dump(mode="json", exclude_none=True)
