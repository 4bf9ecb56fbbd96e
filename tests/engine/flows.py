"""Flows for tests of the engine, where a worker could import them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from orchestra import allow_failure, flow, get_run_logger, runtime, sleep, task, uuid4
from orchestra import random as random_number
from orchestra.errors import CrashedRun, PauseTimeout, ResultTimeout, RunTimeout, SerializationError
from orchestra.flow_runs import pause_flow_run
from orchestra.futures import as_completed, wait
from orchestra.states import State, StateType
from orchestra.store import interventions
from orchestra.store.database import database

#: What bodies did, in order.
effects: list[str] = []


@task
def add(x, y=1):
    effects.append(f"add {x} {y}")
    return x + y


@task
def fail(text="no"):
    effects.append("fail")
    raise ValueError(text)


@task
def total(values):
    effects.append("total")
    return sum(values)


@flow
def linear(n):
    value = 0
    for _ in range(n):
        value = add(value)
    return value


@flow
def fan_out(n):
    futures = [add.submit(i) for i in range(n)]
    return sum(future.result() for future in futures)


@flow
def reduce(n):
    return total.submit(add.map(range(n))).result()


@flow
def diamond():
    top = add.submit(1)
    left, right = add.submit(top, 10), add.submit(top, 20)
    return add.submit(left, right).result()


@flow
def upstream_failed():
    bad = fail.submit()
    return add.submit(bad)


@flow
def caught():
    try:
        fail("seen")
    except ValueError as error:
        return f"caught {error}"


@flow
def child(x):
    return add(x)


@flow
def parent(n):
    return [child(i) for i in range(n)]


@flow
def nested(depth):
    return 0 if depth == 0 else nested(depth - 1) + 1


@flow
def sleeper(seconds):
    sleep(seconds)
    return add(1)


@flow
def pausing():
    pause_flow_run(timeout=60)
    return "resumed"


@flow
def observed():
    first = str(uuid4())
    value = add.submit(1).result()
    return [first, str(uuid4()), value]


@flow
def unawaited():
    add.submit(5)
    return "ended"


@task
async def aadd(x, y=1):
    await asyncio.sleep(0)
    effects.append(f"aadd {x} {y}")
    return x + y


@flow
async def gathered(n):
    return await asyncio.gather(*(aadd(i) for i in range(n)))


@flow
async def branches(n):
    async def branch(i):
        first = await add.submit(i)
        return await aadd(first)

    return await asyncio.gather(*(branch(i) for i in range(n)))


@flow
def completed(n):
    return sorted(future.result() for future in as_completed([add.submit(i) for i in range(n)]))


attempts: dict[str, int] = {"count": 0}


@task(retries=2)
def flaky():
    attempts["count"] += 1
    if attempts["count"] < 3:
        raise RuntimeError("not yet")
    return attempts["count"]


@flow
def retried():
    return flaky()


@flow
def retried_submitted():
    return flaky.submit().result()


@flow(retries=1)
def flow_retried():
    first = add(1)
    effects.append("body")
    if effects.count("body") < 2:
        raise RuntimeError("first attempt")
    return first


@flow
def swallows():
    for i in range(2):
        try:
            add.submit(i).result()
        except:  # noqa: E722 - on purpose
            effects.append("swallowed")
    return "end"


switch = {"on": False}


@flow
def changes():
    add(1)
    if switch["on"]:
        total([1])
    add.submit(2).result()
    return "end"


# -- failures -----------------------------------------------------------------------------------------------------


@task
def describe(value):
    return f"{type(value).__name__}: {value}"


@flow
def tolerant():
    return describe.submit(allow_failure(fail.submit("seen"))).result()


@flow
def both_ways():
    """The same upstream once strictly and once leniently."""
    top = add.submit(1)
    return add.submit(top, allow_failure(top)).result()


@flow
def long_cascade(n):
    futures = [fail.submit()]
    for _ in range(n):
        futures.append(add.submit(futures[-1]))
    return [future.result(raise_on_failure=False) for future in futures]


@flow
def late_cascade():
    """What depends on a failed step, and on that, is asked for one by one after it has failed."""
    failed = fail.submit()
    failed.wait()
    first = add.submit(failed)
    first.wait()
    second = add.submit(first)
    return [future.result(raise_on_failure=False) for future in (first, second)]


@flow
def late_cascade_at_once():
    """As `late_cascade`, in one dispatch."""
    failed = fail.submit()
    failed.wait()
    first = add.submit(failed)
    second = add.submit(first)
    return [future.result(raise_on_failure=False) for future in (first, second)]


@flow
def many_failed_upstreams(n):
    return total.submit([fail.submit() for _ in range(n)]).result()


@flow
def failing():
    add(1)
    raise KeyError("mine")


@flow
def caught_submitted():
    try:
        fail.submit("seen").result()
    except ValueError as error:
        return [type(error).__name__, str(error)]


@task
def exits():
    raise SystemExit(3)


@flow
def exiting():
    exits.submit().result()


# -- waiting ------------------------------------------------------------------------------------------------------


@flow
def impatient(seconds):
    future = add.submit(1)
    try:
        return future.result(timeout=seconds)
    except ResultTimeout:
        effects.append("too late")
    add.submit(2).result()
    return "went on"


@flow
def waits_for_first(seconds):
    quick, slow = add.submit(1), add.submit(2)
    done, open_ = wait([quick, slow], timeout=seconds)
    return [len(done), len(open_)]


@flow
def looks():
    future = add.submit(1)
    before = future.state.name
    future.wait()
    return [before, future.state.name, future.done()]


@flow
def guesses():
    first = random_number()
    add.submit(1).result()
    return [first, random_number()]


@flow
def pausing_once(seconds):
    try:
        pause_flow_run(timeout=seconds)
    except PauseTimeout:
        return "nobody came"
    return "resumed"


async def paused(seconds):
    await pause_flow_run(timeout=seconds)


@flow
async def pausing_branches(seconds):
    return await asyncio.gather(one(1), paused(seconds))


@flow
def counted(n):
    """Children that park, one after the other."""
    return sum(waiting_child(i) for i in range(n))


@flow
def waiting_child(x):
    return add.submit(x).result()


@flow
def logged():
    logger = get_run_logger()
    logger.info("before")
    add.submit(1).result()
    logger.info("between")
    add.submit(2).result()
    logger.info("after")


# -- timeouts -----------------------------------------------------------------------------------------------------


@flow(timeout_seconds=5)
def late():
    return add.submit(1).result()


@flow(timeout_seconds=5)
def late_but_calm():
    try:
        add.submit(1).result()
    except RunTimeout:
        effects.append("timed out")
    add.submit(2).result()
    return "cleaned up"


@flow(timeout_seconds=5)
def late_at_a_call():
    sleep(3600)
    try:
        add(1)
    except RunTimeout:
        effects.append("timed out")
    add.submit(2).result()
    return "cleaned up"


@flow(timeout_seconds=0.1)
def blocked():
    time.sleep(30)


@flow(timeout_seconds=3600)
async def patient():
    return await add.submit(1)


@flow(timeout_seconds=0.1)
async def blocked_async():
    await asyncio.sleep(30)


@task(timeout_seconds=0.05)
def slow_task():
    time.sleep(30)


@flow
def with_slow_task(submitted):
    if not submitted:
        return slow_task(return_state=True).name
    future = slow_task.submit()
    future.wait()
    return future.state.name


@flow(timeout_seconds=0.5)
def times_out_around(kind):
    if kind == "child":
        stuck_child()
    stuck_task()


@flow
def stuck_child():
    effects.append("child")
    if effects.count("child") == 1:
        time.sleep(30)


@task
def stuck_task():
    time.sleep(30)


# -- async --------------------------------------------------------------------------------------------------------


@flow
async def mixed(n):
    """Branches that wait for submitted tasks, run tasks, sleep and start branches of their own."""

    async def leaf(i):
        return await aadd(await add.submit(i))

    async def branch(i):
        values = await asyncio.gather(*(leaf(i * 10 + j) for j in range(2)))
        await sleep(0)
        return sum(values)

    return await asyncio.gather(*(branch(i) for i in range(n)))


@flow
async def grouped():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(i)) for i in range(3)]
    return [each.result() for each in tasks]


async def one(i):
    return await add.submit(i)


@flow
async def first_failure():
    async def bad():
        await fail.submit("branch")

    try:
        await asyncio.gather(bad(), one(1))
    except ValueError as error:
        return str(error)


@flow
async def aparent(n):
    return await asyncio.gather(*(achild(i) for i in range(n)))


@flow
async def achild(x):
    return await add.submit(x)


@flow
def foreign_thread():
    caught = []

    def work():
        try:
            add(1)
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    thread.join()
    return caught


# -- retries ------------------------------------------------------------------------------------------------------


@task(retries=2, retry_delay_seconds=3600)
def flaky_later():
    attempts["count"] += 1
    if attempts["count"] < 3:
        raise RuntimeError("not yet")
    return attempts["count"]


@flow
def retried_later(submitted):
    return flaky_later.submit().result() if submitted else flaky_later()


@task(retries=1)
def hopeless():
    effects.append("hopeless")
    raise RuntimeError("never")


@flow
def hopeless_flow():
    hopeless.submit().result()


@flow(retries=1, retry_delay_seconds=3600)
def flow_retried_later():
    add(1)
    effects.append("body")
    if effects.count("body") < 2:
        raise RuntimeError("first attempt")
    return "second"


@task
def breaks_once(key):
    effects.append(f"breaks {key}")
    if switch["on"]:
        raise RuntimeError("broken")
    return key


@flow
def recoverable():
    first = add.submit(1)
    second = breaks_once.submit("x")
    third = describe.submit(second)
    return [first.result(), second.result(), third.result()]


@flow
def looks_at_failure():
    """The first attempt observes that a task failed, and fails elsewhere."""
    future = breaks_once.submit("x")
    future.wait()
    names = [future.state.name, future.done()]
    add(1)
    if switch["on"]:
        raise RuntimeError("seen to fail")
    return [*names, future.result()]


# -- code that changes --------------------------------------------------------------------------------------------


@task(name="renamed")
def add_renamed(x):
    return x


@flow
def renames():
    first = (add_renamed if switch["on"] else add)(1)
    add.submit(2).result()
    return first


@flow
def drops():
    add(1)
    if not switch["on"]:
        add.submit(2).result()
    return "end"


@flow
def swallows_mismatch():
    try:
        add(1) if not switch["on"] else total([1])
    except Exception:
        effects.append("swallowed")
    add.submit(2).result()
    effects.append("went on")
    return "end"


@flow
def other_inputs():
    add(10 if switch["on"] else 1)
    add.submit(2).result()
    return "end"


# -- values -------------------------------------------------------------------------------------------------------


@task
def blob(size):
    effects.append("blob")
    return "x" * size


@task
def length(value):
    return len(value)


@flow
def large(size):
    inline = blob(size)
    submitted = blob.submit(size)
    return [len(inline), length.submit(submitted).result(), len(submitted.result())]


@flow
def large_result(size):
    return "y" * size


@task
def unserialisable():
    return threading.Lock()


@flow
def unserialisable_result(submitted):
    return unserialisable.submit().result() if submitted else unserialisable()


@flow
def unserialisable_argument():
    try:
        add.submit(threading.Lock())
    except SerializationError as error:
        message = str(error)
    add.submit(2).result()
    return message


@task(queue="elsewhere")
def far(x):
    return x


@flow
def unserialisable_argument_elsewhere():
    try:
        far(threading.Lock())
    except SerializationError as error:
        message = str(error)
    add.submit(2).result()
    return message


@flow
def unsendable_child():
    try:
        child(threading.Lock())
    except SerializationError as error:
        message = str(error)
    add.submit(2).result()
    return message


@task
def holds(lock):
    with lock:
        return "held"


@flow
def lock_inline():
    return holds(threading.Lock())


@flow
def local_function():
    @task
    def inner(x):
        return x

    value = inner(1)
    try:
        inner.submit(2)
    except TypeError as error:
        message = str(error)
    add.submit(2).result()
    return [value, message]


@flow
def local_retry():
    @task(retries=1, retry_delay_seconds=1.05)
    def inner():
        effects.append("inner")
        if effects.count("inner") < 2:
            raise RuntimeError("once")
        return "done"

    return inner()


@task(persist_result=False)
def unkept(x):
    effects.append(f"unkept {x}")
    return x


@task(persist_result=False)
def unkept_key(x):
    return runtime.task_run.idempotency_key.partition("/")[2]


@flow
def unkept_keys():
    keys = [unkept_key(1), unkept_key(2)]
    add.submit(2).result()
    return [*keys, unkept_key(3)]


@flow
def unkept_after_a_failure(as_state):
    bad = fail.submit()
    if as_state:
        return unkept(1, wait_for=[bad], return_state=True).name
    return unkept(1, wait_for=[bad])


@flow
def unkept_results():
    first = unkept(1)
    add.submit(2).result()
    return first


class Unreadable:
    """A value that can be written and not be read."""

    def __reduce__(self):
        return refuse, ()


def refuse():
    raise ValueError("not again")


@task
def unreadable():
    effects.append("unreadable")
    return Unreadable()


@flow
def unreadable_result(submitted):
    return unreadable.submit().result() if submitted else unreadable()


@flow
def unreadable_end():
    add.submit(1)
    return Unreadable()


@flow
def oddly_named():
    odd_task = add.with_options(name="n" * 3000 + "/ \ud800\0#é")
    return [odd_task(1), odd_task.submit(2).result(), odd_task.submit(odd_task.submit(3)).result()]


class Odd(Exception):
    """An exception that is called with something else than it hands on."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.second = second


