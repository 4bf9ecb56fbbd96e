"""Deployments: a flow with parameters, a place to run, and times to start, kept in the database.

`Deployment.build_from_flow(…).apply()` writes one down; `run_deployment("flow/name")` starts a run of it, which a
worker loads by the entrypoint that was recorded.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Unpack

from orchestra import lazy
from orchestra.deployment_options import (
    ENTRYPOINT_TYPES,
    DeploymentOptions,
    check_options,
    concurrency_of,
    schedules_of,
)
from orchestra.docker import DockerImage
from orchestra.engine import definitions
from orchestra.engine import work_pools as acting
from orchestra.engine.parameters import signature, validate
from orchestra.errors import ConfigurationError, DefinitionError, NotImportable, SignatureMismatchError
from orchestra.handles import FlowRunHandle, in_thread
from orchestra.hooks import has_final_hooks
from orchestra.names import pool_queue
from orchestra.schedules import Schedule
from orchestra.serializers import clean_text
from orchestra.specs import FlowSpec, require_importable
from orchestra.store import deployments as store
from orchestra.store import work_pools
from orchestra.store.database import database
from orchestra.store.tables import LONGEST_NAME
from orchestra.work_pools import check_job, type_named

logger = logging.getLogger("orchestra.deployments")


@dataclass(slots=True)
class Deployment:
    """One deployment, to be written down by `apply()`."""

    #: The flow's spec.
    flow: FlowSpec
    name: str
    #: `file.py:qualname` or `module:qualname`, by which a worker loads the flow.
    entrypoint: str
    description: str = ""
    version: str | None = None
    tags: list[str] = field(default_factory=list)
    #: As JSON holds them.
    parameters: dict[str, Any] = field(default_factory=dict)
    parameter_openapi_schema: dict[str, Any] = field(default_factory=dict)
    enforce_parameter_schema: bool = True
    #: None: those that it has stay.
    schedules: list[Schedule] | None = None
    paused: bool | None = None
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = field(default_factory=dict)
    concurrency_limit: int | None = None
    collision_strategy: str = "ENQUEUE"
    triggers: list[Any] = field(default_factory=list)
    pull_steps: list[Any] | None = None
    #: The Celery queue of its runs, where no pool says it; empty: as Celery routes the flow.
    queue: str = ""

    @classmethod
    def build_from_flow(cls, flow: Any, name: str, **options: Unpack[DeploymentOptions]) -> Deployment:
        """A deployment of `flow`; `DeploymentOptions` says what can be set.

        Raises:
            DefinitionError: It is no flow, or an option is unknown.
            NotImportable: No worker could load the flow; says where to put it.
            ConfigurationError: A name, schedule or limit cannot be read.
            ParameterError: The parameters do not fit the flow.
        """
        spec = getattr(flow, "spec", None)
        if not isinstance(spec, FlowSpec):
            raise DefinitionError(f"a deployment is made of a flow, not of {flow!r}: decorate the function with @flow")
        source = getattr(flow, "source", None)
        entrypoint = source.entrypoint if source is not None else entrypoint_of(spec, options.get("entrypoint_type"))
        made = _made(spec, name, entrypoint, options)
        made.pull_steps = None if source is None else source.pull_steps
        return made

    @classmethod
    def from_entrypoint(cls, entrypoint: str, name: str, **options: Unpack[DeploymentOptions]) -> Deployment:
        """A deployment of the flow at `file.py:flow` or `module:flow`. As `build_from_flow` otherwise.

        Raises:
            DefinitionNotFound: It cannot be imported here, or is no flow.
        """
        definitions.see_working_directory()
        where, _, qualname = entrypoint.rpartition(":")
        if not where or not qualname:
            raise ConfigurationError(f"the entrypoint {entrypoint!r} must read file.py:flow or module:flow")
        spec = definitions.object_at(entrypoint, FlowSpec, "flow").spec
        found = f"{Path(where).resolve()}:{qualname}" if where.endswith(".py") else entrypoint
        return _made(spec, name, found, options)

    @property
    def full_name(self) -> str:
        """`flow/deployment`."""
        return f"{self.flow.name}/{self.name}"

    def apply(self, work_pool_name: str | None = None, image: str | DockerImage | None = None) -> str:
        """Write it down, in place of an earlier one of its name; gives its id. Safe to repeat.

        Args:
            work_pool_name: In the place of its own.
            image: That its runs start in, where its pool's type has images.

        Raises:
            ConfigurationError: Its pool does not take its job variables, or a queue's name cannot be one.
            StoreError: The database did not take it.
        """
        pool_name = work_pool_name or self.work_pool_name
        if image is not None:
            reference = image.reference if isinstance(image, DockerImage) else image
            self.job_variables = {**self.job_variables, "image": reference}
        if self.triggers:
            warnings.warn(
                f"the triggers of deployment {self.full_name!r} are kept, and nothing acts on them yet", stacklevel=2
            )
        pool = None if pool_name is None else self._prepare_pool(pool_name)
        has_image = pool is not None and type_named(pool.type).has_image
        new = store.NewDeployment(
            name=self.name,
            flow_name=clean_text(self.flow.name),
            entrypoint=relative(self.entrypoint) if has_image or self.pull_steps else self.entrypoint,
            queue=self.queue if pool_name is None else pool_queue(pool_name, self.work_queue_name),
            description=clean_text(self.description),
            version=self.version,
            tags=[clean_text(tag) for tag in self.tags],
            parameters=self.parameters,
            parameter_schema=self.parameter_openapi_schema,
            enforce_parameter_schema=self.enforce_parameter_schema,
            work_pool_name=pool_name,
            work_queue_name=self.work_queue_name,
            job_variables=self.job_variables,
            pull_steps=self.pull_steps,
            concurrency_limit=self.concurrency_limit,
            collision_strategy=self.collision_strategy,
            triggers=self.triggers,
            paused=self.paused,
            options=definitions.encoded_options(self.flow),
            flow_version=self.flow.version,
            priority=self.flow.priority,
            timeout_seconds=self.flow.timeout_seconds,
            has_hooks=has_final_hooks(self.flow),
        )
        return acting.keep_deployment(database(), new, self.schedules)

    def _prepare_pool(self, name: str) -> work_pools.WorkPool | None:
        work_pools.check_name("work pool", name)
        pool = work_pools.find(database(), name)
        if pool is None:
            warnings.warn(
                f"there is no work pool {name!r}: deployment {self.full_name!r} is kept, and NOT_READY until "
                f"`orchestra work-pool create {name}` has made it",
                stacklevel=3,
            )
            return None
        check_job(pool.type, pool.base_job_template, self.job_variables, f"deployment {self.full_name!r}")
        if self.work_queue_name is not None:
            work_pools.keep_queue(database(), name, self.work_queue_name)
        return pool


def deploy(
    *deployments: Deployment,
    work_pool_name: str | None = None,
    image: str | DockerImage | None = None,
    build: bool = True,
    push: bool = True,
    print_next_steps: bool = True,
    ignore_warnings: bool = False,
) -> list[str]:
    """Write deployments down for a work pool, their image built and pushed before; gives their ids.

    Args:
        work_pool_name: In the place of their own.
        image: That their runs start in; built and pushed if it is a `DockerImage`, or a name with `build=True`.
        build: Whether to build it.
        push: Whether to push what was built.
        print_next_steps: Say how to start a worker and a run.
        ignore_warnings: Do not warn of what is kept without effect.

    Raises:
        DefinitionError: Something is no deployment.
        ConfigurationError: Neither they nor `work_pool_name` name a pool.
        ImageNotBuilt: The image could not be built or pushed; nothing was written.
    """
    for each in deployments:
        if not isinstance(each, Deployment):
            raise DefinitionError(f"deploy() takes deployments, as flow.to_deployment(…) makes them, not {each!r}")
        if not (work_pool_name or each.work_pool_name):
            raise ConfigurationError(
                f"deployment {each.full_name!r} names no work pool: give work_pool_name=, or use serve() to run it in "
                "this process"
            )
    if image is not None and build:
        built = image if isinstance(image, DockerImage) else DockerImage(image)
        built.build()
        if push:
            built.push()
    with warnings.catch_warnings():
        if ignore_warnings:
            warnings.simplefilter("ignore")
        ids = [each.apply(work_pool_name, image) for each in deployments]
    if print_next_steps:
        _say_next_steps([(each.full_name, work_pool_name or str(each.work_pool_name)) for each in deployments])
    return ids


def run_deployment(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    scheduled_time: datetime | None = None,
    flow_run_name: str | None = None,
    timeout: float | timedelta | None = None,
    poll_interval: float | None = None,
    tags: Iterable[str] | None = None,
    idempotency_key: str | None = None,
    work_queue_name: str | None = None,
    as_subflow: bool = True,
    job_variables: Mapping[str, Any] | None = None,
) -> FlowRunHandle:
    """Start a run of a deployment, and wait for it; gives its handle (`.id`, `.state`, `.result()`).

    From a flow body on a worker this is a step: a replay starts no second run, and the wait holds no slot.

    Args:
        name: `flow/deployment`, or its id.
        parameters: Over those of the deployment.
        scheduled_time: When it is to start; a naive one is read as UTC. None: now.
        flow_run_name: Name of the run; else two random words.
        timeout: Seconds to wait for its end; 0: not at all; None: as long as it takes. The run goes on after it.
        poll_interval: Taken for Prefect's sake; an end is noticed sooner.
        tags: Beside those of the deployment and those in force here.
        idempotency_key: A later call with the same key returns the same run, whatever its state.
        work_queue_name: Another queue of the deployment's pool; of a deployment without a pool, a Celery queue.
        as_subflow: In a flow: make it a child of that one's run, and cancel it with that.
        job_variables: Over those of the deployment.

    Raises:
        DeploymentNotFound: There is none of this name.
        NoBroker: There is neither an app nor a broker to send it through.
        ParameterTypeError: The parameters do not fit the deployment's schema; no run was made.
        IdempotencyConflict: The key was used with other parameters.
    """
    handle: FlowRunHandle = lazy.load("start_deployment")(
        name,
        parameters or {},
        scheduled_time=scheduled_time,
        flow_run_name=flow_run_name,
        tags=tags or (),
        idempotency_key=idempotency_key,
        work_queue_name=work_queue_name,
        as_subflow=as_subflow,
        job_variables=job_variables,
    )
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds != 0:
        handle.wait(seconds)
    return handle


async def arun_deployment(
    name: str, parameters: Mapping[str, Any] | None = None, *, timeout: float | timedelta | None = None, **options: Any
) -> FlowRunHandle:
    """`run_deployment` for coroutines: the event loop goes on while the run is waited for.

    Args:
        name: `flow/deployment`, or its id.
        parameters: Over those of the deployment.
        timeout: Seconds to wait for its end; 0: not at all; None: as long as it takes.
        options: As of `run_deployment`.

    Raises:
        DeploymentNotFound: There is none of this name. The others as `run_deployment`.
    """
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    handle = await in_thread(lambda: run_deployment(name, parameters, timeout=0, **options))
    if seconds != 0:
        await handle.wait_async(seconds)
    return handle


def initialize_project(folder: str | Path | None = None) -> Path:
    """Write a project file to begin with, as `orchestra deploy init` does; gives its path.

    Args:
        folder: Where; None: the working directory.

    Raises:
        ConfigurationError: There is a project file, which stays as it is.
    """
    written: Path = lazy.load("project_file")(Path(folder) if folder is not None else Path.cwd())
    return written


def entrypoint_of(spec: FlowSpec, kind: Any = None) -> str:
    """By what a worker loads a flow: `file.py:qualname`, the file with its whole path, or `module:qualname`.

    Args:
        kind: "file_path" or "module_path"; None: by file, but for modules within packages, whose relative imports work
            only as modules.

    Raises:
        NotImportable: No worker could load it; says where to put it.
        ConfigurationError: There is no such kind.
    """
    kind = getattr(kind, "value", kind)
    if kind is not None and str(kind).lower() not in ENTRYPOINT_TYPES:
        raise ConfigurationError(f"entrypoint_type= is one of {', '.join(ENTRYPOINT_TYPES)}, not {kind!r}")
    module, _, qualname = spec.path.partition(":")
    if module != "__main__":
        require_importable(spec.path, "flow")
    file, _, in_file = (spec.entrypoint or "").rpartition(":")
    by_module = kind is not None and str(kind).lower() == "module_path"
    if by_module or (kind is None and "." in module and not module.endswith(".py")):
        if module == "__main__":
            raise NotImportable(f"flow {qualname!r} lives in `__main__`, which has no name that a worker could import")
        return spec.path
    if "<" in in_file or not os.path.isfile(file):
        raise NotImportable(
            f"flow {spec.name!r} is in no file that a worker could load ({file or spec.path!r}): put it at the top "
            "level of a script or module, and deploy it from there"
        )
    return f"{os.path.abspath(file)}:{in_file}"


def relative(entrypoint: str) -> str:
    """An entrypoint as it is seen from the working directory, where that holds its file."""
    file, _, qualname = entrypoint.rpartition(":")
    path, here = Path(file), Path.cwd()
    return f"{path.relative_to(here)}:{qualname}" if path.is_relative_to(here) else entrypoint


def _made(spec: FlowSpec, name: str, entrypoint: str, options: Mapping[str, Any]) -> Deployment:
    check_options(options, "a deployment")
    _check_name(name)
    limit, strategy = concurrency_of(options)
    schema = lazy.load("parameter_schema")(spec.fn)
    schedules = schedules_of(options)
    return Deployment(
        flow=spec,
        name=name,
        entrypoint=entrypoint,
        description=options.get("description") or spec.description,
        version=options.get("version") or spec.version,
        tags=sorted(set(options.get("tags") or ())),
        parameters=fitting(spec.fn, options.get("parameters") or {}),
        parameter_openapi_schema=schema,
        enforce_parameter_schema=options.get("enforce_parameter_schema", True),
        schedules=None if schedules is None else [_with_fitting(spec, each) for each in schedules],
        paused=options.get("paused"),
        work_pool_name=options.get("work_pool_name"),
        work_queue_name=options.get("work_queue_name"),
        job_variables=dict(options.get("job_variables") or {}),
        concurrency_limit=limit,
        collision_strategy=strategy,
        triggers=[_as_json(each) for each in options.get("triggers") or ()],
        queue=spec.queue or "",
    )


def _check_name(name: str) -> None:
    if not name or len(name) > LONGEST_NAME or set(name) & set("/%&<>"):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a deployment: it has 1 to {LONGEST_NAME} characters, and none of / % & < >"
        )


def fitting(fn: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Some of the parameters of a flow, checked against its annotations, as JSON holds them.

    Raises:
        SignatureMismatchError: A name is unknown.
        ParameterTypeError: A value does not fit, or JSON cannot hold it.
    """
    known = signature(fn).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    if not takes_any and (unknown := sorted(set(parameters) - set(known))):
        raise SignatureMismatchError(f"the flow has no parameter {', '.join(map(repr, unknown))}: it has {list(known)}")
    validate(fn, {name: value for name, value in parameters.items() if name in known})
    made: dict[str, Any] = lazy.load("serialize_parameters")(parameters)
    return made


def _with_fitting(spec: FlowSpec, schedule: Schedule) -> Schedule:
    return replace(schedule, parameters=fitting(spec.fn, schedule.parameters))


def _as_json(value: Any) -> Any:
    return lazy.load("input_schema").as_json(value)


def _say_next_steps(deployed_to: list[tuple[str, str]]) -> None:
    for full_name, pool in deployed_to:
        sys.stderr.write(f"Deployed {full_name!r} to work pool {pool!r}\n")
    if deployed_to:
        full_name, pool = deployed_to[-1]
        sys.stderr.write(f"Start a worker: orchestra worker start --pool {pool}\n")
        sys.stderr.write(f"Start a run:    orchestra deployment run {full_name!r}\n")
