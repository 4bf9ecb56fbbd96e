"""Who may use the server: users, keys, sessions; and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from orchestra import accounts, clock
from orchestra.accounts import Scope
from orchestra.cli import cli
from orchestra.server import create_app
from orchestra.store.database import database
from tests.server.walking import operations

PASSWORD = "correct horse battery"
HERE = {"origin": "http://127.0.0.1:4200"}


@pytest.fixture
def closed(home: Path) -> Iterator[TestClient]:
    """A server that others reach too, with a user `ada`."""
    accounts.create_user(database(), "ada", PASSWORD, Scope.ADMIN)
    with TestClient(create_app(hosts=["*"]), base_url="http://127.0.0.1:4200", follow_redirects=False) as client:
        yield client


def log_in(web: TestClient, password: str = PASSWORD, name: str = "ada", **more: str) -> int:
    """Send the login form."""
    return web.post("/login", data={"name": name, "password": password, **more}, headers=HERE).status_code


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass, in seconds."""
    passed = [0.0]
    for name in ("now", "monotonic"):
        real = getattr(clock, name)
        monkeypatch.setattr(clock, name, lambda real=real: real() + passed[0])

    def pass_(seconds: float) -> None:
        passed[0] += seconds

    return pass_


def test_loopback_asks_nobody_for_a_login(web: TestClient) -> None:
    """As long as there is nobody who could log in."""
    assert web.get("/api/me").json() == {"kind": "local", "name": "local", "scope": "admin"}


def test_loopback_does_once_there_is_a_user(web: TestClient, later: Callable[[float], None]) -> None:
    """Within two seconds, in a server that runs."""
    assert web.get("/api/me").status_code == 200
    accounts.create_user(database(), "ada", PASSWORD, Scope.READ)
    later(2.1)

    assert web.get("/api/me").status_code == 401


def test_nothing_is_open_but_what_is_named(closed: TestClient) -> None:
    """Every route of the application, and paths that only look like public ones."""
    tried = operations(closed.app)
    assert len(tried) > 140
    tricks = ["/health/", "//health", "/HEALTH", "/health/x", "/login/", "/%2e/health", "/static/", "/"]
    public = {"/health", "/ready", "/login"}
    methods = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
    tried |= {(method, path) for path in tricks for method in methods}
    for method, path in sorted(tried):
        if path not in public:
            assert closed.request(method, path, headers=HERE).status_code == 401, (method, path)
    for path in public:
        for method in ("HEAD", "OPTIONS", "PUT", "DELETE"):
            assert closed.request(method, path, headers=HERE).status_code == 401, (method, path)


