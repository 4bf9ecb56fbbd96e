"""Makes the pictures of the admin view in docs/images: `make screenshots`.

A home of its own, flows called in this process, a server in a thread, and Chromium.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal

from orchestra import flow, get_run_logger, task
from orchestra.artifacts import create_markdown_artifact

IMAGES = Path(__file__).parent / "images"
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync".split()


@task
def extract(table: str) -> int:
    """Reads a table."""
    time.sleep({"users": 0.4, "orders": 0.9}.get(table, 0.1))
    get_run_logger().info("%s: 1,042 rows", table)
    return 1042


@task
def clean(rows: int) -> int:
    """Leaves out what is broken."""
    time.sleep(0.3)
    return rows - 2


@task
def score(part: int) -> float:
    """One of several."""
    time.sleep(0.25 + 0.15 * part)
    if part == 2:
        get_run_logger().warning("row 1042 looks odd")
        raise ValueError("negative price (row 1042)")
    return part / 4


@task
def report(scores: list[float]) -> float:
    """Comes last."""
    return sum(scores)


@flow(log_prints=True)
def etl(day: str, parts: int = 4, mode: Literal["full", "delta"] = "full", publish: bool = False) -> float:
    """Reads, cleans, scores."""
    print(f"beginning with {day}, {mode}")
    clean(extract("users"))
    clean(extract("orders"))
    scores = [future.result() for future in score.map(list(range(parts)))]
    create_markdown_artifact("**All parts** are scored.", key="scores")
    return report(scores)


@flow
def hourly(day: str) -> int:
    """Ends well."""
    return extract("fx")


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["ORCHESTRA_HOME"] = home
        deployment = _history()
        port = _serve()
        _shoot(f"http://127.0.0.1:{port}", deployment)


def _history() -> str:
    """Some runs and a deployment; gives the deployment's id."""
    from orchestra.store.behind import behind

    for number in range(14):
        hourly(f"2026-11-{number + 1:02d}")
    etl("2026-11-21", parts=2)
    etl("2026-11-22", return_state=True)
    behind().flush()
    made: Any = etl.to_deployment("nightly", cron="0 3 * * *", parameters={"day": "today"}, tags=["sales"])
    return str(made.apply())


def _serve() -> int:
    import uvicorn

    from orchestra.server import create_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = uvicorn.Server(uvicorn.Config(create_app(), port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return port


def _shoot(url: str, deployment: str) -> None:
    from playwright.sync_api import sync_playwright

    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_context(viewport={"width": 1180, "height": 760}, timezone_id="UTC").new_page()
        page.goto(url)
        page.screenshot(path=IMAGES / "view-dashboard.png")
        page.goto(f"{url}/runs?flow=etl")
        page.locator("#list tbody a.name").first.click()
        # Not the lines with tracebacks, which tell of this machine.
        page.goto(f"{page.url}?log_text=rows")
        page.wait_for_selector("#graph svg")
        _clipped(page, "view-run.png", 1180, 980)
        page.goto(f"{url}/deployments/{deployment}/run")
        _clipped(page, "view-form.png", 860, 640)
        browser.close()


def _clipped(page: Any, name: str, width: int, height: int) -> None:
    page.screenshot(path=IMAGES / name, clip={"x": 0, "y": 0, "width": width, "height": height}, full_page=True)


if __name__ == "__main__":
    main()