class Unkept(Exception):
    """An exception that cannot be built again: what it carries belongs to its process."""

    def __init__(self):
        super().__init__(threading.Lock())

    def __str__(self):
        return "of this process"


@task
def odd():
    raise Odd(1, 2)


@flow
def own_exception(submitted):
    try:
        odd.submit().result() if submitted else odd()
    except Odd as error:
        seen = error.second
    add.submit(1).result()
    return seen


@task
def loses_its_lock():
    raise Unkept


@flow
def odd_exception(submitted):
    try:
        loses_its_lock.submit().result() if submitted else loses_its_lock()
    except Exception as error:
        first = f"{type(error).__name__}: {error}".splitlines()[0]
    add.submit(1).result()
    return first


@flow
def wide(n):
    add.map(range(n))
    return "submitted"


@flow
def layered(n):
    """All-to-all: each of the second layer needs the whole first one."""
    first = [add.submit(i) for i in range(n)]
    second = [total.submit(first) for _ in range(n)]
    return sum(future.result() for future in second)


@flow
def swallows_all():
    while True:
        try:
            return add.submit(1).result()
        except BaseException:
            effects.append("swallowed")
            if effects.count("swallowed") > 50:
                return "gave up"


@flow
def acts_finally():
    try:
        return add.submit(1).result()
    finally:
        effects.append("finally")
        add.submit(99)


