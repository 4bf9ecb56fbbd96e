"""Flows that the browser tests look at; run as a script, it makes their deployments."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from orchestra import flow, get_run_logger, pause_flow_run, task
from orchestra.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from orchestra.input import RunInput

EVIL = "<img src=x onerror=alert(1)>"


@task
def gated(gate: str) -> int:
    """Ends when the file `gate` is there."""
    get_run_logger().info("waiting for %s", Path(gate).name)
    while not Path(gate).exists():
        time.sleep(0.02)
    return 1


@task
def joined(numbers: list[int]) -> int:
    """Comes after the others."""
    return sum(numbers)


@flow
def through_gates(folder: str, times: int = 2) -> int:
    """Tasks that end when their gates are opened."""
    numbers = gated.map([f"{folder}/{number}" for number in range(times)])
    return joined.submit(numbers).result()


@flow(log_prints=True)
def greet(name: str, times: int = 2, loud: bool = False, colour: Literal["red", "green"] = "red") -> str:
    """Says hello."""
    text = " ".join([f"hello {name}"] * times)
    print(f"{text.upper() if loud else text} in {colour}")
    return text


@task
def needs(path: str) -> str:
    """Fails while there is no such file."""
    if not Path(path).exists():
        raise ValueError(f"no file {Path(path).name}")
    return Path(path).name


@task
def first() -> int:
    """Ends well."""
    return 1


@flow
def fragile(path: str) -> str:
    """Fails until the file is there."""
    first()
    return needs(path)


class Approval(RunInput):
    """What a person is asked for."""

    approved: bool
    amount: int = 3
    comment: str = ""


@flow(log_prints=True)
def asking() -> str:
    """Waits for a person."""
    given = pause_flow_run(wait_for_input=Approval.with_initial_data(description="Pay the bill?"))
    print(f"approved={given.approved} amount={given.amount}")
    return given.comment


@task(name=EVIL)
def evil_task(text: str) -> str:
    """Logs markup."""
    get_run_logger().warning(text)
    return text


@flow(name=EVIL)
def evil(text: str = EVIL) -> str:
    """Everything in it is markup."""
    evil_task(text)
    create_markdown_artifact(f"# {text}\n\n[a](javascript:alert(1)) ![b](http://127.0.0.1:9/x.png)", key="evil-text")
    create_table_artifact([{text: text}], key="evil-table", description=text)
    create_link_artifact("javascript:alert(1)", text, key="evil-link")
    raise ValueError(text)


def deploy() -> None:
    """Make a deployment of each."""
    for each, name in (
        (through_gates, "gates"),
        (greet, "hello"),
        (fragile, "glass"),
        (asking, "bill"),
        (evil, "evil"),
    ):
        each.to_deployment(name, tags=[EVIL] if each is evil else ["browser"]).apply()
    greet.to_deployment("nightly", cron="0 3 * * *", parameters={"name": "night"}).apply()


if __name__ == "__main__":
    from tests.browser import flows

    flows.deploy()
