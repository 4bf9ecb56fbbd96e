"""What somebody who means harm tries, and does not get: by requests, by names, by values that others look at."""

from __future__ import annotations

import logging
import pickle
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from starlette.datastructures import FormData
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from orchestra import accounts, flow, get_run_logger
from orchestra.accounts import Scope
from orchestra.artifacts import Artifact
from orchestra.cli import cli
from orchestra.previews import preview
from orchestra.server import create_app, forms, markdown, running, streams
from orchestra.server.doorkeeper import Doorkeeper
from orchestra.store import access, queries
from orchestra.store.behind import behind
from orchestra.store.database import database
from tests.helpers import wait_until
from tests.server.walking import operations

HERE = "http://127.0.0.1:4200"


@flow
def noisy(text: str) -> None:
    """Logs what it is given."""
    get_run_logger().warning(text)


@flow
def keeps(token: SecretStr) -> None:
    """Is given a secret."""
    get_run_logger().warning("the token is %s", token.get_secret_value())


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
    monkeypatch.setattr(running, "run", lambda home, host, port, *, hosts, on_start: started.append(list(hosts)))
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


@pytest.mark.parametrize("path", ["/live/runs", "/api/events/stream"])
def test_a_stream_ends_with_the_key_that_opened_it(home: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Whoever may not look any more is told nothing more."""
    monkeypatch.setattr(streams, "RECHECK", 0.05)
    identify, asked = Doorkeeper.identify, []

    async def counted(self: Doorkeeper, connection: HTTPConnection) -> Any:
        asked.append(connection.url.path)
        return await identify(self, connection)

    monkeypatch.setattr(Doorkeeper, "identify", counted)
    with as_(Scope.READ) as web, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(web.get, path)
        wait_until(lambda: asked.count(path) > 1, "the stream to be open, and its key looked at again")
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


# -- values that break or drive something ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/runs?tags=" + ",".join(map(str, range(3000))), None, 422),
        ("/runs?" + "state=x&" * 500, None, 422),
        ("/runs?text=%25_&tags=%25", None, 200),
        ("/events?resource=***&event=%ff", None, 200),
        ("/runs?deployment=" + "x" * 9000, None, 200),
        ("/runs/" + "x" * 10_000, None, 404),
        ("/artifacts/..%2f..%2fetc%2fpasswd", None, 404),
        ("/static/..%2fapp.py", None, 404),
        ("/workers/%0a", None, 404),
        ("/runs?after=1" + "0" * 5000, None, 404),
        ("/limits", {"name": "a\0b", "limit": "1"}, 422),
        ("/limits", {"name": "a", "limit": str(2**70)}, 422),
        ("/runs/acts", {"act": "cancel", "ids": "a\0b"}, 422),
        ("/runs/x/resume", {f"field{number}": "x" for number in range(20_000)}, 400),
    ],
)
def test_no_address_and_no_form_makes_a_failure(
    database_url: str, web: TestClient, path: str, form: dict[str, str] | None, status: int
) -> None:
    """They find nothing, or it is said what cannot be asked."""
    answer = web.get(path) if form is None else web.post(path, data=form, headers={"origin": HERE})

    assert answer.status_code == status
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("text", ["inf", "-Infinity", "nan", "9" * 5000, "1e999"])
def test_a_number_of_a_form_is_one(text: str) -> None:
    """What JSON cannot hold is refused beside its field."""
    schema = {"properties": {"n": {"type": "number"}}, "required": ["n"]}
    given, wrong = forms.values(schema, forms.Sent(FormData({"p.n": text})))

    assert (given, "is no number" in wrong["n"]) == ({}, True)


def test_a_schema_that_leads_to_itself_takes_any_value() -> None:
    """By a reference, or by one of one."""
    around = {"$ref": "#/$defs/a"}
    schema = {"properties": {"x": around}, "$defs": {"a": {"anyOf": [around]}}}

    assert forms.fields(schema, {})[0].kind == "json"


def test_a_table_that_is_none_is_shown_as_text(web: TestClient) -> None:
    """However deep it is."""
    Artifact(key="deep", type="table", data="[" * 100_000).create()
    shown = web.get("/artifacts?key=deep").text
    found = re.search(r'href="(/artifacts/[^"?]+)"', shown)
    assert found is not None

    assert "[[[[" in web.get(found[1]).text


@pytest.mark.parametrize("text", ["[", "![", "|a", "*a **b", '[]("', "`a", "> ", "- "])
def test_hostile_markdown_takes_no_server_with_it(text: str) -> None:
    """A second of work at most, here with patience for a busy machine."""
    begun = time.process_time()
    markdown.as_html(text * 100_000)

    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&colon;alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        "![x](javascript:alert(1))",
        "![x](http://evil.example/x.svg)",
        "<img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "<javascript:alert(1)>",
        "| a |\n|---|\n| <script>alert(1)</script> |",
        '[x](https://a.example "\\" onmouseover=alert(1)")',
    ],
)
def test_markdown_has_nothing_that_runs(text: str) -> None:
    """No script, no handler, no address but of the web."""
    shown = markdown.as_html(text)
    tags = " ".join(re.findall(r"<[^>]*>", re.sub(r'title="[^"]*"', "", shown))).lower()

    assert not re.search(r"script|svg|on\w+=|data:|javascript|vbscript|src=\"http:", tags)


def test_a_download_drives_no_terminal(web: TestClient) -> None:
    """And its name is one that we chose."""
    noisy("\x1b]0;owned\x07 and\rover\nnext")
    behind().flush()
    run_id = queries.list_flow_runs(database(), limit=1).items[0].id
    answer = web.get(f"/runs/{run_id}/logs.txt")

    assert "\\x1b]0;owned\\x07 and\\x0dover\nnext" in answer.text
    assert answer.headers["content-disposition"] == f'attachment; filename="run-{run_id}.log"'
    assert answer.headers["content-type"].startswith("text/plain")


def test_no_line_of_the_log_is_made_up(web: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """By an address, or by the name of a thing."""
    with caplog.at_level(logging.INFO, "orchestra"):
        web.get("/api/x%0aFORGED")
        web.post("/limits", data={"name": "a\nFORGED", "limit": "1"}, headers={"origin": HERE})

    told = [record.getMessage() for record in caplog.records if "FORGED" in record.getMessage()]
    assert told
    assert not any("\n" in line for line in told)


def test_a_secret_parameter_is_shown_nowhere(web: TestClient) -> None:
    """Neither on the page of its run nor by the API."""
    keeps(SecretStr("hunter2hunter2"))
    behind().flush()
    run_id = queries.list_flow_runs(database(), limit=1).items[0].id
    shown = [web.get(path + run_id) for path in ("/runs/", "/api/flow_runs/")]

    assert [each.status_code for each in shown] == [200, 200]
    assert not any("hunter2" in each.text for each in shown)


def test_what_is_stored_is_shown_without_loading_it(tmp_path: Path) -> None:
    """A pickle by its size, signed or not."""
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (touched,)

    for kind in (b"p", b"z", b"o", b"x", b"t", b"j"):
        preview(kind + bytes(32) + pickle.dumps(Evil()))

    assert not touched.exists()


def test_a_cookie_is_for_https_where_the_proxy_speaks_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts cannot read it, and other sites' forms do not send it."""
    monkeypatch.setattr(accounts, "log_in", lambda *_: "a-token")
    base = "https://orchestra.example"
    with TestClient(create_app(hosts=["orchestra.example"]), base_url=base, follow_redirects=False) as web:
        form = {"name": "ada", "password": "x" * 12}
        answer = web.post("/login", data=form, headers={"origin": base})

    kept = answer.headers["set-cookie"].lower()
    assert all(word in kept for word in ("secure", "httponly", "samesite=lax"))
