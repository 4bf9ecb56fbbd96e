"""Celery's Flower, as `orchestra flower` starts it, beside a worker and its flows."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from orchestra import settings
from orchestra.celery import addresses
from orchestra.cli import cli
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import wait_until
from tests.integration import flows

pytestmark = pytest.mark.services

USER = ("ada", "a long password")


@pytest.fixture
def flower(broker: servers.Broker, database_url: str, tmp_path: Path) -> Iterator[httpx2.Client]:
    """Somebody who is logged in to a Flower that runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "orchestra", "flower", "--port", str(port), "--basic-auth", ":".join(USER)]
    process = servers.Process(command, tmp_path / "flower.log", env={**os.environ, "PYTHONUNBUFFERED": "1"})

    def answers() -> bool:
        assert process.running, process.log()
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/healthcheck").status_code == 200
        except httpx2.HTTPError:
            return False

    wait_until(answers, "Flower to answer", 30)
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", auth=USER, timeout=20) as client:
        yield client
    process.kill_group()


def seen(flower: httpx2.Client) -> list[dict[str, Any]]:
    """The tasks that Flower has seen."""
    columns = {"draw": 1, "start": 0, "length": 100, "search[value]": "", "order[0][column]": 0, "order[0][dir]": "asc"}
    page: dict[str, Any] = flower.get("/tasks/datatable", params={**columns, "columns[0][data]": "name"}).json()
    return list(page["data"])


def named(flower: httpx2.Client) -> dict[str, dict[str, Any]]:
    """The same by name; of several the last."""
    return {task["name"]: task for task in seen(flower)}


def leads_to(flower: httpx2.Client, task: dict[str, Any]) -> list[str]:
    """Where the links to runs lead on the page of a task."""
    page = flower.get(f"/task/{task['uuid']}")
    assert page.status_code == 200
    assert task["uuid"] in page.text
    return re.findall(r'href="(https?://[^"]*/runs/[^"]*)"', page.text)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_flower_tells_the_story_of_a_run(flower: httpx2.Client, worker_factory: WorkerFactory) -> None:
    """Its segments and its steps, inline ones too, by their names, with the way to the run's page."""
    worker_factory(flows.__name__, options=["-E"])
    wait_until(lambda: "online" in flower.get("/workers").text.lower(), "Flower to see the worker", 20)
    handle = flows.both.delay(3)
    assert handle.result(timeout=20) == 15
    wait_until(lambda: {"both", "add-0"} <= named(flower).keys(), "Flower to see the run", 15)
    run, step = named(flower)["both"], named(flower)["add-0"]

    assert run["args"] == f"a segment of flow run {handle.id}"
    assert re.fullmatch(rf"step \S*add-0 of flow run {handle.id}", step["args"])
    assert step["state"] == "SUCCESS"
    for task in (run, step):
        assert leads_to(flower, task) == [f"http://127.0.0.1:4200/runs/{handle.id}"]

    flows.both.s(4).apply_async(queue="default")
    wait_until(lambda: any("(not shown)" in task["args"] for task in seen(flower)), "the door to be seen", 15)
    assert "[4]" not in str(seen(flower))
    door = next(task for task in seen(flower) if "(not shown)" in task["args"])
    assert leads_to(flower, door) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_flower_is_started_safe(flower: httpx2.Client) -> None:
    """Nobody sees anything without the password, and nobody changes anything."""
    for path in ("/", "/workers", "/tasks", "/api/workers", "/api/tasks"):
        assert httpx2.get(str(flower.base_url.join(path))).status_code == 401
    assert flower.post("/api/worker/shutdown/x@y").status_code == 403


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_flower_tells_its_home_where_it_is(flower: httpx2.Client) -> None:
    """So that the admin view links to it, and to none that has ended."""
    found = addresses.read(settings.current().home_path / addresses.FLOWER)
    assert found is not None
    assert found.url == str(flower.base_url).rstrip("/")


def test_a_port_that_is_taken_is_said_to_be(broker: servers.Broker) -> None:
    """In one sentence; and the Flower that has it is not forgotten."""
    home = settings.current().home_path
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        addresses.write(home / addresses.FLOWER, f"http://127.0.0.1:{port}", os.getpid())
        result = CliRunner().invoke(cli, ["flower", "--port", str(port)])

    assert result.exit_code == 2
    assert f"Flower cannot listen on 127.0.0.1, port {port}" in result.stderr
    assert "password" not in result.stderr
    assert addresses.read(home / addresses.FLOWER) is not None
