"""`orchestra artifact` and `orchestra variable`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestra.artifacts import Artifact, create_image_artifact, create_markdown_artifact, create_table_artifact
from orchestra.cli import cli
from orchestra.cli._support import ExitCode


def orchestra(*words: str) -> Result:
    """What a command gives."""
    return CliRunner().invoke(cli, list(words))


def data(*words: str) -> Any:
    """What a command gives as JSON."""
    done = orchestra(*words, "-o", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def made() -> list[str]:
    """Two versions of a key, another key, and an artifact without one."""
    return [
        create_markdown_artifact("old", key="report"),
        create_markdown_artifact("# new", key="report", description="of today\nand more"),
        create_image_artifact("https://example.org/a.png", key="plot"),
        create_markdown_artifact("alone"),
    ]


def test_artifacts_are_listed(made: list[str]) -> None:
    """The newest of each key; or all of them, page by page."""
    assert [each["id"] for each in data("artifact", "ls")] == [made[2], made[1]]
    assert [each["id"] for each in data("artifact", "ls", "--type", "image")] == [made[2]]
    assert [each["id"] for each in data("artifact", "ls", "--all")] == made[::-1]
    first = orchestra("artifact", "ls", "--all", "--limit", "3")
    assert f"--after {made[1]}" in first.stderr
    assert [each["id"] for each in data("artifact", "ls", "-a", "--after", made[1])] == [made[0]]
    assert "of today" in first.stdout
    assert "and more" not in first.stdout


def test_an_artifact_is_shown_by_key_or_id(made: list[str]) -> None:
    """With all its versions, the newest first."""
    assert [each["data"] for each in data("artifact", "inspect", "report")] == ["# new", "old"]
    assert [each["data"] for each in data("artifact", "inspect", made[3])] == ["alone"]
    assert "# new" in orchestra("artifact", "inspect", "report").stdout

    missing = orchestra("artifact", "inspect", "nothing")
    assert (missing.exit_code, "'nothing'" in missing.stderr) == (ExitCode.NOT_FOUND, True)


@pytest.mark.parametrize(
    ("table", "lines"),
    [
        ([{"a": 1, "b": None}, {"b": "x", "c": [2]}], ["a  b  c", "1", "   x  [2]"]),
        ({"a": [1, 2], "b": [3]}, ["a  b", "1  3", "2"]),
        ([["a", "b"], [1]], ["1  2", "a  b", "1"]),
    ],
)
def test_a_table_is_shown_as_one(table: Any, lines: list[str]) -> None:
    """In each of its forms."""
    create_table_artifact(table, key="rows")

    assert orchestra("artifact", "inspect", "rows").stdout.splitlines()[-len(lines) :] == lines


def test_what_is_no_table_is_shown_as_it_is() -> None:
    """Though it was kept as one."""
    Artifact(key="rows", type="table", data=[]).create()

    assert "[]" in orchestra("artifact", "inspect", "rows").stdout


def test_artifacts_are_deleted_by_key_or_id(made: list[str]) -> None:
    """One of the two must be said."""
    assert orchestra("artifact", "delete", "--id", made[1]).exit_code == 0
    assert [each["data"] for each in data("artifact", "inspect", "report")] == ["old"]
    assert "1 version of 'plot' deleted" in orchestra("artifact", "delete", "plot", "--yes").stderr
    assert [each["key"] for each in data("artifact", "ls")] == ["report"]

    assert orchestra("artifact", "delete").exit_code == ExitCode.USAGE
    assert orchestra("artifact", "delete", "plot", "-y").exit_code == ExitCode.NOT_FOUND
    assert orchestra("artifact", "delete", "--id", made[1]).exit_code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("text", "value", "printed"),
    [("eu-west", "eu-west", "eu-west"), ("5", 5, "5"), ('{"a": [1]}', {"a": [1]}, '{"a": [1]}'), ("NaN", "NaN", "NaN")],
)
def test_a_variable_is_set_and_read(text: str, value: Any, printed: str) -> None:
    """As JSON where it is some, else as text."""
    assert orchestra("variable", "set", "my-variable", text, "--tag", "etl").exit_code == 0

    found = data("variable", "inspect", "my-variable")
    assert (found["value"], found["tags"]) == (value, ["etl"])
    assert orchestra("variable", "get", "my-variable").stdout == f"{printed}\n"


def test_variables_are_listed_changed_and_deleted() -> None:
    """By name."""
    for name in "cab":
        orchestra("variable", "set", name, "1")
    assert [each["name"] for each in data("variable", "ls")] == ["a", "b", "c"]
    assert "--after b" in orchestra("variable", "ls", "--limit", "2").stderr

    refused = orchestra("variable", "set", "a", "2")
    assert (refused.exit_code, "--overwrite" in refused.stderr) == (ExitCode.CONFLICT, True)
    assert orchestra("variable", "set", "a", "2", "--overwrite").exit_code == 0
    assert orchestra("variable", "get", "a").stdout == "2\n"

    assert orchestra("variable", "unset", "a").exit_code == 0
    assert orchestra("variable", "delete", "b", "--yes").exit_code == 0
    assert [each["name"] for each in data("variable", "ls")] == ["c"]
    for words in (("get", "a"), ("inspect", "a"), ("unset", "a")):
        assert orchestra("variable", *words).exit_code == ExitCode.NOT_FOUND
    assert orchestra("variable", "set", "No Name", "1").exit_code == ExitCode.USAGE


PROJECT = """
deployments:
- name: nightly
  entrypoint: jobs.py:job
  parameters: {n: "{{ orchestra.variables.rows }}"}
  description: "of {{ prefect.variables.region }}"
"""


def test_a_project_file_is_filled_in_with_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is nothing else keeps its type; one that is not set is named."""
    (tmp_path / "jobs.py").write_text("from orchestra import flow\n@flow\ndef job(n: int = 1):\n    return n\n")
    (tmp_path / "orchestra.yaml").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    orchestra("variable", "set", "rows", "7")

    missing = orchestra("deploy", "--all")
    assert (missing.exit_code, "no variable 'region'" in missing.stderr) == (ExitCode.USAGE, True)

    orchestra("variable", "set", "region", "eu")
    assert orchestra("deploy", "--all").exit_code == 0
    found = data("deployment", "inspect", "job/nightly")
    assert (found["parameters"], found["description"]) == ({"n": 7}, "of eu")