def test_a_websocket_is_refused(closed: TestClient) -> None:
    """As every route is, were there one."""
    sent = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> object:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/ws", "headers": [(b"host", b"127.0.0.1")], "app": closed.app}
    assert closed.portal is not None
    closed.portal.call(closed.app, scope, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_login_opens_and_a_logout_closes(closed: TestClient) -> None:
    """By a cookie that scripts cannot read; a copy of it opens nothing afterwards."""
    answer = closed.post("/login", data={"name": "ada", "password": PASSWORD, "next": "/runs?x=1"}, headers=HERE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?x=1")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=lax" in answer.headers["set-cookie"]
    assert closed.get("/api/me").json()["name"] == "ada"
    token = closed.cookies["orchestra_session"]

    assert closed.post("/logout", headers=HERE).status_code == 303
    assert closed.get("/api/me", headers={"cookie": f"orchestra_session={token}"}).status_code == 401


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x"])
def test_a_login_leads_nowhere_else(closed: TestClient, target: str) -> None:
    """Whatever the link said that led to it."""
    answer = closed.post("/login", data={"name": "ada", "password": PASSWORD, "next": target}, headers=HERE)

    assert answer.headers["location"] == "/"


def test_a_browser_is_led_to_the_login(closed: TestClient) -> None:
    """And from there to where it wanted to go."""
    answer = closed.get("/runs?state=FAILED", headers={"accept": "text/html,*/*"})

    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fruns%3Fstate%3DFAILED"
    assert 'value="/runs?state=FAILED"' in closed.get(answer.headers["location"]).text


def test_a_session_is_over_after_a_week(closed: TestClient, later: Callable[[float], None]) -> None:
    """However much it was used."""
    log_in(closed)
    later(accounts.SESSION_SECONDS + 1)

    assert closed.get("/api/me").status_code == 401


@pytest.mark.parametrize("change", ["password", "disabled", "scope", "deleted"])
def test_a_changed_user_is_logged_out(closed: TestClient, change: str) -> None:
    """At once, wherever they are logged in."""
    log_in(closed)
    arguments = {
        "password": ["update", "ada", "--password-stdin"],
        "disabled": ["update", "ada", "--disable"],
        "scope": ["update", "ada", "--scope", "read"],
        "deleted": ["delete", "ada"],
    }[change]
    assert CliRunner().invoke(cli, ["user", *arguments], input="another password\n").exit_code == 0

    assert closed.get("/api/me").status_code == 401
    assert log_in(closed) == (303 if change == "scope" else 401)


def test_guessing_is_slowed_down(closed: TestClient, later: Callable[[float], None]) -> None:
    """After five wrong logins a minute not even the right one is looked at."""
    assert [log_in(closed, "a wrong password") for _ in range(5)] == [401] * 5
    assert log_in(closed) == 429
    later(61)

    assert log_in(closed) == 303


def test_a_user_who_is_not_there_is_told_the_same(closed: TestClient) -> None:
    """So that names cannot be tried out."""
    wrong = closed.post("/login", data={"name": "ada", "password": "a wrong password"}, headers=HERE)
    nobody = closed.post("/login", data={"name": "bob", "password": "a wrong password"}, headers=HERE)

    assert wrong.text.replace("ada", "bob") == nobody.text


def test_a_cookie_alone_changes_nothing(closed: TestClient) -> None:
    """A browser always says where a form comes from; what does not is not believed."""
    log_in(closed)

    assert closed.post("/logout").status_code == 403
    assert closed.post("/logout", headers={"origin": "http://evil.example"}).status_code == 403
    assert closed.get("/api/me").status_code == 200


def test_a_key_opens_until_it_is_deleted(closed: TestClient) -> None:
    """It is shown once; of what is kept nobody gets in."""
    made = CliRunner().invoke(cli, ["api-key", "create", "ci", "--scope", "run"])
    key = made.stdout.splitlines()[0]
    bearer = {"authorization": f"Bearer {key}"}
    assert closed.get("/api/me", headers=bearer).json() == {"kind": "api-key", "name": "ci", "scope": "run"}
    assert key not in CliRunner().invoke(cli, ["api-key", "ls", "-o", "json"]).stdout
    CliRunner().invoke(cli, ["api-key", "delete", "ci"])

    assert closed.get("/api/me", headers=bearer).status_code == 401


def test_a_key_expires(closed: TestClient, later: Callable[[float], None]) -> None:
    """When it was said to."""
    bearer = {"authorization": f"Bearer {accounts.create_key(database(), 'ci', Scope.RUN, 60)}"}
    assert closed.get("/api/me", headers=bearer).status_code == 200
    later(61)

    assert closed.get("/api/me", headers=bearer).status_code == 401


@pytest.mark.parametrize("said", ["Bearer", "Bearer orc_", "Bearer \x7f", "Basic YTpi", "Bearer " + "x" * 4000])
def test_what_is_no_key_opens_nothing(closed: TestClient, said: str) -> None:
    """And is no error of the server's."""
    assert closed.get("/api/me", headers={"authorization": said}).status_code == 401


def test_others_are_let_in_only_where_somebody_can_log_in(home: Path) -> None:
    """Else the server does not start, and says what to do."""
    told = CliRunner().invoke(cli, ["server", "start", "--host", "0.0.0.0"])

    assert told.exit_code == 2
    assert "orchestra user create" in told.stderr


def test_a_short_password_is_refused(home: Path) -> None:
    """Before anything is kept."""
    told = CliRunner().invoke(cli, ["user", "create", "bob", "--password-stdin"], input="short\n")

    assert told.exit_code == 2
    assert "10 to 1024 characters" in told.stderr
    assert CliRunner().invoke(cli, ["user", "ls", "-o", "json"]).stdout == "[]\n"


@pytest.mark.parametrize("arguments", [["login"], ["cloud", "login"], ["cloud", "workspace", "set"]])
def test_a_login_without_a_target_says_what_to_do(home: Path, arguments: list[str]) -> None:
    """There is no hosted service that could be meant."""
    told = CliRunner().invoke(cli, arguments)

    assert told.exit_code == 2
    assert "orchestra" in told.stderr


def test_a_workspace_is_a_profile(home: Path) -> None:
    """So that Prefect's command does what it can mean here."""
    CliRunner().invoke(cli, ["profile", "create", "staging"])
    assert CliRunner().invoke(cli, ["cloud", "workspace", "set", "--workspace", "staging"]).exit_code == 0

    assert "* staging" in CliRunner().invoke(cli, ["profile", "ls"]).stdout


def test_admins_manage_users_and_keys(closed: TestClient) -> None:
    """By the API too; passwords and keys are not shown again."""
    log_in(closed)
    new = {"name": "bob", "password": "bobs long password", "scope": "run"}
    assert closed.post("/api/users", json=new, headers=HERE).status_code == 201
    assert closed.post("/api/users", json=new, headers=HERE).status_code == 409
    made = closed.post("/api/api-keys", json={"name": "ci"}, headers=HERE).json()
    assert closed.get("/api/me", headers={"authorization": f"Bearer {made['key']}"}).json()["scope"] == "read"

    listed = closed.get("/api/users").text + closed.get("/api/api-keys").text
    assert "bob" in listed
    assert made["key"] not in listed
    assert "argon2" not in listed


@pytest.mark.parametrize("scope", [Scope.READ, Scope.RUN])
def test_others_do_not(closed: TestClient, scope: Scope) -> None:
    """Neither see nor change who may use the server."""
    bearer = {"authorization": f"Bearer {accounts.create_key(database(), 'ci', scope)}"}

    assert closed.get("/api/users", headers=bearer).status_code == 403
    new = {"name": "bob", "password": "bobs long password", "scope": "admin"}
    assert closed.post("/api/users", json=new, headers=bearer).status_code == 403
    assert closed.post("/api/api-keys", json={"name": "x"}, headers=bearer).status_code == 403
    assert closed.delete("/api/api-keys/ci", headers=bearer).status_code == 403
