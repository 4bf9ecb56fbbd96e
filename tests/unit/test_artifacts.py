"""What may be an artifact or a variable, and what is told of what may not."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from orchestra import artifacts, flow
from orchestra.artifacts import (
    Artifact,
    ArtifactRecord,
    ImageArtifact,
    LinkArtifact,
    MarkdownArtifact,
    ProgressArtifact,
    TableArtifact,
    acreate_progress_artifact,
    aupdate_progress_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from orchestra.errors import ArtifactNotFound, InvalidArtifact, InvalidVariable
from orchestra.variables import LARGEST_VALUE, Variable

KINDS = [
    (MarkdownArtifact(markdown="# Done"), "markdown", "# Done"),
    (LinkArtifact(link="https://example.org"), "markdown", "[https://example.org](https://example.org)"),
    (LinkArtifact(link="https://example.org", link_text="here"), "markdown", "[here](https://example.org)"),
    (ImageArtifact(image_url="https://example.org/a.png"), "image", "https://example.org/a.png"),
    (ProgressArtifact(progress=5), "progress", 5.0),
    (TableArtifact(table={"a": [1, math.nan]}), "table", '{"a": [1, null]}'),
    (TableArtifact(table=[["a", math.inf], [date(2026, 1, 2), None]]), "table", '[["a", "inf"], ["2026-01-02", null]]'),
    (Artifact(type="note", data={"a": 1}), "note", '{"a": 1}'),
]


@pytest.mark.parametrize(("artifact", "kind", "data"), KINDS)
def test_an_artifact_is_kept_as_prefect_keeps_it(artifact: Artifact, kind: str, data: Any) -> None:
    """Markdown as its text, a table as JSON; outside of any run, too."""
    made = artifact.create()

    assert (made.type, made.data, made.flow_run_id) == (kind, data, None)


def test_a_class_of_ones_own_says_what_is_kept() -> None:
    """By `format`."""

    class Html(Artifact):
        type = "html"

        def format(self) -> str:
            return f"<p>{self.data}</p>"

    assert Html(type="html", data="x").create().data == "<p>x</p>"


def test_an_artifact_is_found_by_its_key_or_made() -> None:
    """The newest version counts."""
    assert Artifact.get("report") is None

    first, made = MarkdownArtifact.get_or_create("report", "of today", markdown="a")
    assert (first.data, first.description, made) == ("a", "of today", True)

    create_markdown_artifact("b", key="report")
    found, made = MarkdownArtifact.get_or_create("report", markdown="c")
    assert (found.data, made) == ("b", False)


def test_a_progress_moves_in_place() -> None:
    """The same artifact, also from a coroutine."""
    made = create_progress_artifact(0, key="load", description="rows")

    assert update_progress_artifact(made, 40) == made
    found = Artifact.get("load")
    assert found is not None
    assert (found.id, found.data, found.description) == (made, 40.0, "rows")

    async def more() -> None:
        other = await acreate_progress_artifact(1)
        await aupdate_progress_artifact(other, 2)
        await update_progress_artifact(made, 100, description="done")  # type: ignore[misc]  # awaitable in coroutines

    asyncio.run(more())
    found = Artifact.get("load")
    assert found is not None
    assert (found.data, found.description) == (100.0, "done")


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: create_markdown_artifact("x", key="Daily Report"), "'Daily Report' cannot be the key"),
    (lambda: create_markdown_artifact("x", key=""), "lower-case letters, digits and dashes"),
    (lambda: create_markdown_artifact("x", key="a_b"), "'a_b' cannot be the key"),
    (lambda: create_markdown_artifact("x", key="a" * 256), "1 to 255"),
    (lambda: create_markdown_artifact("x", key="../../etc/passwd"), "cannot be the key"),
    (lambda: create_markdown_artifact("x", key="a\n"), "cannot be the key"),
    (lambda: create_markdown_artifact(5), "markdown is a text, not 5"),  # type: ignore[arg-type]
    (lambda: create_markdown_artifact("x" * artifacts.LARGEST_ARTIFACT, key="big"), "the markdown 'big' is 1,048,578"),
    (lambda: create_table_artifact([1, 2]), "list of dictionaries"),  # type: ignore[list-item]
    (lambda: create_table_artifact({"a": 1}), "dictionary of lists"),  # type: ignore[dict-item]
    (lambda: create_progress_artifact(101), "from 0 to 100, not 101"),
    (lambda: create_progress_artifact(math.nan), "from 0 to 100, not nan"),
    (lambda: Artifact(type="x" * 65).create(), "1 to 64 characters"),
]


@pytest.mark.parametrize(("make", "told"), REFUSED)
def test_what_cannot_be_shown_is_refused(make: Callable[[], Any], told: str) -> None:
    """As a ValueError that says what would do."""
    with pytest.raises(InvalidArtifact, match=told) as error:
        make()

    assert isinstance(error.value, ValueError)


def test_a_progress_that_is_not_there_does_not_move() -> None:
    """Its id is named."""
    with pytest.raises(ArtifactNotFound, match="there is no artifact nowhere"):
        update_progress_artifact("nowhere", 5)


def test_text_that_no_database_takes_is_kept_readable() -> None:
    """NUL characters and halves of characters."""
    made = MarkdownArtifact(markdown="a\0b\udc80c", description="d\0").create()

    assert (made.data, made.description) == ("a\\x00b\\udc80c", "d\\x00")


def test_a_local_run_writes_its_artifacts_behind() -> None:
    """They are there when it has ended, and when its body asks."""

    @flow
    def shows() -> Any:
        create_markdown_artifact("a", key="report")
        return Artifact.get("report")

    found = shows()
    assert (found.data, Artifact.get("report")) == ("a", found)


# -- variables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["text", 5, 1.5, True, None, [1, "a"], {"a": {"b": [None]}}, "héllo\n"])
def test_a_variable_gives_what_it_was_set_to(value: Any) -> None:
    """Any plain data; None is a value too."""
    assert Variable.set("my-variable_1", value, tags=["b", "a", "b"]) == Variable("my-variable_1", value, ["b", "a"])

    assert Variable.get("my-variable_1", default="none") == value


def test_a_variable_that_is_not_set_gives_the_default() -> None:
    """None, if nothing else is said."""
    assert (Variable.get("a"), Variable.get("a", 5), Variable.unset("a")) == (None, 5, False)


def test_a_variable_is_overwritten_only_by_wish() -> None:
    """It is a ValueError else, as in Prefect."""
    Variable.set("a", 1)
    with pytest.raises(ValueError, match="there is a variable 'a' already"):
        Variable.set("a", 2)

    Variable.set("a", 3, overwrite=True)

    assert (Variable.get("a"), Variable.unset("a"), Variable.get("a")) == (3, True, None)


def test_coroutines_await_the_same_verbs() -> None:
    """Or those with an `a` before."""

    async def use() -> list[Any]:
        await Variable.set("a", 1)
        await Variable.aset("b", 2)
        found = [await Variable.get("a"), await Variable.aget("b"), await Variable.unset("a")]  # type: ignore[misc]
        return [*found, await Variable.aunset("a")]

    assert asyncio.run(use()) == [1, 2, True, False]


_DAY = datetime(2026, 1, 2, tzinfo=UTC)
TABLES = [
    ({"a": [1, 2], "b": [3]}, (["a", "b"], [[1, 3], [2, None]])),
    ([{"a": 1}, {"b": 2}], (["a", "b"], [[1, None], [None, 2]])),
    ([[1, 2], [3]], (["1", "2"], [[1, 2], [3, None]])),
    ("no table", None),
]


@pytest.mark.parametrize(("data", "shown"), TABLES)
def test_each_form_of_a_table_has_columns_and_rows(data: Any, shown: Any) -> None:
    """As wide as its widest row, for the command line and the view alike."""
    kept = ArtifactRecord("id", None, "table", None, json.dumps(data), None, None, None, _DAY, _DAY)

    assert artifacts.table_of(kept) == shown


BAD_VARIABLES: list[tuple[str, Any, Any, str]] = [
    ("My Variable", 1, None, "'My Variable' cannot be the name"),
    ("", 1, None, "1 to 255 lower-case letters"),
    ("a", object(), None, "cannot be written as JSON"),
    ("a", {1: 2}, None, "the key 1 is no text"),
    ("a", [math.nan], None, "nan is no number of JSON"),
    ("a", "x" * LARGEST_VALUE, None, "65,538 bytes of JSON; at most 65,536"),
    ("a", 1, "tag", "a list of texts, not 'tag'"),
    ("a", 1, [5], "a list of texts"),
]


@pytest.mark.parametrize(("name", "value", "tags", "told"), BAD_VARIABLES)
def test_what_cannot_be_a_variable_is_refused(name: str, value: Any, tags: Any, told: str) -> None:
    """And nothing is set."""
    with pytest.raises(InvalidVariable, match=told):
        Variable.set(name, value, tags=tags)

    assert json.dumps(Variable.get("a")) == "null"