@task
def gives(key):
    effects.append(f"gives {key}")
    if switch["on"]:
        raise RuntimeError("broken")
    return key


@flow
def broken_child(key):
    return gives(key)


@flow
def family():
    return [child(0), broken_child("y")]


@task
def cancel_my_flow():
    effects.append("cancel")
    interventions.cancel(database(), runtime.flow_run.id)


@flow
def cancels_itself():
    cancel_my_flow()
    add.submit(1)
    add(2)
    return "never"


@flow
def changes_later():
    add(1)
    add.submit(2).result()
    if switch["on"]:
        total([1])
        return "new code"
    return "old code"


@flow
def mixture():
    """Direct and submitted calls, an observation, a child."""
    first = add(0)
    uuid4()
    second, third = add.submit(first, 11), add.submit(2)
    values = [first, second.result(), third.result()]
    return [*values, [child(4)]]


@flow
def dispatches_then_runs():
    add.submit(1)
    add(2)
    return "end"


@dataclass
class Request:
    """Carries a value, or a future of it."""

    amount: Any


@task
def amount_of(request):
    return request.amount


@task
def types_of(counts, plus):
    return [type(counts).__name__, counts["b"] + plus]


@flow
def future_in_a_dataclass():
    return amount_of.submit(Request(add.submit(1))).result()


