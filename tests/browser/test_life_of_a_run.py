"""The whole life of a run, as a person lives it in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.browser.flows import EVIL
from tests.helpers import wait_until

pytestmark = pytest.mark.services


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Path]:
    """A folder for gates, all of which are opened at the end: nothing keeps the worker busy then."""
    yield tmp_path
    for number in range(2):
        (tmp_path / str(number)).touch()


def start(page: Page, deployment: str, **fields: str) -> str:
    """Start a run by the form of a deployment; gives the address of its page."""
    page.goto("/deployments")
    page.get_by_role("link", name=deployment, exact=True).click()
    page.get_by_role("link", name="Run…").click()
    for label, text in fields.items():
        page.get_by_label(label, exact=False).first.fill(text)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("The run was started.")).to_be_visible()
    return page.url.partition("?")[0]


def shows(page: Page, state: str) -> None:
    """Wait until the page of a run shows a state; nobody reloads it."""
    expect(page.locator("#head h1 + .state")).to_have_text(state, timeout=30_000)


def test_a_run_is_started_by_a_form_and_watched(page: Page, site: Site, gates: Path) -> None:
    """Timeline, graph, tasks and log lines come by themselves, and the stream ends with the run."""
    start(page, "through-gates/gates", Folder=str(gates))

    expect(page.locator("#steps tbody tr")).to_have_count(3)
    expect(page.locator("#graph a.node")).to_have_count(3)
    expect(page.locator("#log-lines")).to_contain_text("waiting for 1")
    (gates / "0").touch()
    expect(page.locator("#steps tbody tr").first).to_contain_text("Completed")
    (gates / "1").touch()

    shows(page, "Completed")
    expect(page.locator("#graph a.node.k-completed")).to_have_count(3)
    expect(page.locator("#timeline rect.f-completed")).to_have_count(3)
    expect(page.locator("#result")).to_have_text("2")

    def is_quiet() -> bool:
        page.reload()
        return page.locator("[hx-sse\\:connect]").count() == 0

    wait_until(is_quiet, "the page of a run that has ended to open no stream", every=0.5)


def test_a_form_refuses_what_does_not_fit(page: Page, site: Site) -> None:
    """It stays as it was typed, and says what is wrong; then it runs with what was chosen."""
    page.goto("/deployments")
    page.get_by_role("link", name="greet/hello", exact=True).click()
    page.get_by_role("link", name="Run…").click()
    page.get_by_label("Name", exact=False).first.fill("Ada")
    page.get_by_label("Loud").check()
    page.get_by_label("Colour").select_option("green")
    page.get_by_label("Start in").fill("0")
    page.get_by_role("button", name="Run", exact=True).click()

    expect(page.locator("#log-lines")).to_contain_text("HELLO ADA HELLO ADA in green")
    shows(page, "Completed")
    page.get_by_role("link", name="Run again…").click()
    expect(page.get_by_label("Loud")).to_be_checked()
    page.get_by_label("Times").fill("3")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#parameters")).to_contain_text('"times": 3')
    shows(page, "Completed")


def test_a_run_of_no_deployment_is_run_again(page: Page, site: Site) -> None:
    """With its parameters as JSON, which may be edited."""
    run_id = site.call("flow-run", "create", "--flow", "tests.browser.flows:greet", "--param", "name=Bob")
    page.goto(f"/runs/{run_id}")
    shows(page, "Completed")

    page.get_by_role("link", name="Run again…").click()
    page.get_by_label("Parameters").fill("{")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("is no JSON")
    page.get_by_label("Parameters").fill('{"name": "Eve", "times": 1}')
    page.get_by_role("button", name="Run", exact=True).click()

    expect(page.locator("#log-lines")).to_contain_text("hello Eve in red")
    shows(page, "Completed")


def test_a_failure_is_seen_and_retried(page: Page, site: Site, tmp_path: Path) -> None:
    """The error stands where it is looked for; what completed is kept."""
    start(page, "fragile/glass", Path=str(tmp_path / "wanted"))

    shows(page, "Failed")
    expect(page.locator("#head .note.bad")).to_contain_text("ValueError: no file wanted")
    page.locator("#steps").get_by_role("link", name="needs-0").click()
    expect(page.locator("main")).to_contain_text("no file wanted")
    page.go_back()
    (tmp_path / "wanted").touch()
    page.get_by_role("button", name="Retry from failed").click()

    shows(page, "Completed")
    expect(page.get_by_text("1 step kept from earlier attempts")).to_be_visible()
    page.get_by_role("link", name="attempt 1").click()
    expect(page.locator("#timeline rect.f-failed")).to_have_count(1)


def test_a_run_is_retried_from_the_task_that_failed(page: Page, site: Site, tmp_path: Path) -> None:
    """And once it has completed, from the one before that; by the keyboard, and without a reload in between."""
    wanted = tmp_path / "wanted"
    start(page, "fragile/glass", Path=str(wanted))
    shows(page, "Failed")
    wanted.touch()

    page.get_by_role("button", name="Retry from here: needs-0").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("what came before that task is kept")).to_be_visible()
    shows(page, "Completed")
    expect(page.get_by_text("1 step kept from earlier attempts")).to_be_visible()

    page.get_by_role("button", name="Retry from here: first-0").click()
    shows(page, "Completed")
    expect(page.locator("#head")).to_contain_text("attempt 3")
    expect(page.locator("#timeline rect.f-completed")).to_have_count(2)
    expect(page.get_by_text("kept from earlier attempts")).to_have_count(0)
    expect(page.locator("#history")).to_contain_text("retried by hand from first-0")
    page.get_by_role("link", name="attempt 2").click()
    expect(page.get_by_role("button", name="Retry from here")).to_have_count(0)


def test_a_run_is_cancelled(page: Page, site: Site, gates: Path) -> None:
    """Its page follows."""
    start(page, "through-gates/gates", Folder=str(gates))
    expect(page.locator("#log-lines")).to_contain_text("waiting for")

    page.get_by_role("button", name="Cancel").click()

    shows(page, "Cancelled")


def test_a_paused_run_is_answered(page: Page, site: Site) -> None:
    """By a form made of what it asks for."""
    start(page, "asking/bill")
    expect(page.get_by_text("Waits for a person")).to_be_visible(timeout=30_000)

    page.get_by_role("link", name="Answer…").click()
    expect(page.get_by_text("Pay the bill?")).to_be_visible()
    page.get_by_label("Approved").check()
    page.get_by_label("Amount").fill("7")
    page.get_by_role("button", name="Send and resume").click()

    shows(page, "Completed")
    expect(page.locator("#log-lines")).to_contain_text("approved=True amount=7")


def test_many_runs_are_acted_on_at_once(page: Page, site: Site, gates: Path) -> None:
    """All that match, after a confirmation that says how many."""
    page.goto("/runs?text=bulk")
    expect(page.get_by_text("No runs match.")).to_be_visible()
    for number in range(2):
        words = ("--param", f"folder={gates}", "--name", f"bulk-{number}")
        site.call("deployment", "run", "through-gates/gates", *words)

    expect(page.locator("#list tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_role("heading", name="Cancel 2 runs?")).to_be_visible()
    page.get_by_role("button", name="Cancel 2 runs").click()

    expect(page.get_by_role("heading", name="Cancel: 2 runs done")).to_be_visible()
    page.goto("/runs?text=bulk")
    expect(page.locator("#list .s-cancelled")).to_have_count(2)


def test_no_markup_of_users_runs(page: Page, site: Site) -> None:
    """Names, tags, parameters, log lines and errors are text on every page."""
    start(page, f"{EVIL}/evil")
    shows(page, "Failed")
    expect(page.locator("#graph a.node")).to_have_count(1)

    run = page.url
    page.locator("#steps tbody a").first.click()
    page.goto("/artifacts")
    artifacts = [link.get_attribute("href") or "" for link in page.locator("tbody a.name").all()]
    assert len(artifacts) == 3
    for address in (page.url, run, "/", "/runs", "/flows", "/deployments", "/events", *artifacts):
        page.goto(address)
        expect(page.locator("main")).to_contain_text(EVIL)
        assert page.locator("img[onerror], img[src='x'], a[href^=javascript]").count() == 0
