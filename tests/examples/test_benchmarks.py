"""The benchmarks measure what they say: every shape comes to its answer, in one process too."""

from __future__ import annotations

import pytest

from benchmarks import bare, flows
from benchmarks.rows import ROWS
from orchestra import Flow

ANSWERS = {row.name: row.answer for row in ROWS}


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [("chain", flows.in_a_row, (100,)), ("fan-out", flows.fan_out, (1000,)), ("layers", flows.all_to_all, ())],
    ids=["chain", "fan-out", "layers"],
)
def test_shapes_come_to_the_answer_of_their_row(name: str, shape: Flow[..., int], arguments: tuple[int, ...]) -> None:
    """A flow that is measured on workers gives the same here."""
    assert shape(*arguments) == ANSWERS[name]


def test_every_row_with_a_celery_column_has_both_halves() -> None:
    """Bare Celery and orchestra are measured at the same shapes."""
    compared = {row.name for row in ROWS if row.celery and row.name != "import"}

    assert compared <= bare.SHAPES.keys() & flows.SHAPES.keys()
