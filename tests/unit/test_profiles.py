"""Profiles: sets of settings in a file of the home; the environment counts before them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestra import profiles, settings
from orchestra.cli import cli
from orchestra.errors import ConfigurationError
from orchestra.profiles import Profiles


def orchestra(*args: str) -> Result:
    """A command of its own: it reads the settings anew."""
    settings.reset()
    result = CliRunner().invoke(cli, list(args), catch_exceptions=False)
    settings.reset()
    return result


def done(*args: str) -> str:
    """What a command that must succeed prints."""
    result = orchestra(*args)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def shown(name: str, *before: str) -> tuple[object, str]:
    """Value and source of a setting."""
    found = json.loads(done(*before, "config", "view", "-o", "json"))[name]
    return found["value"], found["source"]


def test_a_setting_is_kept_and_taken_back(home: Path) -> None:
    """In the profile `default`, which is made and active then."""
    done("config", "set", "ORCHESTRA_SWEEP_SECONDS=2", "ORCHESTRA_LOG_LEVEL=DEBUG")
    assert shown("sweep_seconds") == (2.0, "profile 'default'")

    done("config", "unset", "ORCHESTRA_SWEEP_SECONDS")
    assert shown("sweep_seconds") == (5.0, "default")
    assert shown("log_level") == ("DEBUG", "profile 'default'")
    assert (home / "profiles.toml").stat().st_mode & 0o777 == 0o600


def test_the_environment_counts_before_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command that sets it says so."""
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "3")
    result = orchestra("config", "set", "ORCHESTRA_SWEEP_SECONDS=2")

    assert "set in the environment too" in result.stderr
    assert shown("sweep_seconds") == (3.0, "ORCHESTRA_SWEEP_SECONDS")


def test_profiles_are_made_switched_and_deleted() -> None:
    """One is active in its home."""
    done("config", "set", "ORCHESTRA_FLOWS=etl")
    done("profile", "create", "staging", "--from", "default")
    assert json.loads(done("profile", "ls", "-o", "json")) == [
        {"name": "default", "active": True},
        {"name": "staging", "active": False},
    ]

    done("profile", "use", "staging")
    done("config", "set", "ORCHESTRA_SWEEP_SECONDS=2")
    assert (shown("profile"), shown("flows")[0]) == (("staging", "profiles.toml"), "etl")
    done("profile", "rename", "staging", "test")
    assert json.loads(done("profile", "inspect", "-o", "json")) == {
        "ORCHESTRA_FLOWS": "etl",
        "ORCHESTRA_SWEEP_SECONDS": "2",
    }
    done("profile", "delete", "test")
    assert (done("profile", "ls"), shown("sweep_seconds")) == ("  default\n", (5.0, "default"))


def test_another_profile_is_used_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option before the variable, and by that before the active one."""
    for name, seconds in (("a", 1), ("b", 2), ("c", 3)):
        done("profile", "create", name)
        done("--profile", name, "config", "set", f"ORCHESTRA_SWEEP_SECONDS={seconds}")
    done("profile", "use", "a")
    assert shown("sweep_seconds")[0] == 1.0

    monkeypatch.setenv("ORCHESTRA_PROFILE", "b")
    assert shown("profile") == ("b", "ORCHESTRA_PROFILE")
    assert shown("sweep_seconds", "--profile", "c") == (3.0, "profile 'c'")


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("config", "set", "ORCHESTRA_SWEEP_SECONDS=soon"), 2, "ORCHESTRA_SWEEP_SECONDS='soon'"),
        (("config", "set", "ORCHESTRA_SWEEPS=1"), 2, "no setting 'ORCHESTRA_SWEEPS'"),
        (("config", "set", "ORCHESTRA_HOME=/tmp"), 2, "says where profiles are"),
        (("config", "set", "ORCHESTRA_FLOWS=a\x07b"), 2, "control characters"),
        (("config", "set", "ORCHESTRA_FLOWS"), 2, "NAME=VALUE"),
        (("config", "unset", "ORCHESTRA_FLOWS"), 2, "no profile 'default'"),
        (("profile", "use", "none"), 2, "no profile 'none'"),
        (("profile", "create", "a b"), 2, "no name of a profile"),
        (("--profile", "none", "flow-run", "ls"), 2, "no profile 'none'"),
    ],
)
def test_what_cannot_be_is_refused(args: tuple[str, ...], code: int, told: str, home: Path) -> None:
    """With a sentence; nothing is written."""
    result = orchestra(*args)

    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr.replace("\n", " ")
    assert not (home / "profiles.toml").exists()


def test_a_profile_that_is_there_is_not_made_again() -> None:
    """Nor overwritten by another one's new name."""
    done("profile", "create", "a")
    done("profile", "create", "b")

    assert orchestra("profile", "create", "a").exit_code == 4
    assert orchestra("profile", "rename", "a", "b").exit_code == 4


