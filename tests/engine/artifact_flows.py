"""Flows that show artifacts, and read and set variables."""

from __future__ import annotations

import asyncio
from typing import Any

import sqlalchemy as sa

from orchestra import flow, task
from orchestra.artifacts import (
    Artifact,
    acreate_markdown_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from orchestra.store.database import database
from orchestra.store.tables import steps
from orchestra.transactions import db_transaction, transaction
from orchestra.variables import Variable

#: What bodies did, in order.
effects: list[str] = []
#: Makes some bodies fail.
switch = {"fails": True}


@task
def part(number: int) -> int:
    """Shows rows, and how far it is."""
    create_table_artifact([{"number": number}], key="part")
    progress = create_progress_artifact(0)
    effects.append(f"part {number}")
    update_progress_artifact(progress, 100)
    return number


@flow
def reporting() -> list[Any]:
    """Shows artifacts before and after it waits."""
    first = create_markdown_artifact("start", key="log")
    done = [part(1), part.submit(2).result()]
    Variable.set("done", done, overwrite=True)
    second = create_markdown_artifact(f"end {done}", key="log", description="at the end")
    newest = Artifact.get("log")
    return [first, second, Variable.get("done"), newest and newest.id]


@flow
async def reporting_async() -> list[str]:
    """Shows artifacts in branches."""

    async def branch(name: str) -> str:
        return await acreate_markdown_artifact(name, key=name)

    made = await asyncio.gather(branch("a"), branch("b"))
    return [*made, await create_markdown_artifact("c", key="c")]


@task
def needs(mode: str) -> str:
    """Works in one mode only."""
    effects.append(f"needs {mode}")
    if mode == "wrong":
        raise ValueError("mode")
    return mode


@task
def other() -> None:
    """Has nothing to do with the mode."""
    effects.append("other")


@flow
def moded() -> str:
    """Fails until the variable is set right."""
    other()
    mode = Variable.get("mode", default="right")
    create_markdown_artifact("same", key="same")
    create_markdown_artifact(f"mode {mode}", key="mode")
    return needs(mode)


@flow
def refused() -> list[str]:
    """Catches what cannot be done, and waits."""
    told = []
    for act in (lambda: Variable.set("taken", 2), lambda: update_progress_artifact("nowhere", 5)):
        try:
            act()
        except Exception as error:
            told.append(type(error).__name__)
    part.submit(1).wait()
    return [*told, str(Variable.unset("taken")), str(Variable.unset("taken"))]


@task(retries=1)
def twice() -> None:
    """Fails the first time."""
    create_markdown_artifact("a try", key="tries")
    effects.append("try")
    if effects.count("try") < 2:
        raise ConnectionError("once")


@flow
def trying() -> None:
    """Has a task that is tried again."""
    twice.submit().result()


@task
def booked(fails: bool) -> None:
    """Shows what it has booked, together with that."""
    with db_transaction():
        create_markdown_artifact("booked", key="booked")
    if fails:
        raise ValueError("not booked")


@flow
def booking(fails: bool) -> None:
    """Books once."""
    booked(fails)


@task
def overtaken() -> None:
    """Goes on though its step was claimed by another process."""
    database().write(lambda c: c.execute(sa.update(steps).values(claim_number=steps.c.claim_number + 1)).rowcount)
    effects.append("overtaken")
    create_markdown_artifact("too late", key="late")
    effects.append("not stopped")


@flow
def losing() -> None:
    """Has a task that loses its claim."""
    overtaken.submit().result()


def told(flow: Any, run: Any, state: Any) -> None:
    """A hook of a flow that shows how it ended."""
    create_markdown_artifact(state.name, key="ended")


@task
def reserve() -> None:
    """Is undone where what follows fails."""


@reserve.on_rollback
def give_back(txn: Any) -> None:
    """Shows that."""
    create_markdown_artifact("given back", key="undone")
    Variable.set("undone", True, overwrite=True)


@flow(on_failure=[told])
def rolled_back() -> None:
    """Fails inside of a transaction."""
    with transaction():
        create_markdown_artifact("begun", key="begun")
        reserve()
        raise ValueError("no")
