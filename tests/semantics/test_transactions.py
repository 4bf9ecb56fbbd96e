"""Transactions: what is undone, in which order, what is committed; in this process and on workers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from orchestra import flow, sleep, task
from orchestra.errors import CommitHookFailed, DefinitionError, RollbackFailed, SerializationError
from orchestra.transactions import (
    AsyncTransaction,
    CommitMode,
    Transaction,
    TransactionState,
    atransaction,
    get_transaction,
    transaction,
)
from tests.semantics.conftest import EFFECTS, Run

pytestmark = pytest.mark.slow


@task
def book(what: str) -> str:
    """Something that can be undone."""
    EFFECTS.append(f"book {what}")
    own = get_transaction()
    assert own is not None
    own.set("what", what)
    return what


@book.on_rollback
def cancel_booking(txn: Transaction) -> None:
    EFFECTS.append(f"cancel {txn.get('what')}")


@book.on_commit
def confirm_booking(txn: Transaction) -> None:
    EFFECTS.append(f"confirm {txn.get('what')}")


@task
async def abook(what: str) -> str:
    """The same, without holding the loop up."""
    EFFECTS.append(f"book {what}")
    return what


@abook.on_rollback
def cancel_abooking(txn: Transaction) -> None:
    EFFECTS.append(f"cancel for {txn.get('customer', 'nobody')}")


@task
def refuse(what: str = "") -> None:
    """Fails."""
    raise ConnectionError(f"refused {what}")


@refuse.on_rollback
def undo_refused(txn: Transaction) -> None:
    EFFECTS.append("undo what failed")


@task
def release(what: str) -> None:
    """Undoes, as a task."""
    EFFECTS.append(f"release {what}")


@task(retries=2, retry_delay_seconds=0)
def release_at_last(what: str) -> None:
    """Undoes at the third try."""
    EFFECTS.append(f"try {what}")
    if EFFECTS.count(f"try {what}") < 3:
        raise ConnectionError("not yet")


def note(what: str, *, times: int = 1) -> None:
    """A plain function."""
    EFFECTS.extend([what] * times)


def fail(what: str) -> None:
    """A plain function that fails."""
    EFFECTS.append(f"fail {what}")
    raise ConnectionError(what)


# -- rolling back and committing ---------------------------------------------------------------------------------


@flow
def trip(fails: bool) -> str:
    with transaction():
        book("flight")
        book.submit("hotel").result()
        if fails:
            refuse()
    return "booked"


def test_a_failed_block_is_undone_newest_first(run: Run, effects: list[Any]) -> None:
    """What ended well is undone, the newest first; the failing task's own hook is not called."""
    state = run(trip, fails=True)

    assert (state.type, state.name) == ("FAILED", "Failed")
    assert isinstance(state.data, ConnectionError)
    assert effects == ["book flight", "book hotel", "cancel hotel", "cancel flight"]


def test_a_block_that_ends_well_is_committed_in_order(run: Run, effects: list[Any]) -> None:
    """Commit hooks run at the end of the block, the oldest first; nothing is undone."""
    assert run.value(trip, fails=False) == "booked"
    assert effects == ["book flight", "book hotel", "confirm flight", "confirm hotel"]


@flow
def alone() -> str:
    book("flight")
    return book.submit("hotel").result()


def test_alone_a_task_commits_at_once(run: Run, effects: list[Any]) -> None:
    """Outside of a transaction the commit hooks of a task run at its end."""
    run.value(alone)

    assert effects == ["book flight", "confirm flight", "book hotel", "confirm hotel"]


@flow
def with_functions(fails: bool) -> None:
    with transaction() as txn:
        txn.on_rollback(release, "seat")
        txn.on_rollback(note, "noted", times=2)
        txn.on_commit(note, "committed")
        txn.on_commit(release, "sandbox")
        if fails:
            raise ValueError("no")


def test_functions_and_tasks_are_hooks_with_their_arguments(run: Run, effects: list[Any]) -> None:
    """`txn.on_rollback(fn, *args, **kwargs)` takes a task or a function, `txn.on_commit` likewise."""
    assert isinstance(run(with_functions, fails=True).data, ValueError)
    assert effects == ["noted", "noted", "release seat"]

    effects.clear()
    run.value(with_functions, fails=False)
    assert effects == ["committed", "release sandbox"]


@flow
def leaving_futures(fails: bool) -> None:
    with transaction():
        for what in "abc":
            book.submit(what)
        if fails:
            raise ValueError("no")


def test_what_was_submitted_is_waited_for_and_undone(run: Run, effects: list[Any]) -> None:
    """A block that fails waits for its tasks, so that none of them stays done."""
    run(leaving_futures, fails=True)

    assert sorted(effects) == sorted(f"{done} {what}" for done in ("book", "cancel") for what in "abc")
    assert [done.split()[0] for done in effects] == ["book"] * 3 + ["cancel"] * 3


