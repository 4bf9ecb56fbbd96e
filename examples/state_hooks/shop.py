"""Orders of a shop; hooks tell people when a run fails or is stopped."""

from __future__ import annotations

from typing import Any

from orchestra import flow, get_run_logger, task


def page(flow: Any, flow_run: Any, state: Any) -> None:
    """Wake somebody up: the key keeps a second call for the same run from paging twice."""
    send(f"{flow.name} run {flow_run.name} is {state.name}: {state.message}", key=f"{flow_run.id}/{state.name}")


async def release(flow: Any, flow_run: Any, state: Any) -> None:
    """Give back what the run had reserved; safe to call again."""
    get_run_logger().info("orders of %s are free again", flow_run.parameters["day"])


def note_tries(task: Any, task_run: Any, state: Any) -> None:
    """Log how the shop was reached."""
    get_run_logger().info("%s ended %s after %d tries", task_run.name, state.name, task_run.run_count)


def send(text: str, key: str) -> None:
    """Stands for a message to a pager, which drops a second one with the same key."""
    print(f"PAGER: {text}")


@task(retries=1, on_completion=note_tries, on_failure=[note_tries])
def load(day: str) -> int:
    """The orders of one day."""
    if day == "sunday":
        raise ValueError("the shop is closed on sunday")
    return 12


@flow(on_failure=[page, release], on_cancellation=release, on_crashed=[page, release])
def orders(day: str) -> int:
    """Count the orders of one day."""
    return load(day)


@orders.on_completion
def celebrate(flow: Any, flow_run: Any, state: Any) -> None:
    """Say how many there were."""
    get_run_logger().info("%d orders on %s", state.result(), flow_run.parameters["day"])


quiet_orders = orders.with_options(name="quiet-orders", on_failure=[release], on_crashed=[])

if __name__ == "__main__":
    orders("monday")
    quiet_orders("sunday", return_state=True)
    orders("sunday", return_state=True)
