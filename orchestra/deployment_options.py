"""The options of a deployment, and of a run of one, as those who make them take them. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

from orchestra.errors import ConfigurationError, DefinitionError
from orchestra.schedules import Cron, Interval, RRule, Schedule

#: What becomes of a run beyond a deployment's concurrency limit: it waits, or it is cancelled.
COLLISION_STRATEGIES = ("ENQUEUE", "CANCEL_NEW")
#: How a worker finds the flow: by its file, or by its module's name.
ENTRYPOINT_TYPES = ("file_path", "module_path")


class DeploymentOptions(TypedDict, total=False):
    """The options of a deployment. Of `interval`, `cron`, `rrule`, `schedule` and `schedules` one is given."""

    #: Seconds, a timedelta, or several.
    interval: float | timedelta | Iterable[float | timedelta] | None
    #: A cron expression, or several.
    cron: str | Iterable[str] | None
    #: A recurrence rule, or several.
    rrule: str | Iterable[str] | None
    schedule: Schedule | None
    #: None: those that the deployment has stay; an empty list: it has none any more.
    schedules: Sequence[Schedule | Mapping[str, Any]] | None
    #: None: as it is; a new one is not paused.
    paused: bool | None
    #: For those that a run is not given.
    parameters: Mapping[str, Any] | None
    #: Default: the flow's.
    description: str | None
    tags: Iterable[str] | None
    #: Default: the flow's.
    version: str | None
    #: Whether the parameters of a run are checked against the flow's annotations where it is started.
    enforce_parameter_schema: bool
    #: Kept; nothing acts on them yet.
    triggers: Sequence[Any] | None
    work_pool_name: str | None
    work_queue_name: str | None
    #: Over the pool's base job template.
    job_variables: Mapping[str, Any] | None
    #: How many of its runs may be at work at once; or Prefect's `{"limit": 1, "collision_strategy": "CANCEL_NEW"}`.
    concurrency_limit: int | Mapping[str, Any] | None
    #: What becomes of one more.
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] | None
    #: "file_path" (the default, but for modules in packages) or "module_path".
    entrypoint_type: Literal["file_path", "module_path"] | None


class RunOptions(TypedDict, total=False):
    """The options of a run of a deployment; `run_deployment` says what each is."""

    scheduled_time: datetime | None
    flow_run_name: str | None
    tags: Iterable[str]
    idempotency_key: str | None
    work_queue_name: str | None
    as_subflow: bool
    job_variables: Mapping[str, Any] | None


def check_options(options: Mapping[str, Any], what: str) -> None:
    """Refuse options that there are not.

    Raises:
        DefinitionError: Names them, and those that there are.
    """
    known = DeploymentOptions.__annotations__
    if unknown := sorted(options.keys() - known.keys()):
        raise DefinitionError(f"{what} has no option {', '.join(map(repr, unknown))}: it has {', '.join(known)}")


def schedules_of(options: Mapping[str, Any]) -> list[Schedule] | None:
    """The schedules that options name; None where they say nothing of any.

    Raises:
        ConfigurationError: More than one of the shortcuts is given, or one cannot be read.
    """
    kinds = ("interval", "cron", "rrule", "schedule", "schedules")
    given = [name for name in kinds if options.get(name) is not None]
    if len(given) > 1:
        raise ConfigurationError(f"a deployment is given one of {', '.join(kinds)}, not {' and '.join(given)}")
    if not given:
        return None
    value = options[given[0]]
    if given[0] == "schedule":
        return [schedule_from(value)]
    if given[0] == "schedules":
        return [schedule_from(each) for each in value]
    make: Any = {"interval": Interval, "cron": Cron, "rrule": RRule}[given[0]]
    single = isinstance(value, (str, int, float, timedelta))
    return [make(each) for each in ([value] if single else value)]


def schedule_from(value: Any) -> Schedule:
    """A schedule, or one as a mapping of its fields, as a file has it.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(value, Schedule):
        return value
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"a schedule is made by Cron, Interval or RRule, or is a mapping, not {value!r}")
    fields = {name: each for name, each in value.items() if each is not None}
    if isinstance(fields.get("interval"), (int, float)):
        fields["interval"] = timedelta(seconds=fields["interval"])
    try:
        return Schedule(**fields)
    except TypeError as error:
        known = ", ".join(Schedule.__slots__)
        raise ConfigurationError(f"a schedule has {known}; given: {', '.join(map(str, value))}") from error


def concurrency_of(options: Mapping[str, Any]) -> tuple[int | None, str]:
    """The concurrency limit that options name, and what becomes of one run more.

    Raises:
        ConfigurationError: It cannot be read.
    """
    limit, strategy = options.get("concurrency_limit"), options.get("collision_strategy")
    if isinstance(limit, Mapping):
        limit, strategy = limit.get("limit", limit.get("concurrency")), limit.get("collision_strategy", strategy)
    strategy = str(strategy or COLLISION_STRATEGIES[0]).upper()
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ConfigurationError(f"concurrency_limit= is a number of runs from 1, not {limit!r}")
    if strategy not in COLLISION_STRATEGIES:
        raise ConfigurationError(f"collision_strategy= is one of {', '.join(COLLISION_STRATEGIES)}, not {strategy!r}")
    return limit, strategy
