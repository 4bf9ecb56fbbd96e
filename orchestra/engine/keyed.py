"""Results under names of users' own (`result_storage_key`): a call whose file is there is answered by it.

The file is a copy for people and for other runs: what the journal of this run keeps is apart from it. It is written
when the body has ended, before that is recorded; a process that dies between the two finds it when it tries again.
"""

from __future__ import annotations

from datetime import timedelta

from orchestra import results, runtime, settings, states
from orchestra.context import TaskRunContext
from orchestra.engine import cache_keys
from orchestra.errors import DefinitionError, OrchestraError, ResultCorrupt
from orchestra.logging import engine_logger
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.states import State


def find(context: TaskRunContext) -> State[object] | None:
    """What is kept under the name of this call, as a final state; None: the body is to run, or is asked for anew.

    A file that is damaged, or was not written by this installation, is one that is not there, with a warning. A name
    that cannot be made, or a storage that is away, fails the attempt.
    """
    if settings.current().tasks_disable_caching or cache_keys.refreshes(context.task):
        return None
    try:
        record = results.store_of(*_specs(context)).find(name_of(context))
    except ResultCorrupt as error:
        engine_logger(context).warning("%s; the task runs anew", error)
        return None
    except OrchestraError as error:
        return states.from_exception(error)
    return None if record is None else states.Completed(name="Cached", data=record.result)


def keep(context: TaskRunContext, state: State[object]) -> State[object]:
    """Keep the value of an attempt that ended well under the name of this call; the state that the attempt then has.

    In a process of its own a value that cannot be kept is a warning, as in Prefect. On a worker it fails the attempt.
    Rows of the user's that are still to be committed fail it everywhere: the file would answer for them, come what may.
    """
    if context.atomic is not None:
        return states.from_exception(
            DefinitionError(
                f"task {context.task.name!r} has both result_storage_key and db_transaction(): its file would say that "
                "it is done before its rows are committed. Leave out result_storage_key, or use cache_policy"
            )
        )
    expires_in = context.task.cache_expiration
    expiration = None if expires_in is None else timedelta(seconds=expires_in)
    try:
        results.store_of(*_specs(context)).write(state.data, name_of(context), expiration)
    except OrchestraError as error:
        # Where calls of its body have a runner, it runs in the process of its caller.
        if context.runner is None:
            return states.from_exception(error)
        engine_logger(context).warning("the result is not kept: %s", error)
    return state


def name_of(context: TaskRunContext) -> str:
    """The name of the result of this call: its template, filled in.

    Raises:
        DefinitionError: It cannot be filled in.
    """
    template = context.task.result_storage_key or ""
    given = {"parameters": context.parameters, "flow_run": runtime.flow_run, "task_run": runtime.task_run}
    try:
        return template.format(**given)
    except Exception as error:
        raise DefinitionError(
            f"result_storage_key={template!r} of task {context.task.name!r} cannot be filled in "
            f"({type(error).__name__}: {error}): it may name parameters[…], flow_run.… and task_run.…"
        ) from error


def _specs(context: TaskRunContext) -> list[TaskSpec | FlowSpec]:
    return [context.task] if context.flow_run is None else [context.task, context.flow_run.flow]
