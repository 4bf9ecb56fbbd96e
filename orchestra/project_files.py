"""`orchestra.yaml`: deployments in a file, with the steps that build, push and pull their code.

The fields are those of `prefect.yaml`. `{{ $NAME }}` is a variable of the environment, `{{ id.output }}` an output of a
step before, `{{ name }}` one of the step just before, `{{ orchestra.variables.NAME }}` the value of a variable; a value
that is nothing else keeps the type.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from orchestra import lazy
from orchestra.deployments import Deployment
from orchestra.docker import DockerImage
from orchestra.errors import ConfigurationError
from orchestra.store import variables
from orchestra.store.database import database

#: The names under which the file is looked for.
FILE_NAMES = ("orchestra.yaml", "prefect.yaml")

_VARIABLE = re.compile(r"(?:orchestra|prefect)\.variables\.(\S+)")
_TEMPLATE = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")
_FIELDS = frozenset(
    "name version tags description entrypoint flow_name parameters concurrency_limit collision_strategy "
    "enforce_parameter_schema schedule schedules paused triggers work_pool build push pull".split()
)
#: Fields of a definition that `Deployment` takes as they are.
_OPTIONS = (
    "version",
    "tags",
    "description",
    "parameters",
    "concurrency_limit",
    "collision_strategy",
    "enforce_parameter_schema",
    "paused",
    "triggers",
)

STARTER = """\
# Deployments of this project: `orchestra deploy --all` writes them down.
name: {name}

# Steps before deploying, as in:
# build:
# - orchestra.deployments.steps.run_shell_script:
#     id: commit
#     script: git rev-parse --short HEAD

# How workers get the code, where it is not there already, as in:
# pull:
# - orchestra.deployments.steps.git_clone:
#     repository: https://example.org/me/{name}.git

deployments: []
# - name: nightly
#   entrypoint: flows.py:etl
#   parameters: {{}}
#   schedules:
#   - cron: "0 3 * * *"
#     timezone: Europe/Berlin
#   work_pool:
#     name: etl
"""


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A project's file, read. Deployments are as they are written: not filled in."""

    path: Path
    deployments: tuple[Mapping[str, Any], ...] = ()
    build: tuple[Any, ...] = ()
    push: tuple[Any, ...] = ()
    pull: tuple[Any, ...] = ()

    def chosen(self, names: Iterable[str], every: bool) -> list[Mapping[str, Any]]:
        """The definitions with these names (`deployment` or `flow/deployment`, with `*`); all; or the only one.

        Raises:
            ConfigurationError: None has such a name, or it is not said which of several is meant.
        """
        wanted = list(names)
        if every or (not wanted and len(self.deployments) == 1):
            return list(self.deployments)
        known = [str(each.get("name")) for each in self.deployments]
        if not wanted:
            raise ConfigurationError(f"say which to deploy: --all, or --name with one of {', '.join(known) or 'none'}")
        for pattern in wanted:
            if not any(_matches(each, pattern) for each in self.deployments):
                raise ConfigurationError(f"{self.path} has no deployment {pattern!r}: it has {', '.join(known)}")
        return [each for each in self.deployments if any(_matches(each, pattern) for pattern in wanted)]

    def deploy(self, definition: Mapping[str, Any], **over: Any) -> tuple[Deployment, str]:
        """Carry out a definition's build steps, write the deployment down, then push; gives it and its id.

        Args:
            over: Options that stand over those of the definition.

        Raises:
            ConfigurationError: Something in the definition cannot be read.
            DefinitionNotFound: Its flow cannot be imported here.
        """
        outputs = _run(definition.get("build", self.build))
        filled = _fill(dict(definition), outputs)
        made = _deployment(filled, self.path, over)
        outputs |= _run(definition.get("push", self.push), outputs)
        if pull := definition.get("pull", self.pull):
            made.pull_steps = _fill(list(pull), outputs)
        return made, made.apply()


def find() -> Path | None:
    """The project file of the working directory."""
    return next((Path(name) for name in FILE_NAMES if Path(name).is_file()), None)


def read(path: Path) -> ProjectFile:
    """Read a project file.

    Raises:
        ConfigurationError: It is not there, is no YAML, or has fields that there are not.
    """
    try:
        found = lazy.resolve("yaml:safe_load")(path.read_text())
    except (OSError, ValueError, lazy.resolve("yaml:YAMLError")) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, Mapping) or not isinstance(found.get("deployments") or [], list):
        raise ConfigurationError(f"{path} must be a mapping with a list of `deployments`")
    definitions = tuple(found.get("deployments") or ())
    for number, each in enumerate(definitions, 1):
        if not isinstance(each, Mapping):
            raise ConfigurationError(f"deployment {number} of {path} is no mapping")
        if unknown := sorted(set(each) - _FIELDS):
            raise ConfigurationError(
                f"deployment {each.get('name', number)!r} of {path} has the fields {unknown}, which there are not; "
                f"there are {', '.join(sorted(_FIELDS))}"
            )
    steps = {name: tuple(found.get(name) or ()) for name in ("build", "push", "pull")}
    return ProjectFile(path, definitions, **steps)


def initialize(folder: Path) -> Path:
    """Write a project file to begin with.

    Raises:
        ConfigurationError: There is one already.
    """
    path = folder / FILE_NAMES[0]
    try:
        with path.open("x") as file:
            file.write(STARTER.format(name=folder.resolve().name))
    except FileExistsError as error:
        raise ConfigurationError(f"{path} is there already") from error
    return path


