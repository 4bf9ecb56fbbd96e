"""Carry a flow run of a process of its own out again, in this process, as its next run attempt."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

import cloudpickle

from orchestra.context import tags
from orchestra.engine import definitions
from orchestra.engine.local import LocalFlowRun
from orchestra.errors import DefinitionNotFound, IllegalTransition, OrchestraError
from orchestra.runners.steps import Step
from orchestra.serializers import decode
from orchestra.specs import FlowSpec
from orchestra.states import State
from orchestra.store import runs
from orchestra.store.database import Database
from orchestra.store.local_runs import Ended
from orchestra.store.tables import Kind, Phase


def is_local(database: Database, flow_run_id: str) -> bool:
    """Whether the run is, or was, carried out by the process that called it.

    Raises:
        FlowRunNotFound: There is no such run.
    """
    return bool(runs.read(database, flow_run_id)["runner"] == "local")


def retry(database: Database, flow_run_id: str) -> State[Any]:
    """Run a local run that has ended again, here; gives how it ends then.

    It keeps its id, name, tags and parameters. Tasks and subflows that ended well and whose results were kept give
    these again where they are asked for with equal inputs; all others are run. The flow is loaded before anything is
    written, so what is refused leaves the run as it was. Two who retry one run at once: one does, one is refused. A
    crash in between leaves a run whose lease lapses: Crashed, and to be retried again.

    Args:
        database: Where the run is.
        flow_run_id: Its id.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has not ended, is the child of another one, or its parameters are not here.
        DefinitionNotFound: Its code cannot be imported in this process; says what to do.
    """
    row = runs.read(database, flow_run_id)
    if row["phase"] != Phase.DONE:
        lives = f"the process that runs it lives, or died less than {row['lease_seconds']:g} s ago"
        raise _refused(row, f"retried before it has ended: {lives}")
    if row["parent_run_id"] is not None:
        raise _refused(row, f"retried alone: it is a part of run {row['parent_run_id']}, which starts it; retry that")
    flow = _flow_of(row)
    parameters = _parameters_of(row)
    ended = Ended(flow_run_id, row["name"], row["run_attempt"], row["claim_number"])
    step = Step(flow_run_id, None, flow.name, Kind.SUBFLOW, 0, row["created_at"], flow.path)
    run = LocalFlowRun(flow, parameters, step, None, run_attempt=ended.run_attempt + 1, again=ended)
    with tags(*json.loads(row["tags"])):
        return asyncio.run(run.run_async()) if flow.is_async else run.run()


def _flow_of(row: Mapping[str, Any]) -> FlowSpec:
    try:
        return definitions.load_flow(row["path"], row["entrypoint"], row["options"])
    except DefinitionNotFound as error:
        remedy = "retry it in the folder of its project, where `python` can import it, or call the flow again"
        raise DefinitionNotFound(error.path, f"{error.reason}; {remedy}") from error


def _parameters_of(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["parameters"] is None:
        raise _refused(row, "retried: its parameters could not be kept; call the flow again")
    try:
        return dict(_at_home(decode(row["parameters"]), row))
    except OrchestraError as error:
        raise _refused(row, f"retried: its parameters cannot be read here ({error}); call the flow again") from error


def _at_home(value: Any, row: Mapping[str, Any]) -> Any:
    """The value with the classes that the flow's script has here, not copies of those that ran."""
    if not row["path"].startswith("__main__:"):
        return value
    written = io.BytesIO()
    _AtHome(written, row["entrypoint"]).dump(value)
    return pickle.loads(written.getvalue())


class _AtHome(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no annotations
    """Writes classes of a script by their place in its file."""

    def __init__(self, file: IO[bytes], entrypoint: str | None) -> None:
        super().__init__(file)
        self._entrypoint = entrypoint

    def reducer_override(self, obj: Any) -> Any:
        """How an object is written; as cloudpickle does but for those classes."""
        if isinstance(obj, type) and obj.__module__ == "__main__":
            path = definitions.importable(f"__main__:{obj.__qualname__}", self._entrypoint)
            with suppress(DefinitionNotFound):  # one that is not there any more stays the copy that it is
                definitions.function_at(path)
                return definitions.function_at, (path,)
        return super().reducer_override(obj)


def _refused(row: Mapping[str, Any], wanted: str) -> IllegalTransition:
    return IllegalTransition(row["id"], f"{row['state_name']}, and local", wanted)
