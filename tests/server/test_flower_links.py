"""The links of the admin view to Celery's Flower: where one runs, and for who reaches it."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from orchestra import settings
from orchestra.celery import addresses
from orchestra.server import flower

HOST = "orchestra.example"


def listens(url: str, pid: int | None = None) -> None:
    """A Flower of this home listens there."""
    addresses.write(settings.current().home_path / addresses.FLOWER, url, pid or os.getpid())


def leads_to(web: TestClient) -> list[str]:
    """Where the page of the workers has links to Flower."""
    page = web.get("/workers")
    assert page.status_code == 200
    return re.findall(r'href="([^"]*)"[^>]*>Flower', page.text)


def test_no_page_links_to_a_flower_that_does_not_run(web: TestClient) -> None:
    """None was ever started, or it has ended."""
    assert leads_to(web) == []

    listens("http://127.0.0.1:5555", pid=2**22 + 1)

    assert leads_to(web) == []


def test_pages_link_to_the_flower_that_runs(web: TestClient) -> None:
    """Wherever it listens."""
    listens("http://127.0.0.1:7001")

    assert leads_to(web) == ["http://127.0.0.1:7001/workers"]


@pytest.mark.parametrize(
    ("listening", "link"),
    [
        ("http://127.0.0.1:5555", ""),
        ("http://0.0.0.0:5555", f"http://{HOST}:5555"),
        ("http://[::]:5555", f"http://{HOST}:5555"),
        ("http://10.0.0.9:5555", "http://10.0.0.9:5555"),
    ],
)
def test_a_reader_elsewhere_gets_an_address_that_they_reach(listening: str, link: str) -> None:
    """Loopback of the server is not theirs; "all addresses" is the one that they came by."""
    listens(listening)
    scope: dict[str, Any] = {
        "type": "http",
        "scheme": "http",
        "path": "/workers",
        "server": (HOST, 4200),
        "headers": [],
    }

    assert flower.url_for(Request(scope)) == link


@pytest.mark.parametrize(
    ("url", "links"), [("https://flower.example/", ["https://flower.example/workers"]), ("javascript:alert(1)//", [])]
)
def test_a_flower_elsewhere_is_told_by_a_setting(web: TestClient, url: str, links: list[str]) -> None:
    """It counts before one of this home; what is no address of a page makes no link."""
    listens("http://127.0.0.1:5555")
    settings.override(flower_url=url)

    assert leads_to(web) == links
