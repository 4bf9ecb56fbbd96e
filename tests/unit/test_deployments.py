"""Deployments from Python: what is written down, what is checked, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestra import flow
from orchestra.deployments import Deployment, deploy
from orchestra.docker import DockerImage
from orchestra.engine.validation import schema
from orchestra.errors import (
    ConfigurationError,
    DefinitionError,
    ImageNotBuilt,
    NotImportable,
    ParameterTypeError,
    SignatureMismatchError,
    SourceUnavailable,
)
from orchestra.schedules import Cron
from orchestra.store import deployments, work_pools
from orchestra.store.database import database

pytestmark = pytest.mark.filterwarnings("error")


@flow
def etl(day: date, limit: int = 10, anything: object = None, *rest: str) -> None:
    """Loads a day."""


def read(name: str = "nightly") -> deployments.Deployment:
    """The deployment of `etl`."""
    return deployments.read(database(), f"etl/{name}")


def test_a_deployment_is_written_down_with_what_its_flow_says() -> None:
    """Its file, description, and the schema of its parameters."""
    made = Deployment.build_from_flow(etl, "nightly", parameters={"day": date(2026, 1, 2)}, tags=["b", "a"])
    assert made.entrypoint == f"{__name__}:etl", "a module in a package is loaded as such"
    made = Deployment.build_from_flow(
        etl, "nightly", parameters={"day": date(2026, 1, 2)}, tags=["b", "a"], entrypoint_type="file_path"
    )

    deployment_id = made.apply()

    found = read()
    assert (found.id, found.entrypoint) == (deployment_id, f"{__file__}:etl")
    assert (found.description, found.tags, found.parameters) == ("Loads a day.", ("a", "b"), {"day": "2026-01-02"})
    assert found.status == "NOT_READY", "no worker is there"


def test_the_schema_says_what_each_parameter_takes() -> None:
    """What JSON cannot describe takes anything, and what is not named is refused."""
    found = schema(etl.fn)

    assert found["required"] == ["day"]
    assert found["additionalProperties"] is False
    kinds = {name: (each.get("type"), each.get("format")) for name, each in found["properties"].items()}
    assert kinds == {"day": ("string", "date"), "limit": ("integer", None), "anything": (None, None)}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cron": "0 9 * * *"}, [("cron", "0 9 * * *")]),
        ({"interval": 60}, [("interval", 60.0)]),
        ({"interval": [60, timedelta(hours=1)]}, [("interval", 60.0), ("interval", 3600.0)]),
        ({"rrule": "FREQ=DAILY"}, [("rrule", "FREQ=DAILY")]),
        ({"schedule": Cron("0 9 * * *")}, [("cron", "0 9 * * *")]),
        ({"schedules": [{"interval": 60}, Cron("@daily")]}, [("interval", 60.0), ("cron", "@daily")]),
    ],
)
def test_schedules_are_given_in_each_of_prefects_ways(options: Any, told: list[tuple[str, Any]]) -> None:
    """One at a time."""
    etl.to_deployment("nightly", **options).apply()

    assert [(kind, getattr(each, kind)) for each, (kind, _) in zip(read().schedules, told, strict=True)] == told


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"cron": "0 9 * * *", "interval": 60}, ConfigurationError, "one of .*, not interval and cron"),
        ({"parameters": {"limit": "many"}}, ParameterTypeError, "'limit'"),
        ({"parameters": {"no": 1}}, SignatureMismatchError, "no parameter 'no'"),
        ({"schedule": Cron("0 9 * * *", parameters={"limit": "x"})}, ParameterTypeError, "'limit'"),
        ({"no_such": 1}, DefinitionError, "no option 'no_such'"),
        ({"concurrency_limit": 0}, ConfigurationError, "from 1"),
        ({"concurrency_limit": 1, "collision_strategy": "DROP"}, ConfigurationError, "ENQUEUE, CANCEL_NEW"),
    ],
)
def test_a_wrong_option_is_named(options: Any, kind: type[Exception], told: str) -> None:
    """Before anything is written."""
    with pytest.raises(kind, match=told):
        etl.to_deployment("nightly", **options)


@pytest.mark.parametrize("name", ["", "a/b", "a%"])
def test_a_wrong_name_is_refused(name: str) -> None:
    """One that could not be told from a flow's."""
    with pytest.raises(ConfigurationError, match="name of a deployment"):
        etl.to_deployment(name)


def test_an_unknown_pool_warns_and_keeps_the_deployment() -> None:
    """NOT_READY until the pool is made."""
    with pytest.warns(UserWarning, match="orchestra work-pool create later"):
        etl.to_deployment("nightly", work_pool_name="later").apply()

    assert (read().status, read().queue) == ("NOT_READY", "later")


def test_triggers_are_kept_with_a_warning() -> None:
    """Nothing acts on them yet."""
    with pytest.warns(UserWarning, match="nothing acts on them"):
        etl.to_deployment("nightly", triggers=[{"expect": ["a"]}]).apply()

    assert read().triggers == ({"expect": ["a"]},)


def test_a_concurrency_limit_is_kept() -> None:
    """In both of Prefect's forms."""
    etl.to_deployment("nightly", concurrency_limit={"limit": 2, "collision_strategy": "CANCEL_NEW"}).apply()

    assert (read().concurrency_limit, read().collision_strategy) == (2, "CANCEL_NEW")