def _matches(definition: Mapping[str, Any], pattern: str) -> bool:
    name = str(definition.get("name"))
    entry = str(definition.get("entrypoint", "")).rpartition(":")[2].replace("_", "-")
    flow = str(definition.get("flow_name") or entry)
    return fnmatchcase(name, pattern) or fnmatchcase(f"{flow}/{name}", pattern)


def _deployment(filled: Mapping[str, Any], path: Path, over: Mapping[str, Any]) -> Deployment:
    for needed in ("name", "entrypoint"):
        if not filled.get(needed):
            raise ConfigurationError(f"a deployment of {path} has no {needed}: {dict(filled)}")
    pool = filled.get("work_pool") or {}
    pool = {"name": pool} if isinstance(pool, str) else pool
    options = {name: filled[name] for name in _OPTIONS if filled.get(name) is not None}
    options |= {
        "schedules": _schedules(filled),
        "work_pool_name": pool.get("name"),
        "work_queue_name": pool.get("work_queue_name"),
        "job_variables": pool.get("job_variables") or {},
    }
    merged = {name: {**(options.get(name) or {}), **over.get(name, {})} for name in ("parameters", "job_variables")}
    given = {name: each for name, each in over.items() if each not in (None, [])}
    options = options | given | merged
    return Deployment.from_entrypoint(str(filled["entrypoint"]), str(filled["name"]), **options)


def _schedules(filled: Mapping[str, Any]) -> list[Any] | None:
    """Both of Prefect's forms; None where the definition says nothing of schedules."""
    if "schedules" in filled:
        return list(filled["schedules"] or ())
    if "schedule" in filled:
        return [filled["schedule"]] if filled["schedule"] else []
    return None


# -- steps -------------------------------------------------------------------------------------------------------


def _run(steps: Any, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Carry out steps in turn; what they give, by name, and by `id.name`."""
    outputs: dict[str, Any] = dict(before or {})
    for step in steps or ():
        if not isinstance(step, Mapping) or len(step) != 1:
            raise ConfigurationError(f"a step is a mapping of one name to its inputs, not {step!r}")
        name, given = next(iter(step.items()))
        verb = _STEPS.get(str(name).rpartition(".")[2])
        if verb is None:
            raise ConfigurationError(f"there is no step {name!r}: there are {', '.join(_STEPS)}")
        inputs = _fill(dict(given or {}), outputs)
        step_id = inputs.pop("id", None)
        inputs.pop("requires", None)
        try:
            found = verb(**inputs)
        except TypeError as error:
            raise ConfigurationError(f"the inputs of step {name!r} do not fit: {error}") from error
        outputs |= found
        if step_id is not None:
            outputs |= {f"{step_id}.{key}": value for key, value in found.items()}
    return outputs


def _run_shell_script(
    script: str, directory: str | None = None, env: Mapping[str, str] | None = None, stream_output: bool = True
) -> dict[str, Any]:
    surrounding = os.environ | {name: str(value) for name, value in (env or {}).items()}
    done = subprocess.run(
        ["sh", "-ec", script], cwd=directory, env=surrounding, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigurationError(f"the script {script.strip()!r} ended with {done.returncode}: {done.stderr.strip()}")
    return {"stdout": done.stdout.strip(), "stderr": done.stderr.strip()}


def _build_docker_image(
    image_name: str, tag: str | None = None, dockerfile: str = "auto", **more: Any
) -> dict[str, Any]:
    image = DockerImage(image_name, tag, dockerfile, {name: str(value) for name, value in more.items()})
    image.build()
    return _image_outputs(image)


def _push_docker_image(image_name: str, tag: str | None = None) -> dict[str, Any]:
    image = DockerImage(image_name, tag)
    image.push()
    return _image_outputs(image)


def _image_outputs(image: DockerImage) -> dict[str, Any]:
    name, _, tag = image.reference.rpartition(":")
    return {"image_name": name, "tag": tag, "image": image.reference}


_STEPS: dict[str, Any] = {
    "run_shell_script": _run_shell_script,
    "build_docker_image": _build_docker_image,
    "push_docker_image": _push_docker_image,
}


# -- templates ---------------------------------------------------------------------------------------------------


def _fill(value: Any, outputs: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _fill(each, outputs) for name, each in value.items()}
    if isinstance(value, list):
        return [_fill(each, outputs) for each in value]
    if not isinstance(value, str):
        return value
    if (whole := _TEMPLATE.fullmatch(value)) is not None:
        return _looked_up(whole[1], outputs)
    return _TEMPLATE.sub(lambda found: str(_looked_up(found[1], outputs)), value)


def _looked_up(name: str, outputs: Mapping[str, Any]) -> Any:
    if name.startswith("$"):
        if name[1:] not in os.environ:
            raise ConfigurationError(f"{{{{ {name} }}}}: the environment has no variable {name[1:]!r}")
        return os.environ[name[1:]]
    if (variable := _VARIABLE.fullmatch(name)) is not None:
        return _value_of(variable[1])
    if name not in outputs:
        raise ConfigurationError(
            f"there is nothing to put in the place of {{{{ {name} }}}}: the steps before gave "
            f"{', '.join(outputs) or 'nothing'}; a variable of the environment is written {{{{ $NAME }}}}"
        )
    return outputs[name]


def _value_of(name: str) -> Any:
    found = variables.find(database(), name)
    if found is None:
        raise ConfigurationError(
            f"{{{{ orchestra.variables.{name} }}}}: there is no variable {name!r}; set it by "
            f"`orchestra variable set {name} VALUE`"
        )
    return found.value
