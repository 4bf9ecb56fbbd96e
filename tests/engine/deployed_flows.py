"""Flows that are deployed, and ask which deployment's run they are."""

from __future__ import annotations

from orchestra import flow, runtime, task


def seen():
    """All that `runtime.deployment` says."""
    here = runtime.deployment
    return [here.name, here.version, here.flow_run_id, here.parameters, here.id is not None]


@task
def in_task():
    return seen()


@flow
def in_subflow():
    return seen()


@flow
def told_of_its_parent():
    return runtime.flow_run.parent_deployment_id


@flow(flow_run_name="from {region} to {target}")
def everywhere(region: str, target: str = "home"):
    return [
        seen(),
        in_task.submit().result(),
        in_subflow(),
        runtime.flow_run.name,
        [runtime.flow_run.parent_deployment_id, told_of_its_parent()],
    ]