def test_a_flow_in_a_function_cannot_be_deployed() -> None:
    """No worker could load it."""

    @flow
    def inner() -> None: ...

    with pytest.raises(NotImportable, match="function"):
        inner.to_deployment("nightly")


def test_a_script_deploys_its_own_flows(tmp_path: Path) -> None:
    """By its file, as a worker will load them."""
    script = tmp_path / "script.py"
    script.write_text(
        "from orchestra import flow\n@flow\ndef etl(): ...\n"
        "if __name__ == '__main__':\n    etl.to_deployment('nightly').apply()\n"
    )

    subprocess.run([sys.executable, script.name], cwd=tmp_path, check=True)

    assert read().entrypoint == f"{script}:etl"


# -- images and pools --------------------------------------------------------------------------------------------


def test_without_an_engine_a_build_says_how_to_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is written."""
    monkeypatch.setenv("PATH", str(tmp_path))
    work_pools.create(database(), "docker", "docker")

    with pytest.raises(ImageNotBuilt, match="build=False"):
        etl.deploy("nightly", work_pool_name="docker", image=DockerImage("etl"))
    assert deployments.find(database(), "etl/nightly") is None


def test_an_image_is_built_and_pushed_by_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its tag, from the Dockerfile that is named."""
    engine = tmp_path / "docker"
    engine.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    engine.chmod(0o755)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    image = DockerImage("etl", "1.2", "Dockerfile", {"target": "prod"})

    image.build()
    image.push()

    called = (tmp_path / "calls").read_text().splitlines()
    assert called == ["info", "build --tag etl:1.2 --target prod --file Dockerfile .", "info", "push etl:1.2"]


def test_a_pool_of_images_is_deployed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the image among its job variables, and the flow's file as it lies in it."""
    monkeypatch.chdir(Path(__file__).parent)
    template = {"variables": {"properties": {"image": {"type": "string"}}}, "job_configuration": {}}
    work_pools.create(database(), "docker", "docker", base_job_template=template)

    etl.deploy(
        "nightly",
        work_pool_name="docker",
        image="etl:1",
        build=False,
        print_next_steps=False,
        entrypoint_type="file_path",
    )

    assert (read().job_variables, read().entrypoint) == ({"image": "etl:1"}, "test_deployments.py:etl")


def test_job_variables_are_those_of_the_pool() -> None:
    """Others are refused, and wrong values too."""
    template = {"variables": {"properties": {"image": {"type": "string"}}}, "job_configuration": {}}
    work_pools.create(database(), "docker", "docker", base_job_template=template)

    with pytest.raises(ConfigurationError, match="job variables \\['cpu'\\]"):
        etl.to_deployment("nightly", work_pool_name="docker", job_variables={"cpu": 1}).apply()
    with pytest.raises(ConfigurationError, match="'image'"):
        etl.to_deployment("nightly", work_pool_name="docker", job_variables={"image": 1}).apply()


def test_deploy_wants_a_pool() -> None:
    """Else nobody would know where to run it."""
    with pytest.raises(ConfigurationError, match="work_pool_name="):
        deploy(etl.to_deployment("nightly"))


# -- sources -----------------------------------------------------------------------------------------------------

CODE = "from orchestra import flow\n@flow\ndef fetched(n: int = 1): return n\n"


def test_a_flow_is_taken_from_a_folder(tmp_path: Path) -> None:
    """And deployed by its whole path."""
    (tmp_path / "flows.py").write_text(CODE)

    found = flow.from_source(tmp_path, "flows.py:fetched")
    found.to_deployment("nightly").apply()

    assert found(3) == 3
    assert deployments.read(database(), "fetched/nightly").entrypoint == f"{tmp_path}/flows.py:fetched"


def test_a_flow_is_taken_from_a_git_repository(tmp_path: Path) -> None:
    """Which workers clone, too: its branch as it stands then."""
    (tmp_path / "flows.py").write_text(CODE)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)

    found = flow.from_source(tmp_path.as_uri(), "flows.py:fetched", branch="main")
    found.to_deployment("nightly").apply()

    kept = deployments.read(database(), "fetched/nightly")
    assert found(4) == 4
    assert kept.entrypoint == "flows.py:fetched"
    assert kept.pull_steps == [{"git_clone": {"repository": tmp_path.as_uri(), "branch": "main"}}]


@pytest.mark.parametrize("source", ["--upload-pack=touch x", "ext::sh -c 'touch x'", "no such folder"])
def test_what_is_no_repository_is_not_handed_to_git(source: str) -> None:
    """Options and commands that git would run are none."""
    with pytest.raises(ConfigurationError, match="neither a folder here nor"):
        flow.from_source(source, "flows.py:fetched")


def test_a_repository_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    """With what git says."""
    with pytest.raises(SourceUnavailable, match="cannot be had"):
        flow.from_source((tmp_path / "none").as_uri(), "flows.py:fetched")
    with pytest.raises(ConfigurationError, match="branch or tag"):
        flow.from_source((tmp_path / "none").as_uri(), "flows.py:fetched", branch="--help")
