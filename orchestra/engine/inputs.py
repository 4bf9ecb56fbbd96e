"""What a run or step was called with, from the database."""

from __future__ import annotations

import json
from typing import Any

from orchestra import serializers
from orchestra.engine.arguments import find_refs, replace_refs
from orchestra.engine.parameters import validate
from orchestra.engine.values import decode_inputs, state_of
from orchestra.errors import OrchestraError
from orchestra.serializers import StepRef
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.store import journal
from orchestra.store.database import Database


def resolved_inputs(
    database: Database, run_id: str, run_attempt: int, inputs: bytes
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A step's arguments, with the results of upstreams in the place of their keys.

    Raises:
        Exception: That of an upstream that failed.
    """
    args, kwargs = decode_inputs(inputs)
    keys = sorted({ref.step_key for ref in find_refs([args, kwargs])})
    if not keys:
        return args, kwargs
    records = journal.inputs_of(database, run_id, run_attempt, keys)
    values = {
        key: state_of(record.state_type, record.state_name, record.state_message, record.result)
        for key, record in records.items()
    }

    def fill(ref: StepRef) -> Any:
        return values[ref.step_key].result(raise_on_failure=not ref.allow_failure)

    return replace_refs(args, fill), replace_refs(kwargs, fill)


def kept_tags(task: TaskSpec, kept: str | None) -> tuple[str, ...]:
    """A task run's tags: the task's own as they are declared, and the others as the row has them."""
    others = set(json.loads(kept or "[]")) - {serializers.clean_text(tag) for tag in task.tags}
    return tuple(sorted({*task.tags, *others}))


def decoded_parameters(flow: FlowSpec, data: bytes | None) -> dict[str, Any]:
    """A run's parameters as its body gets them, for those who only look; {} where they cannot be read here."""
    if data is None:
        return {}
    parameters: dict[str, Any] = {}
    try:
        parameters = serializers.decode(data)
        return validate(flow.fn, parameters) if flow.validate_parameters else parameters
    except OrchestraError:
        # Such as a run has that failed by its parameters.
        return parameters
