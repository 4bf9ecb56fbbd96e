"""What the documents show is true: their code is in the examples, their links lead somewhere."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from orchestra.settings import Settings
from tests.helpers import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
IDS = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
SOURCES = [path.read_text() for path in sorted(ROOT.glob("examples/**/*.py"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_code_in_documents_comes_from_the_examples(document: Path) -> None:
    """Every block of Python stands word for word in a file that the tests run."""
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)

    assert [block for block in blocks if not any(block in source for source in SOURCES)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_in_documents_lead_to_files(document: Path) -> None:
    """Every relative link names something that is there."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", document.read_text())

    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_documents_have_no_holes(document: Path) -> None:
    """Nothing was left to be filled in."""
    assert re.findall(r"@@\w+@@|TODO|FIXME", document.read_text()) == []


def test_the_index_of_the_documentation_leads_to_every_page_and_example() -> None:
    """And the README leads to it."""
    index = ROOT / "docs" / "README.md"
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", index.read_text())
    linked = {(index.parent / link).resolve() for link in links}

    pages = {page.resolve() for page in ROOT.glob("docs/**/*.md")} - {index.resolve()}
    examples = {page.parent.resolve() for page in ROOT.glob("examples/*/README.md")}
    assert (pages | examples) - linked == set()
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()


def test_every_setting_is_documented() -> None:
    """The table of settings names each there is, and no other."""
    table = (ROOT / "docs" / "reference" / "settings.md").read_text()

    documented = re.findall(r"^\| `(ORCHESTRA_\w+)`", table, re.MULTILINE)

    assert [f"ORCHESTRA_{field.name.upper()}" for field in dataclasses.fields(Settings)] == documented
