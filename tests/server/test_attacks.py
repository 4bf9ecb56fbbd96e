"""What somebody who means harm tries, and does not get: by requests, by names, by values that others look at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from orchestra.server.pages import live
from orchestra.store import access
from orchestra.store.database import database
from tests.helpers import wait_until
from tests.server.walking import operations

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


def test_many_guesses_at_once_are_slowed_down_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at now counts before it is known to be wrong."""
    looked = threading.Semaphore(0)
    over = threading.Event()

    def log_in(*_: object) -> None:
        looked.release()
        over.wait(20)

    monkeypatch.setattr(accounts, "log_in", log_in)
    with TestClient(create_app(hosts=["*"]), base_url=HERE) as web, ThreadPoolExecutor(9) as pool:
        form = {"name": "ada", "password": "a wrong password"}
        sent = [pool.submit(web.post, "/login", data=form, headers={"origin": HERE}) for _ in range(9)]
        assert all(looked.acquire(timeout=20) for _ in range(2))
        # Two are looked at, three wait for their turn, and the others are told to come again.
        wait_until(lambda: sum(each.done() for each in sent) == 4, "four to be refused")
        over.set()
        assert sorted(each.result().status_code for each in sent) == [401] * 5 + [429] * 4


def test_a_stream_ends_with_the_key_that_opened_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not look any more is told nothing more."""
    monkeypatch.setattr(live, "RECHECK", 0.05)
    with as_(Scope.READ) as web, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(web.get, "/live/runs")
        assert web.get("/api/me").status_code == 200
        assert not stream.done()
        access.delete_key(database(), "of-read")
        assert stream.result(timeout=20).status_code == 200


# -- doing more than one may -------------------------------------------------------------------------------------


def test_a_key_that_reads_does_nothing_else(home: Path) -> None:
    """Of all routes, those that only read by POST aside; and it cannot even look at the forms of acts."""
    reads = {"filter", "count"}
    with as_(Scope.READ) as web:
        acts = [each for each in operations(web.app) if each[0] not in {"GET", "HEAD"}]
        tried = [each for each in acts if each[1].rpartition("/")[2] not in {"login", "logout", *reads}]
        assert len(tried) > 60
        for method, path in tried:
            # Before it is said whether it is there, or asked for rightly.
            assert web.request(method, path, json={}).status_code == 403, (method, path)
        for path in ("/runs/acts?act=cancel", "/runs/x/resume", "/runs/x/again", "/deployments/x/run"):
            assert web.get(path).status_code == 403, path


def test_limits_are_for_admins(home: Path) -> None:
    """On their page as by the API."""
    with as_(Scope.RUN) as web:
        assert web.post("/limits", data={"name": "db", "limit": "0"}).status_code == 403
        assert "<form" not in web.get("/limits").text.split("<main")[1]


def test_who_uses_the_server_is_for_admins(home: Path) -> None:
    """Their events too."""
    shown = {}
    for scope in Scope:
        with as_(scope) as web:
            found = [web.get(path) for path in ("/api/events", "/events", "/events?event=orchestra.api-key.*")]
            listed = [web.get(path).status_code for path in ("/api/users", "/api/api-keys")]
            shown[scope] = ({"of-read" in each.text for each in found}, *listed)
    assert shown == {
        Scope.READ: ({False}, 403, 403),
        Scope.RUN: ({False}, 403, 403),
        Scope.ADMIN: ({True}, 200, 200),
    }
