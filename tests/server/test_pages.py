"""The pages of the admin view as a browser without scripts gets them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestra import flow, get_run_logger, settings, task
from orchestra.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact
from orchestra.server.rendering import duration
from orchestra.store import claims, deployments, queries, run_slots, runs, tables, work_pools, workers
from orchestra.store.behind import behind
from orchestra.store.database import database
from orchestra.store.deployments import NewDeployment
from orchestra.store.runs import NewRun
from orchestra.store.workers import WorkerRow
from tests.drive import Driver
from tests.engine import rerun_flows, slot_flows

EVIL = "<img src=x onerror=alert(1)>"


@task
def told(text: str) -> str:
    """Logs what it is given, and returns it."""
    get_run_logger().warning(text)
    return text


@task
def broken(text: str) -> None:
    """Fails."""
    raise ValueError(text)


@flow(name=EVIL, persist_result=True)
def evil(text: str) -> str:
    """Everything in it is hostile."""
    return told(text)


@flow
def failing() -> None:
    """One task of three fails."""
    told.map(["a", "b"]).result()
    broken("no data")


@flow
def wide() -> None:
    """More tasks than are drawn one by one."""
    told.map(list(map(str, range(150)))).wait()


@flow
def showing() -> None:
    """Makes artifacts of each kind."""
    create_markdown_artifact(f"# Sales\n\n**up** {EVIL} [x](javascript:alert)", key="sales")
    create_table_artifact([{"town": "Ulm"}], key="towns")
    create_table_artifact({"a": [7], "b": [EVIL]}, key="columns")
    create_progress_artifact(40.0, key="progress")


def run(body: Any, *args: Any) -> str:
    """The id of a run of it that has ended."""
    body(*args, return_state=True)
    behind().flush()
    return queries.list_flow_runs(database(), limit=1).items[0].id


def page(web: TestClient, address: str) -> str:
    """A page that is there."""
    answer = web.get(address)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_runs_that_match_are_listed(web: TestClient) -> None:
    """By state, flow, text and time, all in the address."""
    run(failing)
    run(evil, "x")

    for filters in ("state=FAILED", "flow=failing", "text=FAIL", "range=1h&by=end&state=FAILED&state=CRASHED"):
        text = page(web, f"/runs?{filters}")
        assert (">failing</a>" in text, "onerror=alert" in text.split("</form>")[1]) == (True, False), filters
    assert "No runs match." in page(web, "/runs?state=PAUSED")


def test_lists_go_on_by_key(web: TestClient) -> None:
    """The next page begins behind the last run of this one."""
    ids = [run(evil, str(number)) for number in range(51)]

    first = page(web, "/runs")
    following = re.search(r'href="(/runs\?after=[^"]+)">Next page', first)
    assert following is not None
    second = page(web, following[1])

    shown = [re.findall(r'id="row-([^"]+)"', text) for text in (first, second)]
    assert shown == [ids[:0:-1], ids[:1]]


def test_what_is_asked_wrongly_is_a_page_that_says_so(web: TestClient) -> None:
    """Not JSON: people read it."""
    web.headers["accept"] = "text/html"
    wrong = {"/nowhere": 404, "/runs/nothing": 404, "/runs?range=soon": 422, "/runs?after=nothing": 404}
    for address, status in wrong.items():
        answer = web.get(address)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")


def test_the_page_of_a_run_shows_what_happened(web: TestClient) -> None:
    """States, tasks, the error, log lines; and its parts alone."""
    run_id = run(failing)

    text = page(web, f"/runs/{run_id}")
    assert all(each in text for each in ("told-0", "broken-0", "ValueError: no data", "Traceback", "WARNING"))
    assert text.count("<rect") == 3
    for part in ("head", "timeline", "steps", "logs", "result", "artifacts", "events", "history"):
        assert "<html" not in page(web, f"/runs/{run_id}/parts/{part}")
    assert "told-1" not in page(web, f"/runs/{run_id}/parts/steps?step_state=FAILED")
    assert "started flow" not in page(web, f"/runs/{run_id}/parts/logs?level=30")
    assert "ValueError: no data" in page(web, f"/runs/{run_id}/logs.txt?level=40")
    nodes = web.get(f"/runs/{run_id}/graph.json").json()["nodes"]
    assert [node["name"] for node in nodes] == ["told-0", "told-1", "broken-0"]


def test_many_tasks_are_drawn_together(web: TestClient) -> None:
    """One bar for all calls of a task; the table pages through them."""
    run_id = run(wide)

    assert "\u00d7150" in page(web, f"/runs/{run_id}/parts/timeline")
    assert "Next page" in page(web, f"/runs/{run_id}/parts/steps")


def test_nothing_that_users_write_is_markup(web: TestClient) -> None:
    """Names, parameters, results and log lines are text."""
    run_id = run(evil, EVIL)

    for address in ("/runs", f"/runs/{run_id}", "/runs/acts?act=cancel"):
        text = page(web, address)
        assert (EVIL in text, "&lt;img" in text or "\\u003cimg" in text) == (False, True), address


def test_nothing_is_inline(web: TestClient) -> None:
    """The policy of contents forbids scripts and styles in pages; none has any."""
    run_id = run(failing)

    for address in ("/runs", f"/runs/{run_id}"):
        text = page(web, address)
        assert re.findall(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=", text) == []


def test_many_runs_are_deleted_after_a_confirmation(web: TestClient) -> None:
    """It says how many; and tells of each what became of it."""
    ids = [run(failing), run(failing), run(evil, "stays")]

    asked = page(web, "/runs/acts?act=delete&flow=failing")
    assert "Delete 2 runs?" in asked
    sent = re.search(r'name="ids" value="([^"]+)"', asked)
    assert sent is not None
    assert set(sent[1].split()) == set(ids[:2])
    answer = web.post("/runs/acts", data={"act": "delete", "ids": f"{sent[1]} nothing"})

    assert "Delete: 2 runs done, 1 not" in answer.text
    assert [each.id for each in queries.list_flow_runs(database()).items] == ids[2:]


def test_an_act_that_cannot_be_done_says_why(web: TestClient) -> None:
    """As a page, with the status that the API would give."""
    run_id = run(failing)

    answer = web.post(f"/runs/{run_id}/cancel")

    assert answer.status_code == 409
    assert "cancelled" in answer.text


def test_an_ended_run_may_be_retried_from_each_of_its_tasks(driver: Driver, web: TestClient) -> None:
    """On its page and on that of the task; not from other steps, and not from those of an old attempt."""
    run_id, going_on = driver.submit(rerun_flows.with_child), driver.submit(rerun_flows.fanned_out)
    address = f"/runs/{run_id}"
    driver.finish(run_id, messages=2)
    assert "step-0" in page(web, f"/runs/{going_on}")
    assert "Retry from here" not in page(web, f"/runs/{going_on}")

    text = page(web, address)
    assert re.findall(r"Retry from here: ([^\"]+)", text) == ["step-0", "in-a-row", "step-1"]
    chosen = re.findall(r'name="from_task_run_id" value="([^"]+)"', text)[2]
    assert chosen in page(web, f"/task-runs/{chosen}")
    answer = web.post(f"{address}/retry", data={"from_task_run_id": chosen})
    driver.sweep()
    driver.finish(run_id)

    assert "what came before that task is kept" in answer.text
    assert driver.final(run_id).result()[-1] == "after 2"
    assert page(web, address).count("Retry from here:") == 3
    assert "Retry from here" not in page(web, f"{address}?attempt=1")
    assert "Retry from here" not in page(web, f"/runs/{run(failing)}")


@pytest.mark.parametrize("verb", ["cancel", "retry", "pause", "resume"])
def test_other_sites_cannot_act(web: TestClient, verb: str) -> None:
    """Their forms are refused before anything is done."""
    answer = web.post(f"/runs/anything/{verb}", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403


def test_artifacts_are_shown_as_what_they_are(web: TestClient) -> None:
    """Markdown, tables in all three forms, progress; what could do harm is left out."""
    run_id = run(showing)

    text = page(web, f"/runs/{run_id}")
    assert "<h1>Sales</h1>" in text
    assert "<strong>up</strong>" in text
    assert (EVIL in text, 'href="javascript' in text) == (False, False)
    for found in ("<th>town</th>", "<td>Ulm</td>", "<td>7</td>", 'value="40"'):
        assert found in text
    listed = page(web, "/artifacts?type=table")
    assert listed.count('class="name"') == 2
    link = re.search(r'href="(/artifacts/[^"]+)"', listed)
    assert link is not None
    assert "<table>" in page(web, link[1])
    assert web.post(f"{link[1]}/delete").status_code == 200
    assert page(web, "/artifacts?type=table").count('class="name"') == 1


def test_events_are_listed_and_lead_to_what_they_are_about(web: TestClient) -> None:
    """By name, resource and run."""
    run_id = run(failing)

    text = page(web, "/events?event=orchestra.flow-run.*")
    assert f'href="/runs/{run_id}"' in text
    assert "orchestra.task-run" not in text.split("<tbody>")[1]
    assert "orchestra.flow-run.Failed" in page(web, f"/runs/{run_id}")
    assert "None match." in page(web, "/events?event=nothing")
    assert web.get("/events?after=nonsense").status_code == 422


def test_forms_work_without_scripts(web: TestClient) -> None:
    """A limit is made, changed and deleted by plain forms."""
    web.post("/limits", data={"name": "database", "limit": "2"})
    answer = web.post("/limits/change", data={"name": "database", "limit": "5"})
    assert "Changed." in answer.text
    assert '<td class="num">5</td>' in answer.text
    assert web.post("/limits", data={"name": "database", "limit": "2"}).status_code == 409
    assert "No limits." in web.post("/limits/delete", data={"name": "database"}).text


def test_deployments_show_when_they_run_next(web: TestClient) -> None:
    """And are paused and resumed."""
    deployment = str(failing.to_deployment("nightly", cron="0 3 * * *").apply())

    text = page(web, f"/deployments/{deployment}")
    assert text.count("03:00:00 UTC") == 5
    assert "Resume schedules" in web.post(f"/deployments/{deployment}/pause").text
    assert "03:00:00 UTC" not in page(web, "/deployments")


@pytest.mark.parametrize("what", ["etl", "etl/queues/default"])
def test_what_waits_for_a_paused_pool_goes_on_at_once_when_it_is_resumed(web: TestClient, what: str) -> None:
    """No sweep is waited for."""
    db = database()
    work_pools.create(db, "etl", "process")
    workers.register(db, WorkerRow("w@h", "h", 1, ("etl",), 2, "prefork", "1"))
    deployment_id = deployments.keep(db, NewDeployment("d", "f", "f.py:f", "etl", work_pool_name="etl"))
    run_id = runs.create(db, NewRun("f", "f:f", "a", b"{}", queue="etl", deployment_id=deployment_id)).row["id"]
    web.post(f"/work-pools/{what}", data={"paused": "true"})
    claimed = claims.claim_run(db, run_id)
    assert claimed is not None
    assert not run_slots.ask(db, claimed.claim, claimed.row, begun=False).granted
    assert claims.claim_run(db, run_id) is None

    web.post(f"/work-pools/{what}", data={"paused": "false"})

    assert claims.claim_run(db, run_id) is not None


def test_the_dashboard_tells_what_failed_lately(web: TestClient) -> None:
    """By its end."""
    run(failing)

    text = page(web, "/?range=1h")

    assert "ValueError: no data" in text
    assert "<b>1</b><span>failed</span>" in text


@flow
def above() -> None:
    """Starts another one."""
    failing(return_state=True)


def test_the_subflows_of_a_run_are_a_list_of_their_own(web: TestClient) -> None:
    """And what is done to all that match is done to them only."""
    run(above)
    parent = queries.list_flow_runs(database(), flow_name="above").items[0]
    (child,) = queries.list_flow_runs(database(), parent_flow_run_id=parent.id).items

    shown = web.get(f"/runs?parent={parent.id}").text
    assert child.name in shown
    assert f'/runs/{parent.id}">a run' in shown
    assert "Delete 1 run?" in web.get(f"/runs/acts?act=delete&parent={parent.id}").text


def test_changes_of_limits_load_no_app_of_a_users(driver: Driver, web: TestClient) -> None:
    """One that ORCHESTRA_APP names is for its workers; who waits goes on by their sweeper."""
    web.post("/limits", data={"name": "db", "limit": "0"})
    waiting = driver.submit(slot_flows.short_block)
    driver.settle()
    settings.override(app="nowhere.to_be:found")

    assert web.post("/limits/change", data={"name": "db", "limit": "1"}, follow_redirects=False).status_code == 303
    driver.sweep()
    assert driver.finish(waiting).is_completed()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "<1 ms"), (0.0004, "<1 ms"), (0.34, "340 ms"), (0.9996, "1.0 s"), (185, "3 m 05 s"), (273_600, "3 d 4 h")],
)
def test_a_duration_is_told_as_people_say_it(seconds: float, shown: str) -> None:
    """What was too short to measure is not said to have taken no time."""
    assert duration(seconds) == shown


def test_the_api_has_a_page_that_tells_all_of_it(web: TestClient) -> None:
    """Each operation with what it takes, and a body as it may be sent."""
    shown = page(web, "/docs")

    for path, methods in web.get("/api/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()}</b> {path}<" in shown
    assert "Idempotency-Key" in shown
    assert re.search(r"curl -X POST http://127.0.0.1:4200/api/artifacts \\\n  --json .*sales", shown)


def test_times_are_told_in_utc(web: TestClient) -> None:
    """Those of a schedule in another zone, too; one that this host does not know hides no deployment."""
    cron = {"cron": "0 3 * * *", "timezone": "Asia/Tokyo"}
    new = {"name": "nightly", "flow_name": "etl", "entrypoint": "nowhere:etl", "schedules": [cron]}
    made = web.post("/api/deployments", json=new).json()
    assert "18:00:00 UTC" in web.get(f"/deployments/{made['id']}").text

    unknown = tables.schedules.update().values(timezone="Nowhere/Town")
    database().write(lambda connection: connection.execute(unknown))
    assert "nightly" in web.get("/deployments").text
