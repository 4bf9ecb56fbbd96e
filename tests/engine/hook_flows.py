"""Flows and tasks with state hooks, for tests of the engine; each hook notes what it was told."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from orchestra import flow, get_run_logger, runtime, task

#: What was called, in order.
told: list[Any] = []
#: How often `flaky` has failed yet.
failures: list[int] = []


def note(subject: Any, run: Any, state: Any) -> None:
    """Any hook."""
    told.append((subject.name, state.name))


async def note_async(subject: Any, run: Any, state: Any) -> None:
    """One that is a coroutine function."""
    await asyncio.sleep(0)
    told.append((subject.name, f"async {state.name}"))


def whole(subject: Any, run: Any, state: Any) -> None:
    """Notes all that it was handed."""
    told.append((subject, run, state))


def raising(subject: Any, run: Any, state: Any) -> None:
    """Fails."""
    raise RuntimeError("the pager is broken")


def exiting(subject: Any, run: Any, state: Any) -> None:
    """Would end a program."""
    raise SystemExit(3)


def logging(subject: Any, run: Any, state: Any) -> None:
    """Logs a line."""
    get_run_logger().info("%s told me that it is %s", run.name, state.name)


@task
def plus(number: int) -> int:
    """One more."""
    told.append("plus")
    return number + 1


def calling(subject: Any, run: Any, state: Any) -> None:
    """Calls a task."""
    told.append(plus(1))


ALL: Any = {name: note for name in ("on_completion", "on_failure", "on_cancellation", "on_crashed", "on_running")}


@task(on_completion=note, on_failure=note, on_running=note)
def work(number: int = 1) -> int:
    """Ends well."""
    told.append("work")
    return number + 1


@task(on_completion=note, on_failure=[note, note_async], on_running=note)
def broken() -> None:
    """Fails."""
    raise ValueError("no")


@task(on_completion=note, on_failure=note, on_running=note, retries=2, retry_delay_seconds=0)
def flaky(times: int) -> str:
    """Fails that many times."""
    if len(failures) < times:
        failures.append(1)
        raise ValueError("not yet")
    return "there"


@task(on_completion=[raising, exiting, note])
def badly_hooked() -> str:
    """Its hooks fail."""
    return "well"


@task(on_completion=note, persist_result=False)
def unkept() -> int:
    """Not journaled."""
    return 1


@task(on_completion=[note, note_async], on_running=note_async)
async def awork(number: int = 1) -> int:
    """Ends well, as a coroutine."""
    await asyncio.sleep(0)
    return number + 1


@task(on_completion=whole)
def shown(number: int, text: str = "a") -> str:
    """Shows what a hook is told."""
    return text * number


@flow(**ALL)
def well() -> str:
    """Ends well."""
    return "well"


@flow(**ALL)
def badly() -> None:
    """Fails."""
    raise ValueError("no")


@flow(**ALL, retries=1, retry_delay_seconds=0)
def badly_twice() -> None:
    """Fails, and fails again."""
    raise ValueError("no")


@flow(on_completion=[note, note_async])
async def awell() -> int:
    """Ends well, as a coroutine."""
    return await awork(1)


@flow(on_completion=[raising, exiting, note])
def hooked_badly() -> str:
    """Its hooks fail."""
    return "well"


@flow(on_failure=whole)
def told_of(number: int) -> None:
    """Fails; its hook notes what it was told."""
    raise ValueError(f"no {number}")


@flow(on_completion=[logging, calling])
def talking() -> None:
    """Its hooks log, and call a task."""


@flow
def direct() -> int:
    """A direct call, and one that is submitted: a replay follows."""
    first = work(1)
    return work.submit(first).result()


@flow
def trying(times: int) -> str:
    """A task that is tried again."""
    return flaky(times)


@flow
def trying_submitted(times: int) -> str:
    """Likewise, submitted."""
    return str(flaky.submit(times).result())


@flow
def failing_task() -> str:
    """A task that fails."""
    try:
        broken()
    except ValueError:
        return "caught"
    return ""


@flow
def with_bad_hooks() -> str:
    """A task whose hooks fail."""
    return badly_hooked() + str(badly_hooked.submit().result())


@flow
def unjournaled() -> int:
    """A call that runs in each replay."""
    unkept()
    return plus.submit(1).result()


@flow
def showing() -> list[str]:
    """Direct and submitted."""
    return [shown(2), shown.submit(3, text="b").result()]


@flow
async def awaiting() -> int:
    """Async tasks, side by side."""
    return sum(await asyncio.gather(awork(1), awork(2)))


@flow(on_completion=note)
def above() -> str:
    """Calls another flow."""
    return well()


@flow(**ALL)
def parked() -> int:
    """Waits for a task."""
    return plus.submit(1).result()


#: A copy of a task with other hooks, which a worker finds by them alone.
relabelled = work.with_options(name="relabelled", on_completion=[note_async], on_running=[])


@relabelled.on_completion
def twice(subject: Any, run: Any, state: Any) -> None:
    """Added to the copy only."""
    told.append("twice")


@flow
def with_copies() -> int:
    """Direct and submitted."""
    return relabelled.submit(relabelled(1)).result()


#: What another process does while a hook runs, once.
meanwhile: list[Any] = []


def overtaken(subject: Any, run: Any, state: Any) -> None:
    """Takes so long that its claim is lost."""
    told.append("overtaken")
    while meanwhile:
        meanwhile.pop()()


@flow(on_completion=[overtaken, note])
def slow_hooks() -> None:
    """Ends well."""


def cancelling(subject: Any, run: Any, state: Any) -> None:
    """Has the run cancelled, and takes longer than the process needs to hear of it."""
    while meanwhile:
        meanwhile.pop()(run.flow_run_id)
    time.sleep(2)
    told.append("cancelling")


@task(on_completion=[cancelling, note])
def cancelled_after() -> None:
    """Ends well."""


@task(on_completion=[cancelling, note])
async def acancelled_after() -> None:
    """Likewise."""


@flow(on_cancellation=note)
def cancelled_in_a_hook() -> None:
    """Is cancelled while a hook of its task runs."""
    cancelled_after()
    told.append("went on")
    plus(1)


@flow(on_cancellation=note)
async def acancelled_in_a_hook() -> None:
    """Likewise."""
    await acancelled_after()
    told.append("went on")
    await awork(1)


#: When the body of `waiting` has begun.
begun: list[str] = []


@flow(**ALL)
def waiting() -> None:
    """Is cancelled."""
    begun.append(str(runtime.flow_run.id))
    time.sleep(30)


@flow(**ALL)
async def awaiting_cancel() -> None:
    """Likewise."""
    begun.append(str(runtime.flow_run.id))
    await asyncio.sleep(30)


#: A copy with other hooks.
renamed = well.with_options(name="renamed", on_completion=[note])


@renamed.on_completion
def once_more(subject: Any, run: Any, state: Any) -> None:
    """Added to the copy only."""
    told.append("once more")


@flow
def decorated(fails: bool = False) -> None:
    """Its hooks are added below."""
    if fails:
        raise ValueError("no")


@decorated.on_completion
def when_completed(subject: Any, run: Any, state: Any) -> None:
    """Notes."""
    told.append("completed")


@decorated.on_failure
async def when_failed(subject: Any, run: Any, state: Any) -> None:
    """Notes."""
    told.append("failed")


@decorated.on_running
def when_running(subject: Any, run: Any, state: Any) -> None:
    """Notes."""
    told.append("running")
