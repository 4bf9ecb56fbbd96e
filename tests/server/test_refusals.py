"""What the server refuses of every request: too much, too long, malformed, hostile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestra import accounts
from orchestra.accounts import Scope
from orchestra.server import create_app
from orchestra.server.requests import MOST_BYTES
from orchestra.store.database import database


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("flow_runs?limit=1000000000", None),
        ("flow_runs?limit=0", None),
        ("flow_runs?limit=x", None),
        ("flow_runs?state_type=' or 1=1", None),
        ("flow_runs?flow_name=a%00b", None),
        ("flow_runs?tag=" + "&tag=".join("a" * 30), None),
        ("flow_runs/filter", {"sort": "name;drop table flow_runs"}),
        ("flow_runs/filter", {"sort": "result"}),
        ("flow_runs/filter", {"limit": 201}),
        ("flow_runs/filter", {"limit": 2**70}),
        ("flow_runs/filter", {"offset": 2**70}),
        ("flow_runs/filter", {"where": "1=1"}),
        ("flow_runs/filter", {"flow_runs": {"id": {"any_": ["x"] * 201}}}),
        ("flow_runs/filter", {"flow_runs": {"name": {"like_": "%" * 2000}}}),
        ("flow_runs/filter", {"flow_runs": {"name": {"any_": ["a\0b"]}}}),
        ("logs/filter", {"logs": {"level": {"ge_": 2**70}}}),
    ],
)
def test_what_nobody_asks_is_refused(web: TestClient, path: str, given: Any) -> None:
    """Before the database is asked; the problem says where it is."""
    answer = web.get(f"/api/{path}") if given is None else web.post(f"/api/{path}", json=given)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("text", ["' or 1=1 --", "%", "_", "\\", "'; drop table flow_runs; --"])
def test_text_is_only_text(database_url: str, web: TestClient, text: str) -> None:
    """Whatever of SQL is in it: it finds nothing, and does nothing."""
    with_it = {"flow_runs": {"name": {"like_": text}, "tags": {"any_": [text]}, "id": {"any_": [text]}}}

    assert web.post("/api/flow_runs/filter", json=with_it).json() == []
    assert web.get("/api/flow_runs", params={"flow_name": text, "tag": text}).json()["items"] == []
    assert web.get("/ready").status_code == 200


def test_a_large_body_is_refused(web: TestClient) -> None:
    """Whether its length is said before, or not."""
    said = web.post("/api/flow_runs/filter", content=b"x" * (MOST_BYTES + 1))

    def in_parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (MOST_BYTES // 10)

    unsaid = web.post("/api/flow_runs/filter", content=in_parts())

    assert [(each.status_code, each.json()["status"]) for each in (said, unsaid)] == [(413, 413)] * 2


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b'"\\ud800"', b"null", b""])
def test_what_is_no_request_is_a_problem(web: TestClient, content: bytes) -> None:
    """Never a failure."""
    answer = web.post("/api/flow_runs/filter", content=content, headers={"content-type": "application/json"})

    assert answer.status_code in {400, 422}
    assert answer.json()["status"] == answer.status_code


def test_a_method_that_is_not_there_is_a_problem(web: TestClient) -> None:
    """That says which there are."""
    answer = web.put("/api/flow_runs")

    assert (answer.status_code, answer.json()["title"]) == (405, "Method Not Allowed")
    assert answer.headers["allow"]


@pytest.mark.parametrize(("given", "kept"), [("from-proxy.7", True), ("a b\tc", False), ("x" * 65, False)])
def test_every_request_has_an_id(web: TestClient, caplog: pytest.LogCaptureFixture, given: str, kept: bool) -> None:
    """In the answer and in the log; one that is given is used where it is one."""
    with caplog.at_level(logging.INFO, "orchestra.requests"):
        found = web.get("/api/admin/version", headers={"x-request-id": given}).headers["x-request-id"]

    assert (found == given) is kept
    assert f"{found} GET /api/admin/version 200" in caplog.text


def test_a_failure_tells_nothing_but_its_id(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the rest."""
    app = create_app()

    @app.get("/api/broken")
    def broken() -> None:
        raise ValueError("password=hunter2")

    with TestClient(app, base_url="http://127.0.0.1:4200") as web:
        answer = web.get("/api/broken")

    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.json()["detail"]
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text
    assert answer.headers["content-security-policy"]


def test_what_takes_too_long_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a thread goes on with it."""
    monkeypatch.setattr("orchestra.server.requests.LONGEST", 0.05)
    app, over = create_app(), threading.Event()

    @app.get("/api/slow")
    def slow() -> None:
        over.wait(20)

    with TestClient(app, base_url="http://127.0.0.1:4200") as web:
        threading.Timer(0.5, over.set).start()
        answer = web.get("/api/slow")

    assert (answer.status_code, answer.json()["title"]) == (504, "Too slow")


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        (Scope.READ, "GET", "flow_runs", 200),
        (Scope.READ, "POST", "flow_runs/count", 200),
        (Scope.READ, "POST", "flow_runs/x/cancel", 403),
        (Scope.READ, "DELETE", "flow_runs/x", 403),
        (Scope.READ, "POST", "flow_runs/bulk_cancel", 403),
        (Scope.READ, "POST", "work_pools/x/pause", 403),
        (Scope.RUN, "POST", "flow_runs/x/cancel", 404),
        (Scope.RUN, "DELETE", "work_pools/x", 403),
        (Scope.ADMIN, "DELETE", "work_pools/x", 404),
    ],
)
def test_scopes_are_kept(scope: Scope, method: str, path: str, status: int) -> None:
    """What is not allowed is refused before it is said whether it is there."""
    headers = {"authorization": f"Bearer {accounts.create_key(database(), 'ci', scope)}"}
    with TestClient(create_app(), base_url="http://127.0.0.1:4200", headers=headers) as web:
        answer = web.request(method, f"/api/{path}", json={} if method == "POST" else None)

    assert answer.status_code == status
