"""What somebody who means harm tries, and does not get: by requests, by names, by values that others look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from orchestra import accounts
from orchestra.accounts import Scope
from orchestra.cli import cli
from orchestra.server import create_app, running
from orchestra.store.database import database

HERE = "http://127.0.0.1:4200"


@contextmanager
def as_(scope: Scope, **options: Any) -> Iterator[TestClient]:
    """Somebody with a key of this scope."""
    key = accounts.create_key(database(), f"of-{scope}", scope)
    with TestClient(create_app(**options), base_url=HERE, headers={"authorization": f"Bearer {key}"}) as web:
        yield web


# -- getting in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host"])
def test_who_comes_through_a_proxy_is_not_from_here(web: TestClient, name: str) -> None:
    """Though nobody has to log in on this machine."""
    assert web.get("/api/me").status_code == 200
    assert web.get("/api/me", headers={name: "127.0.0.1"}).status_code == 401


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("10.0.0.7", 401)]
)
def test_who_is_on_another_machine_is_not_from_here(home: Path, address: str, status: int) -> None:
    """Wherever the application is served, and whatever `Host` says."""
    with TestClient(create_app(), base_url=HERE, client=(address, 4000)) as web:
        assert web.get("/api/me").status_code == status


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "a@127.0.0.1:4200", "[", "", "127.0.0.1:x"])
def test_a_name_that_is_none_of_ours_is_refused(web: TestClient, host: str) -> None:
    """And so is what is no name."""
    assert web.get("/health", headers={"host": host}).status_code == 400


def test_a_public_name_is_allowed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody can log in; then everybody has to, also on this machine."""
    started: list[list[str]] = []
    monkeypatch.setattr(running, "run", lambda home, host, port, *, hosts: started.append(list(hosts)))
    command = ["server", "start", "--allow-host", "Orchestra.example"]
    told = CliRunner().invoke(cli, command)
    assert (told.exit_code, "orchestra user create" in told.stderr) == (2, True)
    assert CliRunner().invoke(cli, [*command, "--allow-host", "https://x/"]).exit_code == 2

    accounts.create_key(database(), "ci", Scope.READ)
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert CliRunner().invoke(cli, [*command, "--host", "10.0.0.7"]).exit_code == 0
    assert started == [["orchestra.example"], ["orchestra.example", "10.0.0.7"]]

    with TestClient(create_app(hosts=started[0]), base_url=HERE) as web:
        names = {"orchestra.example": 401, "orchestra.example:443": 401, "127.0.0.1": 401, "evil.example": 400}
        assert {name: web.get("/api/me", headers={"host": name}).status_code for name in names} == names
