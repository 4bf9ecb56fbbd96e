"""Flows whose bodies say what tags they see."""

from __future__ import annotations

from orchestra import flow, runtime, tags, task


@task(tags=["io"])
def load() -> list[str]:
    return runtime.task_run.tags


@task
def plain() -> list[str]:
    return runtime.task_run.tags


@flow
def child() -> list[str]:
    return runtime.flow_run.tags


@flow
def tagged() -> dict[str, list[str]]:
    with tags("inner"):
        submitted, below = plain.submit(), child()
    return {"run": runtime.flow_run.tags, "direct": load(), "submitted": submitted.result(), "child": below}


@flow(static=True)
def planned() -> object:
    return [plain.submit(), load.submit()]