@flow
def counter_beside_a_future():
    return types_of.submit(Counter("abb"), add.submit(1)).result()


@flow
def returns_a_dataclass():
    return Request(add.submit(1))


class Beyond(BaseException):
    """No Exception: as some libraries' own signals."""


@task(retries=1)
def goes_beyond(what):
    effects.append(f"beyond {what}")
    raise Beyond if what == "a signal of a library" else asyncio.CancelledError


@task(retries=1)
async def goes_beyond_async(what):
    goes_beyond.fn(what)


@flow
def beyond(what, how):
    try:
        if how == "direct":
            return goes_beyond(what)
        return (goes_beyond if how == "submitted" else goes_beyond_async).submit(what).result()
    except BaseException as error:
        if isinstance(error, Beyond | asyncio.CancelledError):
            return f"caught {type(error).__name__}"
        raise


@flow
async def beyond_in_a_branch(what):
    found = await asyncio.gather(goes_beyond_async(what), return_exceptions=True)
    return [type(error).__name__ for error in found]


@task
def stubborn():
    effects.append("stubborn")
    raise RuntimeError("never")


@flow
def with_more_tries(submitted):
    tried = stubborn.with_options(retries=2, retry_delay_seconds=lambda count: 0.001)
    return tried.submit().result() if submitted else tried()


