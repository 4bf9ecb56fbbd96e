"""Calling a user's function: timeouts, threads, coroutines, interruptions."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestra.engine import bodies, interrupts
from orchestra.errors import Cancelled, Fenced, RunTimeout

LONG = 60.0


def hang() -> None:
    """Block in a C call."""
    time.sleep(LONG)


async def hang_async() -> None:
    """Wait in the loop."""
    await asyncio.sleep(LONG)


@pytest.mark.parametrize("fn", [hang, hang_async])
@pytest.mark.parametrize("in_thread", [False, True], ids=["main thread", "other thread"])
def test_a_body_over_its_time_raises_at_once(fn: object, in_thread: bool) -> None:
    """Whatever kind of function it is, and wherever it runs."""
    started = time.monotonic()
    with pytest.raises(RunTimeout, match=r"ran longer than its timeout_seconds=0\.02"):
        _call(fn, in_thread)
    assert time.monotonic() - started < 10


def _call(fn: object, in_thread: bool) -> None:
    if not in_thread:
        bodies.call(fn, (), {}, timeout=0.02)  # type: ignore[arg-type]
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(bodies.call, _short(fn), (), {}, timeout=0.02).result()  # type: ignore[arg-type]


def _short(fn: object) -> object:
    """The thread of a blocking body is abandoned: let it end soon."""
    return (lambda: time.sleep(0.2)) if fn is hang else fn


def test_a_body_that_swallows_everything_is_over_time_all_the_same() -> None:
    """It is interrupted again until it ends, and what it returns does not count."""
    swallowed = []

    def stubborn() -> str:
        while len(swallowed) < 2:
            try:
                time.sleep(LONG)
            except BaseException as error:
                swallowed.append(error)
        return "done"

    with pytest.raises(RunTimeout):
        bodies.call(stubborn, (), {}, timeout=0.02)
    assert len(swallowed) == 2


def test_an_async_body_that_blocks_its_loop_is_timed_out_when_it_comes_back() -> None:
    """The loop could not tell it before."""

    async def block() -> str:
        time.sleep(0.1)
        return "done"

    with pytest.raises(RunTimeout):
        bodies.call(block, (), {}, timeout=0.02)


def test_a_bodys_own_timeout_error_is_its_own() -> None:
    """It is not taken for ours."""

    def fail() -> None:
        raise TimeoutError("of a socket")

    async def fail_async() -> None:
        raise TimeoutError("of a socket")

    for fn in (fail, fail_async):
        with pytest.raises(TimeoutError, match="of a socket") as caught:
            bodies.call(fn, (), {}, timeout=5)
        assert type(caught.value) is TimeoutError


def test_the_outer_of_two_deadlines_ends_both_bodies() -> None:
    """An `except Exception` between them does not hold it up."""

    def outer() -> None:
        try:
            bodies.call(hang, (), {}, timeout=LONG)
        except Exception:
            pytest.fail("the outer deadline was taken for the inner one")

    with pytest.raises(RunTimeout, match="'outer'"):
        bodies.call(outer, (), {}, timeout=0.02)


def test_alarms_of_others_are_put_back() -> None:
    """The handler and the timer that stood before a body with a timeout."""
    old = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    before = signal.setitimer(signal.ITIMER_REAL, 50)
    try:
        bodies.call(lambda: None, (), {}, timeout=5)
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
        assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, old)


def test_another_thread_can_interrupt_the_main_threads_body() -> None:
    """Also in a blocking call."""
    poke = threading.Timer(0.02, interrupts.raise_in_main, [Cancelled("by hand")])
    poke.start()

    with pytest.raises(Cancelled, match="by hand"), interrupts.armed():
        hang()
    poke.join()


def test_an_interruption_waits_for_the_end_of_a_shield() -> None:
    """Our own writes are never cut in two."""
    seen = []

    def write() -> None:
        with interrupts.shielded():
            assert interrupts.raise_in_main(Cancelled())
            seen.append("written")

    with pytest.raises(Cancelled), interrupts.armed():
        write()
    assert seen == ["written"]


def lose_one_alarm() -> None:
    """Take an alarm away unseen, as the system does where it comes just before a blocking call begins."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    try:
        signal.sigwait([signal.SIGALRM])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def test_an_interruption_is_repeated_until_it_was_raised() -> None:
    """An alarm that woke nothing is not the last one."""
    poke = threading.Timer(0.05, interrupts.raise_in_main, [Cancelled("by hand")])
    poke.start()
    started = time.monotonic()

    def body() -> None:
        lose_one_alarm()
        hang()

    with pytest.raises(Cancelled, match="by hand"), interrupts.armed():
        body()

    assert time.monotonic() - started < 10
    poke.join()


