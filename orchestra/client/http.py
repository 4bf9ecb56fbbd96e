"""Asks a server's API in the place of the database: the same records, and the same errors, over HTTP."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar, cast
from urllib.parse import quote

import httpx2
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from orchestra import errors, settings
from orchestra.client.endings import ending
from orchestra.client.schemas.filters import Filters, LogFilter
from orchestra.concurrency.limits import HolderRecord, Limit
from orchestra.errors import DatabaseNeeded, OrchestraError, StoreUnavailable
from orchestra.states import State, StateType
from orchestra.store.artifacts import Artifact, Query
from orchestra.store.database import Database, database
from orchestra.store.deployments import Deployment
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
from orchestra.store.work_pools import WorkPool, WorkQueue

T = TypeVar("T")

logger = logging.getLogger("orchestra.client")

#: Seconds that an answer may take.
_PATIENCE = 65.0
#: Likewise that a stream may be silent, which says that it lives every 15; and seconds until it is asked for again.
_STREAM, _RECONNECT = 60.0, 1.0
#: Of a stream, so many of the last events are known again when it was broken off.
_REMEMBERED = 10_000
#: Most records that the server gives at once.
_MOST = 200
#: What is raised for a status where the server does not name an error of ours.
_BY_STATUS: dict[int, type[OrchestraError]] = {
    401: errors.ConfigurationError,
    403: errors.ConfigurationError,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.ParameterError,
    422: errors.ParameterError,
}


class HttpBackend:
    """Asks the API. Each method is one of `DatabaseBackend` too, with the same meaning, records and errors.

    Raises:
        StoreUnavailable: (each method) The server, or its database, does not answer.
    """

    def __init__(self, url: str, key: str = "") -> None:
        """Ask the server at `url`, as `http://host:4200` or `http://host:4200/api`, as who has this key."""
        self.url = url.rstrip("/").removesuffix("/api") + "/api"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = _client(self.url, tuple(headers.items()))

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
        return _details(FlowRunDetails, self._get(_path("flow_runs", flow_run_id)))

    def flow_run_state(self, flow_run_id: str) -> StateRecord:
        """The state it is in."""
        return _read(StateRecord, self._get(_path("flow_runs", flow_run_id, "state")))

    def state_history(self, flow_run_id: str) -> list[StateRecord]:
        """The states it was in, the oldest first."""
        return _all(StateRecord, self._get(_path("flow_runs", flow_run_id, "states")))

    def step_counts(self, flow_run_id: str) -> list[StepCount]:
        """How many steps of each task are in each state."""
        return _all(StepCount, self._get(_path("flow_runs", flow_run_id, "steps")))

    def run_graph(self, flow_run_id: str) -> list[Node]:
        """Its steps, with what each waited for."""
        return _all(Node, self._get(_path("flow_runs", flow_run_id, "graph")))

    def find_flow_runs(self, wanted: Filters, *, sort: str, limit: int | None, offset: int) -> list[FlowRun]:
        """Flow runs that fit."""
        return list(self._found("flow_runs", FlowRun, _body(wanted), sort, limit, offset))

    def count_flow_runs(self, wanted: Filters) -> int:
        """How many fit."""
        return int(self._post("flow_runs/count", _body(wanted)))

    def flow_run_ending(self, flow_run_id: str) -> State[Any]:
        """The state of a run with its value or exception, decoded here: a signature is checked by this host's key."""
        state, data = self.flow_run_state(flow_run_id), self._bytes(_path("flow_runs", flow_run_id, "result"))
        return ending(_row(state), data, f"flow run {flow_run_id}")

    def cancel(self, flow_run_id: str) -> None:
        """Cancel it with all that it started."""
        self._post(_path("flow_runs", flow_run_id, "cancel"))

    def pause(self, flow_run_id: str) -> None:
        """Start no more of it until it is resumed."""
        self._post(_path("flow_runs", flow_run_id, "pause"))

    def suspend(self, flow_run_id: str) -> None:
        """As `pause`, shown as Suspended."""
        self._post(_path("flow_runs", flow_run_id, "suspend"))

    def resume(self, flow_run_id: str, *, run_input: Any = None, key: str | None = None) -> None:
        """Let it go on, with what it waits for."""
        given = {"run_input": to_jsonable_python(run_input), "key": key}
        self._post(_path("flow_runs", flow_run_id, "resume"), given)

    def retry(self, flow_run_id: str, *, from_task_run_id: str | None = None) -> None:
        """Run it again in place, or anew from a task run on."""
        given = None if from_task_run_id is None else {"from_task_run_id": from_task_run_id}
        self._post(_path("flow_runs", flow_run_id, "retry"), given)

    def delete(self, flow_run_id: str) -> None:
        """Delete it with all that belongs to it."""
        self._ask("DELETE", _path("flow_runs", flow_run_id))

    def set_state(self, flow_run_id: str, type: StateType, name: str, *, force: bool) -> StateRecord:
        """Bring it into a state by the verb that does so; gives the state then."""
        wanted = {"state": {"type": type.value, "name": name}, "force": force}
        return _read(StateRecord, self._post(_path("flow_runs", flow_run_id, "set_state"), wanted)["state"])

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
        return _details(TaskRunDetails, self._get(_path("task_runs", task_run_id)))

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
        state, data = self.read_task_run(task_run_id).run.state, self._bytes(_path("task_runs", task_run_id, "result"))
        return ending(_row(state), data, f"task run {task_run_id}")

    def read_logs(
        self,
        flow_run_id: str,
        *,
        step_id: str | None = None,
        level: int | None = None,
        after_id: int = 0,
        limit: int = _MOST,
        tail: int | None = None,
    ) -> list[LogLine]:
        """Lines of a flow run, its tasks' included, in the order they were written."""
        at, wanted = _path("flow_runs", flow_run_id, "logs"), {"task_run_id": step_id, "level": level}
        if tail is not None and tail <= _MOST:
            return [_line(each) for each in self._get(at, wanted | {"tail": True, "limit": tail})["items"]]
        found: list[LogLine] = []
        last: str | int | None = after_id
        while last is not None and (tail is not None or len(found) < limit):
            most = _MOST if tail is not None else min(_MOST, limit - len(found))
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

    # -- deployments, pools, workers -----------------------------------------------------------------------------

    def list_deployments(
        self,
        *,
        limit: int,
        after: str | None = None,
        flow_names: Iterable[str] = (),
        work_pool_name: str | None = None,
    ) -> Page[Deployment]:
        """Deployments by flow and name."""
        wanted = {"flow_name": list(flow_names), "work_pool_name": work_pool_name}
        return self._page("deployments", Deployment, wanted, limit, after)

    def read_deployment(self, name: str) -> Deployment:
        """The deployment with this id, or `flow/name`."""
        return _read(Deployment, self._get(self._deployment(name)))

    def set_paused(self, name: str, paused: bool) -> None:
        """Pause or resume its schedules."""
        found = self.read_deployment(name)
        self._post(_path("deployments", found.id, "pause" if paused else "resume"))

    def start_deployment(
        self,
        name: str,
        parameters: Mapping[str, Any],
        *,
        scheduled_time: datetime | None = None,
        flow_run_name: str | None = None,
        tags: Iterable[str] = (),
        idempotency_key: str | None = None,
        work_queue_name: str | None = None,
        as_subflow: bool = True,
        job_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Start a run of a deployment; gives its id. It is never a subflow: the server knows nothing of this body."""
        new = {
            "deployment": name,
            "parameters": parameters,
            "scheduled_time": scheduled_time,
            "name": flow_run_name,
            "tags": list(tags),
            "idempotency_key": idempotency_key,
            "work_queue_name": work_queue_name,
            "job_variables": job_variables or None,
        }
        return str(self._post("flow_runs", to_jsonable_python(new))["id"])

    def list_pools(self, *, limit: int, after: str | None) -> Page[WorkPool]:
        """Work pools by name."""
        return self._page("work_pools", WorkPool, {}, limit, after)

    def read_pool(self, name: str) -> WorkPool:
        """A work pool."""
        return _read(WorkPool, self._get(_path("work_pools", name)))

    def list_queues(self, pool: str) -> list[WorkQueue]:
        """The queues of a work pool, in the order in which they are served."""
        return [_read(WorkQueue, each) for each in self._get(_path("work_pools", pool, "queues"))]

    def slots_by_queue(self) -> dict[str, int]:
        """How many slots live workers have for each queue."""
        found: dict[str, int] = {}
        for worker in self._get("workers"):
            for queue in () if worker["stopping"] else worker["queues"]:
                found[queue] = found.get(queue, 0) + worker["slots"]
        return found

    # -- concurrency limits --------------------------------------------------------------------------------------

    def create_limit(self, name: str, limit: int, *, active: bool, slot_decay_per_second: float) -> Limit:
        """Make a limit."""
        new = {"name": name, "limit": limit, "active": active, "slot_decay_per_second": slot_decay_per_second}
        return _read(Limit, self._post(_LIMITS, new))

    def list_limits(self) -> list[Limit]:
        """All limits by name."""
        return _all(Limit, self._get(_LIMITS))

    def read_limit(self, name: str) -> Limit:
        """A limit."""
        return _read(Limit, self._get(_path(_LIMITS, name)))

    def read_holders(self, name: str) -> list[HolderRecord]:
        """Who has slots of a limit, then who waits for some."""
        return _all(HolderRecord, self._get(_path(_LIMITS, name, "holders")))

    def update_limit(
        self,
        name: str,
        *,
        limit: int | None = None,
        active: bool | None = None,
        slot_decay_per_second: float | None = None,
    ) -> Limit:
        """Change a limit; what is None stays."""
        changes = {"limit": limit, "active": active, "slot_decay_per_second": slot_decay_per_second}
        return _read(Limit, self._ask("PATCH", _path(_LIMITS, name), json=changes).json())

    def delete_limit(self, name: str) -> None:
        """Delete a limit."""
        self._ask("DELETE", _path(_LIMITS, name))

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
        return _read(Artifact, self._get(_path("artifacts", artifact_id)))

    def delete_artifact(self, artifact_id: str) -> None:
        """Delete an artifact."""
        self._ask("DELETE", _path("artifacts", artifact_id))

    def delete_artifacts_of_key(self, key: str) -> int:
        """Delete all versions of a key; gives how many there were."""
        return int(self._ask("DELETE", _path("artifacts", "key", key)).json()["deleted"])

    def list_variables(self, *, limit: int, after: str | None) -> Page[Variable]:
        """Variables by name."""
        return self._page("variables", Variable, {}, limit, after)

    def read_variable(self, name: str) -> Variable:
        """A variable."""
        return _read(Variable, self._get(_path("variables", name)))

    def set_variable(self, name: str, value: Any, *, tags: Iterable[str], overwrite: bool) -> None:
        """Set a variable."""
        new = {"name": name, "value": value, "tags": list(tags)}
        try:
            self._post("variables", new)
        except errors.VariableExists:
            if not overwrite:
                raise
            self._ask("PATCH", _path("variables", name), json={"value": value, "tags": list(tags)})

    def unset_variable(self, name: str) -> None:
        """Delete a variable."""
        self._ask("DELETE", _path("variables", name))

    # -- events --------------------------------------------------------------------------------------------------

    def list_events(
        self, wanted: EventFilter, *, limit: int, after: str | None
    ) -> tuple[list[EventRecord], str | None]:
        """Events, the newest first, and where the next page begins."""
        asked = {**_asked(wanted), "since": wanted.since, "until": wanted.until}
        found: list[EventRecord] = []
        while True:
            page = self._get("events", {**asked, "limit": min(_MOST, limit - len(found)), "after": after})
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
                params = _given({**_asked(wanted), "since": since})
                url = f"{self.url}/events/stream"
                with self._http.stream("GET", url, params=params, headers=begin, timeout=_STREAM) as answer:
                    if not answer.is_success:
                        answer.read()
                        raise _error_of(answer, self.url)
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

    # -- how it is asked -----------------------------------------------------------------------------------------

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._ask("GET", path, params=_given(params or {})).json()

    def _post(self, path: str, body: Any = None) -> Any:
        return self._ask("POST", path, json=body).json()

    def _bytes(self, path: str) -> bytes | None:
        answer = self._ask("GET", path)
        return None if answer.status_code == 204 else answer.content

    def _ask(self, method: str, path: str, **given: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, f"{self.url}/{path}", **given)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise StoreUnavailable(
                f"the API at {self.url} does not answer ({error or type(error).__name__}): see that the server runs "
                "(`orchestra server status` on its host), and that ORCHESTRA_API_URL is right"
            ) from error
        if not answer.is_success:
            raise _error_of(answer, self.url)
        return answer

    def _page(self, noun: str, shape: type[T], wanted: Mapping[str, Any], limit: int, after: str | None) -> Page[T]:
        """A page of as many records as asked for, by as many requests as that takes."""
        found: list[T] = []
        while True:
            most = min(_MOST, limit - len(found))
            page = self._get(noun, {**wanted, "limit": most, "after": after})
            found += _all(shape, page["items"])
            after = page["next"]
            if after is None or len(found) >= limit:
                return Page(tuple(found), after)

    def _found(
        self, noun: str, shape: type[T], body: dict[str, Any], sort: str, limit: int | None, offset: int
    ) -> Iterator[T]:
        return (_read(shape, each) for each in self._pages(noun, body, sort, limit, offset))

    def _pages(self, noun: str, body: dict[str, Any], sort: str, limit: int | None, offset: int) -> Iterator[Any]:
        left = limit
        while left is None or left > 0:
            most = _MOST if left is None else min(_MOST, left)
            page = self._post(f"{noun}/filter", {**body, "sort": sort, "limit": most, "offset": offset})
            yield from page
            if len(page) < most:
                return
            offset, left = offset + most, None if left is None else left - most

    def _deployment(self, name: str) -> str:
        flow_name, slash, own = name.rpartition("/")
        return _path("deployments", "name", flow_name, own) if slash else _path("deployments", name)


_LIMITS = "global_concurrency_limits"


@lru_cache(maxsize=4)
def _client(url: str, headers: tuple[tuple[str, str], ...]) -> httpx2.Client:
    return httpx2.Client(headers=dict(headers), timeout=_PATIENCE)


@lru_cache(maxsize=64)
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _read(shape: type[T], found: Any) -> T:
    record: T = _adapter(cast("Hashable", shape)).validate_python(found)
    return record


def _all(shape: type[T], found: Any) -> list[T]:
    return [_read(shape, each) for each in found]


def _details(shape: type[T], flat: dict[str, Any]) -> T:
    """Details from their flat form: the fields of their run among their own."""
    return _read(shape, {**flat, "run": flat})


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


def _path(*parts: str) -> str:
    return "/".join(quote(part, safe="") for part in parts)


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in params.items() if each is not None}


def _error_of(answer: httpx2.Response, url: str) -> OrchestraError:
    """The error that the server met, as it would be raised here."""
    try:
        problem = answer.json()
        title, detail, facts = problem["title"], str(problem["detail"]), problem.get("facts", [])
    except (ValueError, KeyError, TypeError):
        return StoreUnavailable(
            f"{url} answers {answer.status_code}, and is no API of orchestra: see ORCHESTRA_API_URL"
        )
    kind = getattr(errors, str(title), None)
    if isinstance(kind, type) and issubclass(kind, OrchestraError):
        return _made(kind, facts, detail)
    if answer.status_code == 401:
        detail = f"{detail}: set ORCHESTRA_API_KEY"
    return _BY_STATUS.get(answer.status_code, StoreUnavailable if answer.status_code >= 500 else OrchestraError)(detail)


def _made(kind: type[OrchestraError], facts: list[Any], detail: str) -> OrchestraError:
    try:
        return kind(*facts) if facts else kind(detail)
    except TypeError:
        # Another version's, which has other facts.
        return OrchestraError(detail)
