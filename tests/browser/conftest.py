"""One server, one worker and one Chromium for all browser tests; whatever a page complains of fails its test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests import servers
from tests.helpers import ROOT, answers, free_port, wait_until

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
#: Remembers what the policy of contents refuses, from the first moment of a page on.
_LISTENER = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.refused.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A server with a worker."""

    url: str
    environment: dict[str, str]

    def call(self, *words: str) -> str:
        """The first line that `orchestra` prints to these words."""
        command = [sys.executable, "-m", "orchestra", *words]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, check=True, capture_output=True, text=True)
        return done.stdout.partition("\n")[0]


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server, with a worker that knows the flows, and their deployments.

    On a broker of its own: on the session's the worker would take the messages of other tests.
    """
    folder = tmp_path_factory.mktemp("site")
    broker = servers.Broker(folder)
    broker.start()
    given = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRA_")}
    environment = given | {
        "ORCHESTRA_HOME": str(folder / "home"),
        "ORCHESTRA_BROKER_URL": broker.url,
        "ORCHESTRA_FLOWS": "tests.browser.flows",
        servers.SESSION_VARIABLE: os.environ[servers.SESSION_VARIABLE],
        "PYTHONUNBUFFERED": "1",
    }
    subprocess.run([sys.executable, "-m", "tests.browser.flows"], env=environment, cwd=ROOT, check=True)
    port = free_port()
    command = [sys.executable, "-m", "orchestra", "server", "start", "--port", str(port)]
    server = servers.Process(command, folder / "server.log", env=environment)
    worker = servers.Worker(folder / "worker.log", environment, concurrency=2)
    try:
        worker.wait_ready()
        wait_until(lambda: answers(port), "the server to answer", 30)
        yield Site(f"http://127.0.0.1:{port}", environment)
    finally:
        server.kill_group()
        worker.kill_group()
        broker.stop()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium; its driver keeps a loop running in this thread, which tests of async code do without."""
    path = shutil.which("chromium")
    assert path is not None, "the browser tests need Chromium, and there is none: run `make deps` (Debian, root)"
    with sync_playwright() as playwright:
        # For as long as a busy machine may take.
        expect.set_options(timeout=20_000)
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


def _is_bad(said: ConsoleMessage) -> bool:
    """Whether a page complains; a form that is answered with what is wrong in it is no complaint."""
    return said.type in ("error", "warning") and "422" not in said.text


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A fresh window; a script's error, a refused content or a failed request in it fails the test."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    context.add_init_script(_LISTENER)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(f"script error: {error}"))
    opened.on("console", lambda said: complaints.append(said.text) if _is_bad(said) else None)
    yield opened
    refused = opened.evaluate("window.refused")
    context.close()
    assert (complaints, refused) == ([], [])
