"""What the tests with real workers share."""

from __future__ import annotations

import pytest

from orchestra import settings


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost is found soon."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "4")
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "1")
    settings.reset()
