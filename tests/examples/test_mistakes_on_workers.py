"""The mistakes of docs/howto/common-mistakes.md that show on workers give the messages that the page shows."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from tests.drive import Driver
from tests.engine.conftest import driver, sqlite_database
from tests.helpers import ROOT

__all__ = ["driver", "sqlite_database"]

PAGE = (ROOT / "docs" / "howto" / "common-mistakes.md").read_text()


def shown(title: str) -> str:
    """The message that the page shows under a title, in one line."""
    found = re.search(rf"^## {title}\n.*?```text\n(.*?)\n```", PAGE.partition("# On workers")[2], re.M | re.S)
    assert found is not None, title
    return " ".join(found[1].split())


@pytest.fixture
def flows(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with the mistakes."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "howto"))
    monkeypatch.delitem(sys.modules, "on_workers", raising=False)
    import on_workers  # type: ignore[import-not-found]

    return on_workers


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Decide by what orchestra does not see", "decides_by_chance"),
        ("Return what cannot be kept", "returns_a_lock"),
        ("Call a task in a thread of your own", "starts_a_thread"),
    ],
)
def test_a_mistake_on_workers_gives_the_message_that_the_page_shows(
    driver: Driver, flows: Any, title: str, name: str
) -> None:
    """As the run's state says it."""
    run_id = driver.submit(getattr(flows, name))
    driver.settle()

    row = driver.row(run_id)
    assert f"{row['state_name']}: {' '.join(row['state_message'].split())}" == shown(title)
