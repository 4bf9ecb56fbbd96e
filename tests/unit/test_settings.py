"""Settings: read once from the environment, each as its type."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from orchestra import settings
from orchestra.errors import ConfigurationError
from orchestra.settings import Settings, from_env


@pytest.fixture(autouse=True)
def no_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no home is named, it is not the developer's own, which may have profiles."""
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lease_seconds", "2.5", 2.5),
        ("lease_seconds", " 3 ", 3.0),
        ("crash_budget", "5", 5),
        ("home", "/srv/orchestra", Path("/srv/orchestra")),
        ("flows", "a, b.c,,", ("a", "b.c")),
        ("broker_url", "redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("log_to_console", "no", False),
        ("log_to_console", "True", True),
        ("log_level", "DEBUG", "DEBUG"),
    ],
)
def test_a_variable_is_read_as_its_settings_type(name: str, text: str, value: object) -> None:
    """`ORCHESTRA_` and the field's name in capitals."""
    assert getattr(from_env({f"ORCHESTRA_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    ("name", "text"), [("lease_seconds", "soon"), ("crash_budget", "2.5"), ("log_to_console", "maybe")]
)
def test_a_value_of_another_type_is_refused_by_name(name: str, text: str) -> None:
    """The error names the variable and what it holds."""
    with pytest.raises(ConfigurationError, match=f"ORCHESTRA_{name.upper()}='{text}'"):
        from_env({f"ORCHESTRA_{name.upper()}": text})


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_an_empty_variable_is_as_none(field: object) -> None:
    """`ORCHESTRA_X=` in a unit file does not turn a default into nothing."""
    assert from_env({f"ORCHESTRA_{field.name.upper()}": "  "}) == Settings()  # type: ignore[attr-defined]


def test_unknown_and_foreign_variables_are_left_alone() -> None:
    """Other programs' variables change nothing."""
    assert from_env({"ORCHESTRA_NO_SUCH": "1", "LEASE_SECONDS": "1"}) == Settings()


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable changed while the process runs has no effect until it is reset."""
    before = settings.current().lease_seconds

    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "7")

    assert settings.current().lease_seconds == before
    settings.reset()
    assert settings.current().lease_seconds == 7.0


def test_an_override_stands_until_reset() -> None:
    """Tests and `orchestra dev` change settings of their own process."""
    settings.override(sweep_seconds=1.0)

    assert settings.current().sweep_seconds == 1.0
    settings.reset()
    assert settings.current().sweep_seconds == Settings().sweep_seconds


def test_settings_cannot_be_assigned() -> None:
    """One frozen record."""
    with pytest.raises(FrozenInstanceError):
        settings.current().lease_seconds = 1.0  # type: ignore[misc]


def test_the_home_is_made_for_its_owner_only(home: Path) -> None:
    """It will hold the key that signs."""
    made = settings.current().home_path

    assert made == home
    assert made.stat().st_mode & 0o777 == 0o700


def test_without_a_database_url_there_is_sqlite_at_home(home: Path) -> None:
    """No configuration is needed to start."""
    assert settings.current().resolved_database_url == f"sqlite:///{home / 'orchestra.db'}"


def test_settings_are_few() -> None:
    """One table in the docs holds them all."""
    assert len(fields(Settings)) < 35


@pytest.mark.parametrize("text", ["-3", "0", "nan", "inf"])
def test_a_number_that_makes_no_sense_is_refused(text: str) -> None:
    """And the error names the setting."""
    with pytest.raises(ConfigurationError, match="ORCHESTRA_LEASE_SECONDS"):
        from_env({"ORCHESTRA_LEASE_SECONDS": text})


def test_a_home_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """With a sentence that says what to do."""
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(ConfigurationError, match="name a folder"):
        _ = Settings(home=file).home_path