@flow
def takes_its_time(seconds):
    sleep(seconds)
    return "ended"


@flow
def with_a_short_child():
    return takes_its_time.with_options(timeout_seconds=0.2, flow_run_name="short-{seconds}")(3600.0)


def undecorated():
    return 1


#: In no variable of the module, where a worker could look for it.
decorated_elsewhere = [task(undecorated)]


@flow
def submits_what_no_worker_finds():
    return decorated_elsewhere[0].submit().result()


@flow
def scheduled_starts():
    starts = [runtime.flow_run.scheduled_start_time]
    for number in range(2):
        add.submit(number).result()
        starts.append(runtime.flow_run.scheduled_start_time)
    return starts


@flow(timeout_seconds=0.1)
def busy_for_too_long():
    time.sleep(0.3)
    return "ended"


#: A future that was handed on past its run.
smuggled = []


@flow
def takes_a_strangers_future(how):
    if how == "argument":
        return add.submit(smuggled[0]).result()
    return smuggled[0].result() if how == "result" else smuggled[0].done()


@flow
def hands_on_a_future(how):
    smuggled[:] = [add.submit(1)]
    return takes_a_strangers_future(how)


@flow
def is_cancelled_at_its_end():
    here = runtime.flow_run.id
    interventions.cancel(database(), here)
    return "ended"


@task
def sort_in_place(values):
    values.sort()
    return len(values)


@task
def first_of(values):
    return values[0]


@flow
def changes_arguments():
    own, shared = [3, 1, 2], pair.submit().result()
    sort_in_place(own)
    sort_in_place(shared)
    seen = [first_of(own), own[0], first_of(shared)]
    add.submit(1).result()
    return [*seen, first_of(own), own[0], first_of(shared)]


@task
def pair():
    return [2, 1]


@flow
def returns_states(how):
    add.submit(1)
    if how == "in a dict":
        return {"state": fail(return_state=True)}
    if how == "in a list, with work open":
        return [fail(return_state=True), add(1, return_state=True)]
    return [State(StateType.COMPLETED), State(StateType.PAUSED)]


@task
def crashes():
    raise CrashedRun("a run inside of it")


@flow(retries=2, retry_delay_seconds=0.01)
def calls_what_crashes():
    effects.append("tried")
    crashes()


@flow(retries=2)
def takes_a_number(n: int):
    effects.append("ran")


def no_delay(count):
    raise ZeroDivisionError("in the delay")


@flow(retries=2, retry_delay_seconds=no_delay)
def has_a_broken_delay():
    raise ValueError("its own")
