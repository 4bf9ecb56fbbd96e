"""A flow that tells what it does, and a program that reads along."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pydantic import SecretStr

from orchestra import flow, get_run_logger, task
from orchestra.events import EventFilter, emit_event, get_events_subscriber, read_events
from orchestra.masking import hide


@task
def pack(order: int) -> int:
    """Pack the parts of an order, and say so."""
    emit_event(
        "order.packed",
        resource={"orchestra.resource.id": f"order.{order}", "orchestra.resource.name": f"Order {order}"},
        related=[{"orchestra.resource.id": "warehouse.north", "orchestra.resource.role": "warehouse"}],
        payload={"parts": 2},
    )
    return order


@flow
def ship(order: int, token: SecretStr) -> None:
    """Ship an order; the token does not get into the log."""
    received = emit_event("order.received", resource={"orchestra.resource.id": f"order.{order}"})
    pack(order)
    get_run_logger().info("calling the carrier with %s", token.get_secret_value())
    emit_event("order.shipped", resource={"orchestra.resource.id": f"order.{order}"}, follows=received)


async def read_along(orders: int) -> list[str]:
    """The resources of the next orders that are shipped."""
    shipped: list[str] = []
    async with get_events_subscriber(EventFilter(events=("order.shipped",))) as events:
        await asyncio.to_thread(ship_all, orders)
        async for event in events:
            shipped.append(event.resource.id)
            if len(shipped) == orders:
                break
    return shipped


def ship_all(orders: int) -> None:
    """Ship some orders."""
    for order in range(1, orders + 1):
        ship(order, SecretStr("carrier-token"))


def failed_runs() -> list[Any]:
    """The last hundred runs of whatever flow that have failed or crashed."""
    page = read_events(events=["orchestra.flow-run.Failed", "orchestra.flow-run.Crashed"], limit=100)
    return [event.resource.id for event in page]


def main() -> None:
    """Ship two orders, and print what was heard of them."""
    hide(os.environ.get("CARRIER_PASSWORD", ""))
    print(*asyncio.run(read_along(2)), sep="\n")
    print(len(failed_runs()), "runs have failed")


if __name__ == "__main__":
    main()
