"""What a call of a task is recognised by: the task itself, and what its cache policy says of the call."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestra import settings
from orchestra.cache_policies import DEFAULT, CacheKeyExplanation, CachePolicy, NoCache, key_by
from orchestra.context import TaskRunContext, flow_run_context
from orchestra.digests import digest
from orchestra.engine.parameters import bind
from orchestra.logging import engine_logger
from orchestra.specs import TaskSpec

#: What was said already, so that it is said once: by flow run, task and sentence.
_said: set[tuple[str | None, str, str]] = set()
#: So many of these are remembered.
_SAID_MOST = 10_000


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a call is recognised by."""

    #: A digest of the task and of `policy_key`: what entries are found by.
    key: str
    #: What the policy says.
    policy_key: str


def key_of(context: TaskRunContext) -> CacheKey | None:
    """What this call is recognised by; None: it is not cached. Where a policy fails, that is logged, once."""
    policy = policy_of(context.task)
    if policy is None:
        return None
    try:
        return _computed(policy, context)
    except Exception as error:
        _say(context, f"is not cached: {type(error).__name__}: {error}")
        return None


def _computed(policy: CachePolicy, context: TaskRunContext) -> CacheKey | None:
    policy_key = key_by(policy, context, dict(context.parameters), _flow_parameters(context))
    return None if policy_key is None else CacheKey(digest([_identity(context.task), policy_key]), policy_key)


def policy_of(task: TaskSpec) -> CachePolicy | None:
    """The policy in force for a task; None: it is not cached."""
    found = settings.current()
    if found.tasks_disable_caching or not task.may_be_cached or isinstance(task.cache_policy, NoCache):
        return None
    policy: CachePolicy = task.cache_policy or DEFAULT
    return policy


def refreshes(task: TaskSpec) -> bool:
    """Whether calls of a task compute anew, and replace what is kept."""
    return settings.current().tasks_refresh_cache if task.refresh_cache is None else task.refresh_cache


def explain(task: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CacheKeyExplanation:
    """What would go into the key of a call that were made here and now.

    Raises:
        ParameterBindError: The arguments do not fit the signature.
    """
    parameters = bind(task.fn, args, kwargs)
    try:
        shown = _shown(_identity(task))
    except Exception as error:
        return CacheKeyExplanation(None, task.path, reason=str(error))
    policy = policy_of(task)
    if policy is None:
        return CacheKeyExplanation(None, shown, reason=_why_none(task))
    context = TaskRunContext(task, "", task.name, flow_run_context.get(), None, 1, "", parameters)
    parts = tuple(policy.parts(context, dict(parameters), _flow_parameters(context)))
    reasons = [f"{part.name}: {part.reason}" for part in parts if part.key is None]
    found = None
    if context.flow_run is not None or all(part.name != "RUN_ID" for part in parts):
        try:
            found = _computed(policy, context)
        except Exception as error:
            reasons = reasons or [f"{type(error).__name__}: {error}"]
    if found is not None:
        return CacheKeyExplanation(found.key, shown, parts)
    return CacheKeyExplanation(None, shown, parts, "; ".join(reasons))


def _flow_parameters(context: TaskRunContext) -> dict[str, Any]:
    return {} if context.flow_run is None else dict(context.flow_run.parameters)


def _identity(task: TaskSpec) -> Any:
    """What stands for a task: where others find it; one that has no such place is told by its code, too.

    A script is the same whether it is run or imported from its file, as a worker does.
    """
    module, _, qualname = task.path.rpartition(":")
    file = getattr(sys.modules.get("__main__"), "__file__", None) if module == "__main__" else None
    path = task.path if file is None else f"{Path(file).resolve()}:{qualname}"
    nameless = "<" in qualname or (module == "__main__" and file is None)
    return [path, task.fn] if nameless else path


def _shown(identity: Any) -> str:
    return identity if isinstance(identity, str) else f"{identity[0]}, by its code ({digest(identity)[:16]})"


def _why_none(task: TaskSpec) -> str:
    if settings.current().tasks_disable_caching:
        return "ORCHESTRA_TASKS_DISABLE_CACHING is set"
    if isinstance(task.cache_policy, NoCache):
        return "its policy is NO_CACHE"
    if task.persist_result is False:
        return "persist_result=False: its result is not kept"
    return "it names no cache_policy and no cache_key_fn"


def _say(context: TaskRunContext, sentence: str) -> None:
    told = (context.flow_run_id, context.task.path, sentence)
    if told in _said:
        return
    if len(_said) >= _SAID_MOST:
        _said.clear()
    _said.add(told)
    engine_logger(context).warning("%s %s", context.task_run_name, sentence)
