"""A server looks at its own pages when it starts, so that a first view costs what all others do."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestra import accounts
from orchestra.accounts import Scope
from orchestra.server import create_app, rendering, warming
from orchestra.store import queries
from orchestra.store.database import database
from tests.client import flows
from tests.drive import Driver
from tests.helpers import wait_until

HERE = "http://127.0.0.1:4200"


def test_what_is_asked_first_needs_no_template_that_was_not_there(driver: Driver) -> None:
    """Nor does it ask of the guard to let it in: there is a user, so everybody has to log in."""
    run_id = driver.submit(flows.doubled, number=1)
    driver.finish(run_id)
    accounts.create_user(database(), "ada", "correct horse battery", Scope.ADMIN)
    app = create_app()
    with TestClient(app, base_url=HERE, follow_redirects=False) as web:
        assert rendering._templates.cache is not None
        rendering._templates.cache.clear()
        warming.warm_up(app)
        compiled = set(rendering._templates.cache)

        assert web.get("/runs", headers={"accept": "text/html"}).status_code == 303
    with TestClient(app, base_url=HERE, headers={"authorization": f"Bearer {key()}"}) as web:
        for path in ("/", "/runs", f"/runs/{run_id}", "/events", "/deployments", "/artifacts"):
            assert web.get(path).status_code == 200
    assert set(rendering._templates.cache) == compiled


def test_a_server_warms_up_beside_what_it_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then keeps what it has out of the way of the garbage collector."""
    settled = threading.Event()
    monkeypatch.setattr(warming, "settle", settled.set)

    with TestClient(create_app(warm=True), base_url=HERE) as web:
        assert web.get("/ready").status_code == 200
        wait_until(settled.is_set, "the server to have looked at its pages", 30)


def test_a_first_look_that_fails_is_told_and_the_server_serves(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its pages say what is wrong to who asks for them."""
    settled = threading.Event()
    monkeypatch.setattr(warming, "settle", settled.set)
    monkeypatch.setattr(queries, "waiting_by_queue", lambda db: 1 / 0)

    with caplog.at_level(logging.WARNING, "orchestra.server"), TestClient(create_app(warm=True), base_url=HERE) as web:
        wait_until(settled.is_set, "the first look to be over", 30)
        assert web.get("/runs").status_code == 200

    assert "first look" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_server_that_ends_looks_no_further(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not looked at any more cannot hold its end up."""
    app, is_over = create_app(), threading.Event()
    asked: list[str] = []
    router = app.router

    async def ended_meanwhile(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        is_over.set()
        await router(scope, receive, send)

    with TestClient(app, base_url=HERE):
        monkeypatch.setattr(app, "router", ended_meanwhile)
        warming.warm_up(app, is_over)
        monkeypatch.undo()

    assert asked == ["/"]


def key() -> str:
    """A key of somebody who may see all."""
    return accounts.create_key(database(), "tests", Scope.ADMIN)
