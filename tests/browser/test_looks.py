"""What every page must be: readable by all, in light and dark, wide and narrow, and by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from orchestra.server.rendering import PARTS
from tests.browser.conftest import Site
from tests.browser.test_life_of_a_run import start

pytestmark = pytest.mark.services

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
PAGES = ("/", "/runs", "/flows", "/deployments", "/work-pools", "/workers", "/artifacts", "/events", "/limits", "/docs")


@pytest.fixture(scope="module")
def addresses(browser: object, site: Site) -> list[str]:
    """The lists, and one page of each thing."""
    context = browser.new_context(base_url=site.url)  # type: ignore[attr-defined]
    window = context.new_page()
    run = start(window, "fragile/glass", Path="/nothing")
    expect(window.locator("#head h1 + .state")).to_have_text("Failed", timeout=30_000)
    step = window.locator("#steps tbody a").first.get_attribute("href")
    window.goto("/deployments")
    deployment = window.get_by_role("link", name="greet/nightly", exact=True).get_attribute("href")
    window.goto("/workers")
    worker = window.locator("tbody a.name").first.get_attribute("href")
    context.close()
    ids = run.rpartition("/")[2]
    return [
        *PAGES,
        run,
        step,
        deployment,
        f"{deployment}/run",
        worker,
        f"/runs/acts?act=delete&run={ids}",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_shuts_anybody_out(page: Page, addresses: list[str], scheme: str) -> None:
    """axe finds nothing serious, and no page is wider than a narrow window."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    found: list[str] = []
    for address in addresses:
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(address)
        # Not as a tag: the policy of contents would refuse it.
        page.evaluate(AXE.read_text())
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        for each in result["violations"]:
            if each["impact"] in ("serious", "critical"):
                targets = [node["target"] for node in each["nodes"][:3]]
                found.append(f"{address}: {each['id']} {targets}")
        page.set_viewport_size({"width": 400, "height": 800})
        if (over := page.evaluate("document.documentElement.scrollWidth - window.innerWidth")) > 0:
            found.append(f"{address}: {over} wider than the window")
    assert found == []


@pytest.mark.parametrize("width", [1280, 400])
def test_a_list_of_events_is_dense(page: Page, addresses: list[str], width: int) -> None:
    """However much an event tells, and however narrow the window, it has one line, or two with a long name."""
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("/events")

    heights = page.locator("table.events tbody tr").evaluate_all("rows => rows.map(row => row.offsetHeight)")

    assert heights
    assert max(heights) < 60


def test_a_narrow_window_shows_which_part_it_is(page: Page) -> None:
    """The last one, too, to which its line of parts must be scrolled."""
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto("/limits")

    expect(page.get_by_role("link", name="Limits", exact=True)).to_be_in_viewport(ratio=0.9)


def test_switches_are_kept(page: Page) -> None:
    """The theme and the zone of times stay as they were chosen."""
    page.goto("/runs")
    page.get_by_role("button", name="Auto theme").click()
    page.get_by_role("button", name="Light").click()
    page.get_by_role("button", name="Local time").click()

    page.goto("/flows")

    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("button", name="UTC")).to_be_visible()


def test_every_part_has_a_key_of_its_own(page: Page) -> None:
    """After g; its link says which."""
    for _, path in PARTS:
        page.goto("/docs")
        key = page.locator(f'nav a[href="{path}"]').get_attribute("title")
        assert key is not None
        page.locator("body").press("g")
        page.locator("body").press(key[-1])
        page.wait_for_url(f"**{path}")


def test_it_is_used_by_keyboard(page: Page) -> None:
    """A slash goes to the search, g and a letter to a part."""
    page.goto("/runs")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("nothing like it")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No runs match.")).to_be_visible()
    page.locator("body").press("g")
    page.locator("body").press("f")
    expect(page.get_by_role("heading", name="Flows")).to_be_visible()
