"""Where Celery's Flower is, for who looks at a page."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from fastapi import Request

from orchestra import settings
from orchestra.celery import addresses
from orchestra.names import is_loopback

#: What a Flower that listens on every address of its host says.
_EVERYWHERE = ("0.0.0.0", "::")


def url_for(request: Request) -> str:
    """What links to Flower begin with; empty where none runs that this page's reader could reach.

    `ORCHESTRA_FLOWER_URL` counts first: a proxy's address, or a Flower of another host. Else it is the one that
    `orchestra flower` started in this home, while it lives. One on loopback is told of to this machine only.
    """
    said = settings.current().flower_url.rstrip("/")
    if said:
        # What is no address of a page leads nowhere, least of all into a script.
        return said if urlsplit(said).scheme in ("http", "https") else ""
    found = addresses.read(settings.current().home_path / addresses.FLOWER)
    return _seen_from(request.url.hostname or "", found.url) if found is not None else ""


def _seen_from(reader: str, url: str) -> str:
    place = urlsplit(url)
    host = place.hostname or ""
    if host in _EVERYWHERE:
        shown = f"[{reader}]" if ":" in reader else reader
        return urlunsplit(place._replace(netloc=f"{shown}:{place.port}"))
    return "" if is_loopback(host) and not is_loopback(reader) else url
