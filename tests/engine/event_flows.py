"""Flows that emit events."""

from __future__ import annotations

from pydantic import SecretStr

from orchestra import flow, get_run_logger, task
from orchestra.events import emit_event, read_events
from orchestra.masking import hide

#: The ids of the events as the bodies saw them, start by start.
seen: list[str] = []


@task
def pack(order):
    """Emits in a task's body."""
    emit_event("order.packed", {"orchestra.resource.id": f"order.{order}"})
    return order


@flow
def audit():
    """Reads events, then waits for a task, and says what it read."""
    page = read_events(events=["order.*"])
    seen.append(str(len(page)))
    pack.submit(1).result()
    return [event.resource.id for event in page]


@flow
def ship(order):
    """Emits before and after a task that is sent."""
    first = emit_event("order.received", {"orchestra.resource.id": f"order.{order}"}, payload={"parts": 2})
    seen.append(str(first.id))
    pack.submit(order).result()
    emit_event("order.shipped", {"orchestra.resource.id": f"order.{order}"}, follows=first)
    return first.payload


@task
def call(token):
    """Logs what it should not."""
    get_run_logger().info("task with %s", token.get_secret_value())


@flow
def secretive(token: SecretStr):
    """Logs what it should not, and fails with it."""
    get_run_logger().info("flow with %s", token.get_secret_value())
    call.submit(token).result()
    raise ValueError(f"no entry for {token.get_secret_value()}")


@flow
def fetching():
    """Fetches a secret, and fails with it."""
    hide("fetched-secret")
    try:
        raise ValueError("the cause: fetched-secret")
    except ValueError as error:
        raise RuntimeError("no answer of amqp://me:pass-word@host") from error
