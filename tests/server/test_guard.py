"""What the server refuses before any route is asked, and what each answer carries."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient


def test_health_and_readiness(web: TestClient) -> None:
    """The process answers, and so does the database."""
    assert web.get("/health").json() == {"status": "ok"}
    assert web.get("/ready").json() == {"status": "ready"}


def test_a_foreign_name_is_refused(web: TestClient) -> None:
    """A name of somebody's that resolves to us is not answered."""
    answer = web.get("/health", headers={"host": "evil.example"})

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_of_another_site_is_refused(web: TestClient, headers: dict[str, str]) -> None:
    """Whatever the browser sends along with it."""
    assert web.post("/health", content="x", headers={"content-type": "text/plain", **headers}).status_code == 403


def test_a_form_of_ours_is_not(web: TestClient) -> None:
    """It gets as far as the route."""
    assert web.post("/health", headers={"origin": "http://127.0.0.1:4200"}).status_code == 405


def test_every_answer_is_strict(web: TestClient) -> None:
    """Refusals too."""
    for path in ("/health", "/nothing-here", "/api/openapi.json"):
        headers = web.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_what_is_not_there_is_a_problem(web: TestClient) -> None:
    """As problem details."""
    answer = web.get("/api/nothing-here")

    assert answer.status_code == 404
    assert answer.json()["title"] == "Not Found"
