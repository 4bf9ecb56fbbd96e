"""Pages stay live, whatever comes late or is not answered once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.conftest import Site

pytestmark = pytest.mark.services


@pytest.fixture
def window(browser: Browser, site: Site) -> Iterator[Page]:
    """A fresh window, in which requests may fail."""
    context = browser.new_context(base_url=site.url)
    yield context.new_page()
    context.close()


@pytest.fixture
def add(site: Site) -> Callable[[str], None]:
    """Adds a run of this name, which nobody starts."""

    def added(name: str) -> None:
        site.call("deployment", "run", "through-gates/gates", "--param", "folder=x", "--name", name, "--start-in", "1d")

    return added


def is_live(page: Page, name: str, number: int = 1) -> None:
    """The list of runs shows so many of this name; nobody reloads it."""
    expect(page.locator("#list tbody tr", has_text=name)).to_have_count(number)


def once(page: Page, address: str, answer: Callable[[Route], None]) -> list[str]:
    """Have the first request to an address answered so; gives those that were."""
    done: list[str] = []

    def handle(route: Route) -> None:
        if done:
            route.fallback()
            return
        done.append(route.request.url)
        answer(route)

    page.route(address, handle)
    return done


def test_a_page_goes_live_however_late_its_scripts_come(window: Page, add: Callable[[str], None]) -> None:
    """The part of htmx that hears of changes may be there long after the rest."""

    def late(route: Route) -> None:
        time.sleep(1.0)  # a slow network, no wait
        route.fallback()

    asked = once(window, "**/hx-sse.min.js", late)
    window.goto("/runs?text=late-script")
    add("late-script")

    is_live(window, "late-script")
    assert asked


@pytest.mark.parametrize("address", ["**/live/runs", "**/runs?text=*"])
@pytest.mark.parametrize("how", ["refused", "away"])
def test_a_server_that_is_away_for_a_moment_leaves_no_page_behind(
    window: Page, add: Callable[[str], None], address: str, how: str
) -> None:
    """Neither the stream of changes nor a list that changed is given up, and the list is not emptied meanwhile."""
    name = f"{how}-{'stream' if 'live' in address else 'list'}"
    add(name)
    if "live" not in address:
        window.goto(f"/runs?text={name}")
        is_live(window, name)
    answer: Callable[[Route], None] = (
        (lambda route: route.fulfill(status=503, body="later")) if how == "refused" else (lambda route: route.abort())
    )
    failed = once(window, address, answer)
    if "live" in address:
        window.goto(f"/runs?text={name}")
    is_live(window, name)
    add(name)

    is_live(window, name, 2)
    assert failed


def test_a_list_whose_rows_are_chosen_waits_and_then_catches_up(window: Page, add: Callable[[str], None]) -> None:
    """As long as a row is chosen, none moves under the cursor; another window shows the change meanwhile."""
    add("chosen")
    other = window.context.new_page()
    for page in (window, other):
        page.goto("/runs?text=chosen")
        is_live(page, "chosen")
    box = window.locator("#list tbody input[name=run]").first
    box.check()
    add("chosen")
    is_live(other, "chosen", 2)
    is_live(window, "chosen", 1)
    box.uncheck()

    is_live(window, "chosen", 2)