def test_a_block_that_ends_well_waits_for_what_was_submitted(run: Run, effects: list[Any]) -> None:
    """Its end commits all of it."""
    run.value(leaving_futures, fails=False)

    assert [done.split()[0] for done in effects] == ["book"] * 3 + ["confirm"] * 3


# -- nesting -----------------------------------------------------------------------------------------------------


@flow
def nested(inner_mode: CommitMode | None, fails: str, catches: bool = False) -> list[Any]:
    seen: list[Any] = []
    with transaction() as outer:
        book("flight")
        try:
            with transaction(commit_mode=inner_mode) as inner:
                book("hotel")
                if fails == "inner":
                    raise ValueError("inner")
        except ValueError:
            if not catches:
                raise
        seen += [inner.state.value, outer.state.value]
        note("after inner")
        if fails == "outer":
            raise ValueError("outer")
    return [*seen, outer.state.value]


def test_an_inner_block_is_committed_with_the_outer(run: Run, effects: list[Any]) -> None:
    """Its end alone commits nothing."""
    assert run.value(nested, inner_mode=None, fails="") == ["ACTIVE", "ACTIVE", "COMMITTED"]
    assert effects == ["book flight", "book hotel", "after inner", "confirm flight", "confirm hotel"]


def test_an_inner_block_is_rolled_back_with_the_outer(run: Run, effects: list[Any]) -> None:
    """What it did is undone with the rest."""
    run(nested, inner_mode=None, fails="outer")

    assert effects == ["book flight", "book hotel", "after inner", "cancel hotel", "cancel flight"]


def test_an_eager_block_is_committed_at_its_end(run: Run, effects: list[Any]) -> None:
    """The outer block does not undo it."""
    run(nested, inner_mode=CommitMode.EAGER, fails="outer")

    assert effects == ["book flight", "book hotel", "confirm hotel", "after inner", "cancel flight"]


def test_an_inner_failure_rolls_the_outer_back_even_if_caught(run: Run, effects: list[Any]) -> None:
    """Catching the error does not save what the outer block did."""
    seen = run.value(nested, inner_mode=None, fails="inner", catches=True)

    assert seen == ["ROLLED_BACK", "ROLLED_BACK", "ROLLED_BACK"]
    assert effects == ["book flight", "book hotel", "cancel hotel", "cancel flight", "after inner"]


@flow
def going_on() -> bool:
    with transaction() as outer:
        try:
            with transaction():
                raise ValueError("inner")
        except ValueError:
            book("too late")
    return outer.is_rolled_back()


def test_what_is_done_in_a_block_after_it_was_rolled_back_is_undone_at_its_end(run: Run, effects: list[Any]) -> None:
    """Nothing of a block that was rolled back stays."""
    assert run.value(going_on)
    assert effects == ["book too late", "cancel too late"]


@flow
def off(commits: bool) -> str:
    with transaction(commit_mode=CommitMode.OFF) as txn:
        book("flight")
        if commits:
            assert txn.commit()
    return txn.state.value


def test_off_rolls_back_unless_committed(run: Run, effects: list[Any]) -> None:
    """`CommitMode.OFF` leaves the commit to the body."""
    assert run.value(off, commits=False) == "ROLLED_BACK"
    assert effects == ["book flight", "cancel flight"]

    effects.clear()
    assert run.value(off, commits=True) == "COMMITTED"
    assert effects == ["book flight", "confirm flight"]


@flow
def by_hand() -> list[bool]:
    with transaction() as txn:
        book("flight")
        return [txn.rollback(), txn.rollback(), txn.is_rolled_back()]


def test_rollback_by_hand(run: Run, effects: list[Any]) -> None:
    """`txn.rollback()` undoes what was done so far, once, and raises nothing."""
    assert run.value(by_hand) == [True, False, True]
    assert effects == ["book flight", "cancel flight"]


# -- values ------------------------------------------------------------------------------------------------------


@flow
def values() -> list[Any]:
    with transaction() as outer:
        given = [1]
        outer.set("list", given)
        given.append(2)
        with transaction() as inner:
            inner.set("own", "inner")
            got = inner.get("list")
            got.append(3)
            found = [inner.get("list"), outer.get("own", None), inner.get("no", "default")]
            try:
                inner.get("no")
            except ValueError as error:
                found.append("'no'" in str(error))
    return found


def test_values_are_inherited_and_copied(run: Run, effects: list[Any]) -> None:
    """`get` looks in the blocks around, gives a copy, and raises where there is nothing."""
    assert run.value(values) == [[1], None, "default", True]


