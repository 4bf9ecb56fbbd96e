"""Flows that wait for people and for each other."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from pydantic import BaseModel, Field, field_validator

from orchestra import flow, pause_flow_run, resume_flow_run, sleep, suspend_flow_run, task
from orchestra.errors import InvalidRunInput, PauseTimeout, RunTimeout
from orchestra.input import RunInput, receive_input, send_input

#: What bodies and validators did, in order.
effects: list[str] = []
#: The name of each flow, to wait for.
KEY = "approval"


class Approval(RunInput):
    """Whether it may go on."""

    approved: bool
    reason: str = ""


class Address(BaseModel):
    """A model of the user's own."""

    street: str
    number: int


class Even(RunInput):
    """A number that only a validator can judge."""

    n: int

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        """Note that it was asked."""
        effects.append(f"judged {n}")
        if n % 2:
            raise ValueError("it must be even")
        return n


class Limited(RunInput):
    """A text that may not be long."""

    text: str = Field(max_length=5, description="What is said.")


class Number(RunInput):
    """A number, sent from run to run."""

    n: int


@task
def note(what: str) -> str:
    """Note something."""
    effects.append(what)
    return what


@flow
def approving() -> list[Any]:
    """Ask for a model, between two tasks."""
    note("before")
    answer = pause_flow_run(wait_for_input=Approval, timeout=3600, key=KEY)
    note("after")
    return [type(answer).__name__, answer.approved, answer.reason, answer.metadata.key]


@flow
def beginning_with_data() -> list[Any]:
    """Ask for a model with other defaults."""
    question = Approval.with_initial_data(description="May it?", approved=True, reason="as ever")
    answer = pause_flow_run(wait_for_input=question, timeout=3600)
    return [type(answer) is Approval, answer.approved, answer.reason]


@flow
def asking_for(kind: str) -> Any:
    """Ask for a value of a type that is no `RunInput`."""
    kinds: dict[str, Any] = {"str": str, "list": list[int], "optional": int | None, "model": Address}
    return pause_flow_run(wait_for_input=kinds[kind], timeout=3600)


@flow
def asking_twice() -> list[Any]:
    """The same key twice, then another."""
    first = pause_flow_run(wait_for_input=int, timeout=3600, key="a")
    again = pause_flow_run(wait_for_input=int, timeout=3600, key="a")
    other = pause_flow_run(wait_for_input=int, timeout=3600, key="b")
    return [first, again, other]


@flow
def picky() -> int:
    """Ask for what a validator judges, then go on for a while."""
    answer = pause_flow_run(wait_for_input=Even, timeout=3600)
    pause_flow_run(timeout=3600)
    return int(answer.n)


@flow
def impatient(seconds: float) -> str:
    """Ask for input that does not come."""
    try:
        pause_flow_run(wait_for_input=Approval, timeout=seconds)
    except PauseTimeout:
        return "nobody came"
    return "somebody came"


@flow
async def asking_async() -> list[Any]:
    """Two branches that ask at the same time."""

    async def ask(key: str) -> Any:
        return await pause_flow_run(wait_for_input=int, timeout=3600, key=key)

    return list(await asyncio.gather(ask("left"), ask("right")))


@flow
def suspending() -> Any:
    """Suspend the run, and ask for something."""
    note("before")
    return suspend_flow_run(wait_for_input=int, timeout=None)


@flow
def above(kind: str) -> Any:
    """Ask in a subflow."""
    return asking_for(kind)


@flow(retries=1)
def asking_then_failing() -> int:
    """Ask, and fail the first time."""
    given = pause_flow_run(wait_for_input=int, timeout=3600)
    effects.append("tried")
    if effects.count("tried") < 2:
        raise ConnectionError("not yet")
    return int(given)


@flow
def resuming(other: str) -> str:
    """Resume another run, and go on."""
    resume_flow_run(other, run_input={"approved": True})
    sleep(2)
    return "resumed"


# -- messages ----------------------------------------------------------------------------------------------------


@flow
def receiving(count: int, timeout: float = 3600) -> list[int]:
    """So many numbers, each noted by a task."""
    numbers = []
    for n in itertools.islice(receive_input(int, timeout=timeout), count):
        note(f"got {n}")
        numbers.append(n)
    return numbers


@flow
def sending(to: str, numbers: list[int]) -> None:
    """Send them, with a task between any two."""
    for n in numbers:
        send_input(n, flow_run_id=to)
        note(f"sent {n}")


@flow
async def receiving_async(count: int) -> list[int]:
    """So many numbers, in a coroutine."""
    numbers: list[int] = []
    async for n in receive_input(int, timeout=3600):
        numbers.append(n)
        if len(numbers) == count:
            return numbers
    return numbers


@flow
def squaring(count: int) -> None:
    """Send back the square of each number."""
    for number in itertools.islice(Number.receive(timeout=3600), count):
        number.respond(Number(n=number.n**2))


@flow
def asking_squares(of: str, numbers: list[int]) -> list[int]:
    """The squares of these, by another run."""
    answers = Number.receive(timeout=3600)
    found = []
    for n in numbers:
        Number(n=n).send_to(of)
        found.append(answers.next().n)
    return found


@flow
def receiving_names(prefix: str) -> list[Any]:
    """A text sent under a prefix, with its metadata, and a model."""
    text = receive_input(str, key_prefix=prefix, with_metadata=True, timeout=3600).next()
    address = receive_input(Address, timeout=3600).next()
    return [text.value, text.metadata.sender, address]


@flow
def receiving_wrong() -> list[str]:
    """A message that does not fit, then one that does."""
    receiver = receive_input(int, key_prefix="x", timeout=3600)
    try:
        receiver.next()
    except InvalidRunInput as error:
        return [str(error), str(receiver.next())]
    return []


@flow
async def giving_up() -> list[int]:
    """Give up waiting after a moment; what comes then is for the next who waits."""
    receiver = receive_input(int, timeout=3600)
    try:
        async with asyncio.timeout(0.2):
            await receiver.next()
    except TimeoutError:
        await pause_flow_run(timeout=3600)
    return [await receiver.next()]


@task
def receive_in_task() -> int:
    """Wait in a task's body, for what is sent to its flow's run."""
    return int(receive_input(int, timeout=3600).next())


@flow
def receiving_below() -> int:
    """Wait in a task."""
    return receive_in_task()


@flow
def reading_anothers(of: str) -> int:
    """Receive what was sent to another run."""
    return int(receive_input(int, flow_run_id=of, timeout=3600).next())


@flow(timeout_seconds=30)
def receiving_late() -> list[Any]:
    """Be over its time while it waits for a message, then wait again."""
    receiver = receive_input(int, timeout=None)
    try:
        receiver.next()
    except RunTimeout:
        note("late")
    return [receiver.next()]


@flow
def asking_a_nested_class() -> bool:
    """Ask for a model that no other process could import."""

    class Nested(BaseModel):
        approved: bool

    answer = pause_flow_run(wait_for_input=Nested, timeout=3600)
    pause_flow_run(timeout=3600)
    return isinstance(answer, Nested) and answer.approved


@flow
async def asking_under_one_name() -> list[int]:
    """Two branches whose pauses have no key."""

    async def ask() -> int:
        return int(await pause_flow_run(wait_for_input=int, timeout=3600))

    return list(await asyncio.gather(ask(), ask()))