def test_secrets_are_masked() -> None:
    """Wherever a profile is shown."""
    result = orchestra("config", "set", "ORCHESTRA_SECRET_KEY=sesame", "ORCHESTRA_BROKER_URL=redis://:sesame@host/0")

    texts = [result.stderr, done("profile", "inspect"), done("config", "view", "--show-sources")]
    assert all("sesame" not in text and "********" in text for text in texts)


def test_validate_tells_every_fault_and_a_broken_profile_can_be_mended(home: Path) -> None:
    """Other commands refuse to run with it, and name it."""
    profiles.save(settings.home(), Profiles("p").put("p", {"ORCHESTRA_SWEEP_SECONDS": "soon", "ORCHESTRA_X": "1"}))

    result = orchestra("config", "validate")
    assert result.exit_code == 2
    assert "ORCHESTRA_SWEEP_SECONDS='soon'" in result.stderr
    assert "no setting 'ORCHESTRA_X'" in result.stderr
    assert "profile 'p'" in orchestra("flow-run", "ls").stderr
    done("config", "unset", "ORCHESTRA_SWEEP_SECONDS", "ORCHESTRA_X")
    done("config", "validate")


@pytest.mark.parametrize("text", ["active = ", "active = 3", "profiles = 3", "[profiles.a]\nx = [1]", "\xff"])
def test_a_file_that_is_no_file_of_profiles_is_named(home: Path, text: str) -> None:
    """With what to do."""
    home.mkdir()
    (home / "profiles.toml").write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigurationError, match=r"profiles\.toml.*mend or delete"):
        profiles.load(home)


@pytest.mark.parametrize("value", ["plain", 'with "quotes" and \\', "ä 🎻", "tab\there", "#=[]"])
def test_any_text_is_read_back_as_it_was_written(home: Path, value: str) -> None:
    """The file is TOML."""
    written = Profiles().put("p", {"ORCHESTRA_FLOWS": value}).use("p")
    profiles.save(settings.home(), written)

    assert profiles.load(home) == written


def test_values_may_stand_without_quotes(home: Path) -> None:
    """As people write TOML by hand."""
    home.mkdir()
    (home / "profiles.toml").write_text('active = "p"\n[profiles.p]\nORCHESTRA_LOG_TO_CONSOLE = false\n')
    settings.reset()

    assert settings.current().log_to_console is False


def test_a_home_that_may_not_be_looked_into_has_no_profiles(home: Path) -> None:
    """A process that needs nothing of it runs all the same."""
    home.write_text("no folder")
    settings.reset()

    assert settings.current().profile == ""


def test_the_shells_get_a_script() -> None:
    """It completes commands when a shell asks."""
    for shell in ("bash", "zsh", "fish"):
        assert "_ORCHESTRA_COMPLETE" in done("completion", shell)
    asked = {"_ORCHESTRA_COMPLETE": "bash_complete", "COMP_WORDS": "orchestra flow-r", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from orchestra.cli import main; main()"]
    answer = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert "flow-run" in answer.stdout
