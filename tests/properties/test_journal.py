"""Random bodies and their journals: replay answers what was recorded, or says that it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestra.errors import NonDeterministic
from orchestra.journal import Asked, Branch, Replay
from tests.exploring import tries


@dataclass(frozen=True)
class Row:
    """A journaled step."""

    key: str
    branch: str
    position: int
    recorded_attempt: int = 1
    fingerprint: str | None = None


#: What a body asks for: the number of its branch, and the step's name.
Program = list[tuple[int, str]]
programs = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["load", "clean", "sleep"])), min_size=1, max_size=20)


def asked_by(program: Program) -> Iterator[Asked]:
    """What a body with four branches asks for, in this order."""
    body = Branch()
    lines = [body, body.child(), body.child(), body.child()]
    for line, name in program:
        yield lines[line].ask(name)


def rows_of(program: Program, attempt: int = 1) -> list[Row]:
    """The journal after all of a program has run."""
    return [Row(a.key, a.branch, a.position, attempt, f"inputs of {a.key}") for a in asked_by(program)]


def answers(program: Program, replay: Replay[Row]) -> list[Row | None]:
    """What each of a program's steps is answered."""
    return [replay.answer(asked, f"inputs of {asked.key}") for asked in asked_by(program)]


@settings(deadline=None, max_examples=tries(80))
@given(programs, st.integers(0, 20))
def test_the_same_program_gets_the_same_answers_from_any_prefix(program: Program, cut: int) -> None:
    """What was recorded is handed back, and only that."""
    journal = rows_of(program)[:cut]

    found = answers(program, Replay(journal, 1))

    assert [row for row in found if row is not None] == journal
    assert all(row is None for row in found[len(journal) :])


@settings(deadline=None, max_examples=tries(80))
@given(programs, st.data())
def test_branches_may_go_on_in_any_order(program: Program, data: st.DataObject) -> None:
    """Steps are counted branch by branch, so their order among branches does not matter."""
    journal = {row.key: row for row in rows_of(program)}
    order = data.draw(st.permutations(range(4)))
    shuffled = [step for line in order for step in program if step[0] == line]

    replay = Replay(journal.values(), 1)
    for asked in asked_by(shuffled):
        assert replay.answer(asked) == journal[asked.key]
    replay.check_ended()


@settings(deadline=None, max_examples=tries(80))
@given(programs, st.data())
def test_another_step_at_a_recorded_place_is_told(program: Program, data: st.DataObject) -> None:
    """Both sides are named, and nothing of the changed branch is answered after it."""
    changed = data.draw(st.integers(0, len(program) - 1))
    other = [*program[:changed], (program[changed][0], "other"), *program[changed + 1 :]]
    replay = Replay(rows_of(program), 1)
    before = list(asked_by(program))[changed]

    with pytest.raises(NonDeterministic) as caught:
        answers(other, replay)
    assert (caught.value.branch, caught.value.position) == (before.branch, before.position)
    assert caught.value.recorded == before.key


@settings(deadline=None, max_examples=tries(80))
@given(programs, st.data())
def test_a_hole_is_told(program: Program, data: st.DataObject) -> None:
    """A step that is missing while a later one of its branch is there cannot have been recorded in order."""
    journal = rows_of(program)
    hole = data.draw(st.sampled_from(journal))
    assume(any(row.branch == hole.branch and row.position > hole.position for row in journal))

    with pytest.raises(NonDeterministic) as caught:
        answers(program, Replay([row for row in journal if row != hole], 1))
    assert (caught.value.asked, caught.value.recorded) == (hole.key, None)


@settings(deadline=None, max_examples=tries(80))
@given(programs, st.integers(1, 20))
def test_a_body_that_ends_too_early_is_told(program: Program, cut: int) -> None:
    """A recorded step that was not asked for is left over."""
    assume(cut <= len(program))
    replay = Replay(rows_of(program), 1)
    answers(program[:-cut], replay)

    with pytest.raises(NonDeterministic, match="has ended"):
        replay.check_ended()


@settings(deadline=None, max_examples=tries(80))
@given(programs, st.sets(st.integers(0, 19)))
def test_a_retry_takes_over_what_ended_well(program: Program, failed: set[int]) -> None:
    """Moved rows answer by key, whatever was run again before them; what failed is new, and takes its old place."""
    kept = [row for number, row in enumerate(rows_of(program)) if number not in failed]

    first = answers(program, Replay(kept, 2))
    assert [row for row in first if row is not None] == kept

    again = [
        replace(row, recorded_attempt=2) if number in failed else row for number, row in enumerate(rows_of(program))
    ]
    replay = Replay(again, 2)
    assert answers(program, replay) == again
    replay.check_ended()


@settings(deadline=None, max_examples=tries(80))
@given(programs, st.data())
def test_a_retry_runs_steps_with_other_inputs_again(program: Program, data: st.DataObject) -> None:
    """Those whose fingerprints differ; a fingerprint that is not known differs from none."""
    journal = rows_of(program)
    changed = data.draw(st.sampled_from(journal))
    replay = Replay(journal, 2)

    for asked in asked_by(program):
        given_inputs = "others" if asked.key == changed.key else f"inputs of {asked.key}"
        found = replay.answer(asked, given_inputs)
        assert (found is None) == (asked.key == changed.key)
    assert Replay([replace(changed, fingerprint=None)], 2).answer(_asked(changed), "others") is not None
    assert Replay([changed], 2).answer(_asked(changed), None) is not None


def test_a_retry_checks_positions_until_it_runs_a_step_again() -> None:
    """Before that another step at a moved one's place means changed code; after it, keys alone count."""
    moved = rows_of([(0, "load"), (0, "clean")])

    with pytest.raises(NonDeterministic):
        answers([(0, "other"), (0, "clean")], Replay(moved, 2))

    replay = Replay(moved[1:], 2)
    assert answers([(0, "load"), (0, "extra"), (0, "clean")], replay) == [None, None, moved[1]]


def test_a_retry_does_not_insist_on_what_it_took_over() -> None:
    """A moved step that the mended code does not ask for is history."""
    replay = Replay(rows_of([(0, "load"), (0, "clean")]), 2)

    assert answers([(0, "load")], replay)[0] is not None
    replay.check_ended()


def _asked(row: Row) -> Asked:
    return Asked(row.key, row.branch, row.position)
