"""The types of work pools: what a pool of each can be told, and how a run's job is made of that.

A type is one class here, for what it is told, and one in `orchestra/workers/`, which it names, for what that does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from orchestra import lazy, sizes
from orchestra.errors import ConfigurationError

_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")


def _text(title: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "title": title, **more}


def _mapping(title: str) -> dict[str, Any]:
    return {"type": "object", "title": title, "additionalProperties": {"type": ["string", "null"]}, "default": {}}


class WorkPoolType:
    """One type of work pool."""

    #: As `--type` names it.
    name: ClassVar[str]
    description: ClassVar[str]
    #: Runs start in a file system of their own, an image's: entrypoints are relative to its working directory.
    has_image: ClassVar[bool] = False
    #: `module:class` of the `JobWorker` that carries its runs out.
    worker: ClassVar[str]
    #: JSON schemas of what a pool and its deployments may set, by name.
    variables: ClassVar[dict[str, Any]]

    @classmethod
    def base_job_template(cls) -> dict[str, Any]:
        """The template that a new pool of this type has, if it is given none."""
        return {
            "job_configuration": {name: f"{{{{ {name} }}}}" for name in cls.variables},
            "variables": {"type": "object", "properties": cls.variables},
        }

    @classmethod
    def check(cls, configuration: Mapping[str, Any]) -> None:
        """Refuse the filled-in configuration of a job that contradicts itself.

        Raises:
            ConfigurationError: Says what is wrong, and what to do.
        """


class ProcessPool(WorkPoolType):
    """Runs in the processes of Celery workers, or in processes that these start."""

    name = "process"
    description = "Runs flows in the processes of Celery workers that consume the pool's queues, or in processes below."
    worker = "orchestra.workers.process:ProcessWorker"
    #: What only a process of the run's own can have.
    _OF_A_PROCESS = ("command", "env", "working_dir", "timeout_seconds", "memory_limit")
    variables: ClassVar[dict[str, Any]] = {
        "isolation": {
            "enum": ["worker", "subprocess", None],
            "title": "Isolation",
            "description": "Where a run goes on: in the worker's own process, or in one that ends with it. "
            "Left out: in one of its own where any other variable is set.",
            "default": None,
        },
        "command": {
            "type": ["string", "null"],
            "title": "Command",
            "description": "What starts the process, in place of this Python; ends in `-m orchestra.workers.execute`.",
            "default": None,
        },
        "env": _mapping("Environment Variables"),
        "working_dir": {"type": ["string", "null"], "title": "Working Directory", "default": None},
        "timeout_seconds": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "title": "Time Limit (Seconds)",
            "description": "How long a process may take; then it is ended, whatever it does.",
            "default": None,
        },
        "memory_limit": {
            "type": ["integer", "string", "null"],
            "exclusiveMinimum": 0,
            "pattern": sizes.PATTERN,
            "title": "Memory Limit",
            "description": "Resident memory of the process and all that it starts: bytes, or as in 512MiB.",
            "default": None,
        },
        "grace_seconds": {
            "type": "number",
            "minimum": 0,
            "title": "Grace (Seconds)",
            "description": "How long a process may take to end when it is told to; then it is killed.",
            "default": 10,
        },
    }

    @classmethod
    def in_subprocess(cls, configuration: Mapping[str, Any]) -> bool:
        """Whether a run with this configuration has a process of its own."""
        chosen = configuration.get("isolation")
        return chosen == "subprocess" if chosen else bool(cls._needing(configuration))

    @classmethod
    def check(cls, configuration: Mapping[str, Any]) -> None:
        """Refuse what only a process of its own can have, for a run in the worker's."""
        needing = cls._needing(configuration)
        if configuration.get("isolation") == "worker" and needing:
            raise ConfigurationError(
                f'isolation is "worker", and {", ".join(needing)} can be set for a process of the run\'s own only: set '
                'isolation to "subprocess", or leave it out'
            )

    @classmethod
    def _needing(cls, configuration: Mapping[str, Any]) -> list[str]:
        return [name for name in cls._OF_A_PROCESS if configuration.get(name)]


class DockerPool(WorkPoolType):
    """Runs in containers of a Docker engine."""

    name = "docker"
    description = "Runs each flow run in a Docker container. What starts containers is not there yet."
    has_image = True
    worker = "orchestra.workers.containers:ComingLater"
    variables: ClassVar[dict[str, Any]] = {
        "image": _text("Image"),
        "command": {"type": ["string", "null"], "title": "Command", "default": None},
        "env": _mapping("Environment Variables"),
        "labels": _mapping("Labels"),
        "image_pull_policy": {
            "enum": ["IfNotPresent", "Always", "Never", None],
            "title": "Image Pull Policy",
            "default": None,
        },
        "networks": {"type": "array", "items": {"type": "string"}, "title": "Networks", "default": []},
        "network_mode": {"type": ["string", "null"], "title": "Network Mode", "default": None},
        "volumes": {"type": "array", "items": {"type": "string"}, "title": "Volumes", "default": []},
        "mem_limit": {"type": ["string", "null"], "title": "Memory Limit", "default": None},
        "auto_remove": {"type": "boolean", "title": "Auto Remove", "default": False},
    }