@task
def inner_value() -> Any:
    """Asks from a task's body."""
    found = get_transaction()
    assert found is not None
    return found.get("customer", None)


@flow
def inherited() -> list[Any]:
    with transaction() as txn:
        txn.set("customer", "Ada")
        return [inner_value(), inner_value.submit().result()]


def test_a_task_sees_the_values_of_the_block_it_was_called_in(run: Run, effects: list[Any]) -> None:
    """Directly and submitted, in whatever process."""
    assert run.value(inherited) == ["Ada", "Ada"]


# -- keys --------------------------------------------------------------------------------------------------------


@flow
def keyed(key: str, value: int, overwrite: bool = False, stages: bool = True) -> list[Any]:
    with transaction(key=key, overwrite=overwrite) as txn:
        if txn.is_committed():
            return ["before", txn.read()]
        states = [txn.is_active()]
        if stages:
            txn.stage(value)
        states.append(txn.is_staged())
    return [*states, txn.is_committed()]


def test_a_key_is_committed_once(run: Run, effects: list[Any]) -> None:
    """What was staged under a key is there for the next transaction with this key."""
    key = f"invoice-{run.way}"

    assert run.value(keyed, key=key, value=1) == [True, True, True]
    assert run.value(keyed, key=key, value=2) == ["before", 1]
    assert run.value(keyed, key=key, value=3, overwrite=True) == [True, True, True]
    assert run.value(keyed, key=key, value=2) == ["before", 3]


def test_a_key_is_committed_though_nothing_was_staged(run: Run, effects: list[Any]) -> None:
    """The key alone says that its block was done."""
    key = f"unstaged-{run.way}"

    assert run.value(keyed, key=key, value=1, stages=False) == [True, False, True]
    assert run.value(keyed, key=key, value=2) == ["before", None]


@flow
def staging_always(key: str, value: int) -> Any:
    with transaction(key=key) as txn:
        txn.stage(value)
        return txn.read()


def test_what_was_committed_under_a_key_stays(run: Run, effects: list[Any]) -> None:
    """To stage again in a transaction that was committed before it began does nothing."""
    key = f"kept-{run.way}"

    assert run.value(staging_always, key=key, value=1) == 1
    assert run.value(staging_always, key=key, value=2) == 1


@flow
def rolled_back_by_key(key: str) -> bool:
    with contextlib.suppress(ValueError), transaction(key=key) as txn:
        txn.stage("half")
        raise ValueError("no")
    with transaction(key=key) as txn:
        return txn.is_committed()


def test_a_key_of_a_block_that_was_rolled_back_is_not_kept(run: Run, effects: list[Any]) -> None:
    """What was staged goes with it."""
    assert run.value(rolled_back_by_key, key=f"no-{run.way}") is False


# -- hooks that fail ---------------------------------------------------------------------------------------------


@flow
def failing_hooks(catches: bool, function: bool) -> str:
    try:
        with transaction() as txn:
            txn.on_rollback(note, "first")
            txn.on_rollback(fail if function else release_at_last, "second")
            txn.on_rollback(note, "third")
            raise ValueError("the block")
    except RollbackFailed as error:
        EFFECTS.append(repr(error.__cause__))
        if not catches:
            raise
    return "went on"


@pytest.mark.parametrize("catches", [False, True])
def test_a_failing_rollback_hook_fails_the_run_and_the_rest_still_run(
    run: Run, effects: list[Any], catches: bool
) -> None:
    """The run ends as RollbackFailed, whatever its body makes of the error."""
    state = run(failing_hooks, catches=catches, function=True)

    assert effects == ["third", "fail second", "first", "ValueError('the block')"]
    assert (state.type, state.name) == ("FAILED", "RollbackFailed")
    assert "second" in str(state.message)


def test_a_hook_that_is_a_task_is_tried_again_by_its_own_policy(run: Run, effects: list[Any]) -> None:
    """Its retries are its own."""
    state = run(failing_hooks, catches=False, function=False)

    assert effects == ["third", "try second", "try second", "try second", "first"]
    assert state.name == "Failed"


@flow
def failing_commit() -> str:
    with transaction() as txn:
        txn.on_commit(fail, "first")
        txn.on_commit(note, "second")
        txn.on_rollback(note, "undone")
    return "not reached"


def test_a_raising_commit_hook_is_seen_and_undoes_nothing(run: Run, effects: list[Any]) -> None:
    """The hooks after it run, the transaction stays committed, the run fails."""
    state = run(failing_commit)

    assert effects == ["fail first", "second"]
    assert (state.type, state.name) == ("FAILED", "CommitHookFailed")
    assert isinstance(state.data, CommitHookFailed)


@flow(retries=1)
def failing_commit_with_retries() -> str:
    with transaction() as txn:
        txn.on_commit(fail, "first")
    EFFECTS.append("went on behind it")
    return "forgotten"