def test_the_end_of_a_bodys_time_is_repeated_until_it_was_raised() -> None:
    """As what another thread asks for."""
    started = time.monotonic()

    def body() -> None:
        lose_one_alarm()
        hang()

    with pytest.raises(RunTimeout):
        bodies.call(body, (), {}, timeout=0.05)

    assert time.monotonic() - started < 10


def test_an_interruption_outlives_a_shield_that_is_left_by_an_error() -> None:
    """Though the body goes on with that error, and no further alarm is asked for."""
    started = time.monotonic()

    def write() -> None:
        with interrupts.shielded():
            assert interrupts.raise_in_main(Cancelled())
            raise OSError("disk full")

    def body() -> None:
        with contextlib.suppress(OSError):
            write()
        hang()

    with pytest.raises(Cancelled), interrupts.armed():
        body()

    assert time.monotonic() - started < 10


def test_several_interruptions_are_raised_one_after_another() -> None:
    """None takes the place of another: each is meant for a claim of its own."""

    def ask() -> None:
        with interrupts.shielded():
            assert interrupts.raise_in_main(Cancelled("outer"))
            assert interrupts.raise_in_main(Fenced("inner"))

    with interrupts.armed():
        with pytest.raises(Cancelled, match="outer"):
            ask()
        with pytest.raises(Fenced, match="inner"):
            hang()


def test_what_came_too_late_for_a_body_is_missed_and_never_raised_in_the_next() -> None:
    """Whoever asked for it can ask again."""
    late = Cancelled("late")
    with contextlib.suppress(OSError), interrupts.armed(), interrupts.shielded():
        assert interrupts.raise_in_main(late)
        assert not interrupts.is_missed(late)
        # Masked, so that nothing is raised between the two ends.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        raise OSError("disk full")

    with interrupts.armed():
        # Its alarm rings here, before this returns.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])

    assert interrupts.is_missed(late)


def test_interruptions_at_any_point_leave_nothing_armed() -> None:
    """Whether they fall in a body, or where it is entered and left, also one within another."""
    stop = threading.Event()

    def poke() -> None:
        while not stop.wait(0.0005):
            interrupts.raise_in_main(Cancelled())

    def nest() -> None:
        for _ in range(20):
            with contextlib.suppress(Cancelled), interrupts.armed(), interrupts.shielded():
                pass

    poker = threading.Thread(target=poke)
    poker.start()
    for _ in range(200):
        with contextlib.suppress(Cancelled), interrupts.armed():
            nest()
            nest()
    stop.set()
    poker.join()

    assert not interrupts.raise_in_main(Cancelled())


def test_where_no_body_runs_nothing_is_interrupted() -> None:
    """`raise_in_main` says so."""
    assert not interrupts.raise_in_main(Cancelled())


def test_a_coroutine_function_runs_from_a_thread_without_a_loop() -> None:
    """With the caller's context variables; and from one whose loop runs, in another thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("seen")

    async def look() -> str:
        return variable.get()

    async def from_loop() -> str:
        return str(bodies.call(look, (), {}))

    assert bodies.call(look, (), {}) == "seen"
    assert asyncio.run(from_loop()) == "seen"