class KubernetesPool(WorkPoolType):
    """Runs in jobs of a Kubernetes cluster."""

    name = "kubernetes"
    description = "Runs each flow run as a Kubernetes job. What starts jobs is not there yet."
    has_image = True
    worker = "orchestra.workers.containers:ComingLater"
    variables: ClassVar[dict[str, Any]] = {
        "image": _text("Image"),
        "namespace": _text("Namespace", default="default"),
        "command": {"type": ["string", "null"], "title": "Command", "default": None},
        "env": _mapping("Environment Variables"),
        "labels": _mapping("Labels"),
        "service_account_name": {"type": ["string", "null"], "title": "Service Account Name", "default": None},
        "image_pull_policy": {
            "enum": ["IfNotPresent", "Always", "Never"],
            "title": "Image Pull Policy",
            "default": "IfNotPresent",
        },
        "backoff_limit": {"type": "integer", "minimum": 0, "title": "Backoff Limit", "default": 0},
        "finished_job_ttl": {"type": ["integer", "null"], "title": "Finished Job TTL", "default": None},
    }


TYPES: dict[str, type[WorkPoolType]] = {kind.name: kind for kind in (ProcessPool, DockerPool, KubernetesPool)}


def type_named(name: str) -> type[WorkPoolType]:
    """The type of this name.

    Raises:
        ConfigurationError: There is none; names those that there are.
    """
    if name not in TYPES:
        raise ConfigurationError(f"there is no work pool type {name!r}: there are {', '.join(TYPES)}")
    return TYPES[name]


def check_template(template: Any) -> None:
    """Refuse a base job template that cannot be filled in.

    Raises:
        ConfigurationError: Says what is wrong.
    """
    if not isinstance(template, Mapping) or not {"job_configuration", "variables"} <= template.keys():
        raise ConfigurationError('a base job template is an object with "job_configuration" and "variables"')
    known = template["variables"].get("properties", {})
    asked = {name for each in _strings(template["job_configuration"]) for name in _PLACEHOLDER.findall(each)}
    if missing := sorted(asked - set(known)):
        raise ConfigurationError(f"the template's job_configuration asks for {missing}, which its variables have not")


def check_job_variables(template: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Refuse job variables that a pool does not take.

    Args:
        template: The pool's base job template.
        where: Who is given them, as in "deployment 'etl/nightly'".

    Raises:
        ConfigurationError: A name is unknown, or a value does not fit.
    """
    schema = template.get("variables", {})
    known = schema.get("properties", {})
    if unknown := sorted(given.keys() - known.keys()):
        raise ConfigurationError(
            f"{where} sets the job variables {unknown}, which its work pool has not: it has {sorted(known)}"
        )
    partial = {name: each for name, each in schema.items() if name != "required"}
    if problems := lazy.load("input_schema").problems(partial, dict(given)):
        raise ConfigurationError(f"the job variables of {where} do not fit: {'; '.join(problems)}")


def check_job(kind: str, template: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Refuse job variables that a pool does not take, or that contradict each other or the pool's own.

    Args:
        kind: The pool's type.
        template: The pool's base job template.
        given: The variables.
        where: Who is given them, as in "deployment 'etl/nightly'".

    Raises:
        ConfigurationError: Says what is wrong.
    """
    check_job_variables(template, given, where)
    try:
        type_named(kind).check(job_of(template, given))
    except ConfigurationError as error:
        raise ConfigurationError(f"the job variables of {where} do not fit: {error}") from error


def job_of(template: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run's job: the template, filled in with these variables over its defaults."""
    properties = template.get("variables", {}).get("properties", {})
    values = {name: schema.get("default") for name, schema in properties.items()} | dict(given)
    filled: dict[str, Any] = _filled(template.get("job_configuration", {}), values)
    return filled


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _filled(each, values) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, values) for each in value]
    if not isinstance(value, str):
        return value
    if (whole := _PLACEHOLDER.fullmatch(value.strip())) is not None:
        return values.get(whole[1])
    return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], "")), value)


def _strings(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [each for item in value.values() for each in _strings(item)]
    if isinstance(value, list):
        return [each for item in value for each in _strings(item)]
    return [value] if isinstance(value, str) else []