def test_a_raising_commit_hook_is_not_forgotten_by_a_retry(run: Run, effects: list[Any]) -> None:
    """The block is not done again, so a retry of the flow would end well."""
    state = run(failing_commit_with_retries)

    assert effects == ["fail first"]
    assert state.name == "CommitHookFailed"


@task
def fussy() -> str:
    """Ends well; its commit does not."""
    return "done"


@fussy.on_commit
def refuse_commit(txn: Transaction) -> None:
    raise ValueError("no")


@flow
def alone_and_fussy() -> None:
    fussy()


def test_a_raising_commit_hook_fails_a_task_alone(run: Run, effects: list[Any]) -> None:
    """Outside of a transaction it is the task's own failure."""
    assert run(alone_and_fussy).name == "CommitHookFailed"


# -- async -------------------------------------------------------------------------------------------------------


@flow
async def async_trip(fails: bool) -> str:
    async with atransaction() as txn:
        assert isinstance(txn, AsyncTransaction)
        txn.set("customer", "Ada")
        await asyncio.gather(abook("flight"), abook("hotel"))
        await abook.submit("car")
        await sleep(1.5)
        if fails:
            refuse()
    return txn.state.value


def test_async_blocks_with_branches(run: Run, effects: list[Any]) -> None:
    """Branches inside of a block belong to it."""
    assert run.value(async_trip, fails=False) == TransactionState.COMMITTED.value
    effects.clear()
    assert isinstance(run(async_trip, fails=True).data, ConnectionError)
    assert sorted(effects) == ["book car", "book flight", "book hotel", *["cancel for Ada"] * 3]


# -- retries -----------------------------------------------------------------------------------------------------


@flow(retries=1)
def trying_again() -> int:
    kept = book("before")
    with transaction():
        book("inside")
        if EFFECTS.count("book inside") < 2:
            raise ConnectionError("once")
    return len(kept)


def test_a_retry_of_a_flow_does_a_rolled_back_block_anew(run: Run, effects: list[Any]) -> None:
    """What was undone is done again, what stands outside of the block is not."""
    run.value(trying_again)

    assert effects == [
        *("book before", "confirm before"),
        *("book inside", "cancel inside"),
        *("book inside", "confirm inside"),
    ]


@flow(retries=1)
def failing_later() -> None:
    with transaction():
        book("inside")
    if EFFECTS.count("later") < 1:
        note("later")
        raise ConnectionError("once")


def test_a_retry_of_a_flow_does_not_repeat_a_committed_block(run: Run, effects: list[Any]) -> None:
    """Its tasks are not run again, nor its hooks."""
    run.value(failing_later)

    assert effects == ["book inside", "confirm inside", "later"]


# -- misuse ------------------------------------------------------------------------------------------------------


@flow
def misused(what: str) -> None:
    with transaction() as txn:
        if what == "called":
            txn.on_rollback(note("now"))  # type: ignore[func-returns-value, arg-type]
        if what == "future":
            txn.on_rollback(note, [book.submit("flight")])
    txn.on_rollback(note, "late")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("called", "without calling it"),
        ("late", "takes no hooks any more"),
        ("future", "hand on its .result()"),
    ],
)
def test_mistakes_say_what_to_do(run: Run, effects: list[Any], what: str, said: str) -> None:
    """A clear error instead of a hook that never runs."""
    state = run(misused, what=what)

    assert isinstance(state.data, DefinitionError)
    assert said in str(state.data)


@pytest.mark.parametrize(("key", "said"), [("", "not empty"), (7, "is a text"), ("k" * 600, "Take a digest")])
def test_a_key_that_cannot_be_kept_is_refused(run: Run, effects: list[Any], key: Any, said: str) -> None:
    """At the beginning of the block, not at its commit."""
    state = run(keyed.with_options(validate_parameters=False), key=key, value=1)

    assert isinstance(state.data, DefinitionError)
    assert said in str(state.data)


@flow
def setting_a_lock() -> None:
    with transaction() as txn:
        txn.set("lock", threading.Lock())


def test_what_cannot_be_copied_is_refused(run: Run, effects: list[Any]) -> None:
    """The name is told."""
    state = run(setting_a_lock)

    assert isinstance(state.data, SerializationError)
    assert "set under 'lock'" in str(state.data)


def _in_a_script() -> None:
    with transaction() as txn:
        book("flight")
        txn.on_rollback(note, "noted")
        raise ValueError("no")


def test_outside_of_flows_hooks_run_too(effects: list[Any], home: Any) -> None:
    """A transaction in a plain script."""
    with pytest.raises(ValueError, match="no"):
        _in_a_script()

    assert effects == ["book flight", "noted", "cancel flight"]
    assert get_transaction() is None
