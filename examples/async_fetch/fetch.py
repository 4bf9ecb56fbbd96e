"""An async flow: many slow answers waited for at once, from a small server of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from orchestra import flow, task

PAGES = [f"/page/{number}" for number in range(8)]


class Pages(BaseHTTPRequestHandler):
    """Answers any path with its own name."""

    def do_GET(self) -> None:
        """Answer after a while, as the web does."""
        body = f"<title>{self.path}</title>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@contextlib.contextmanager
def site() -> Iterator[int]:
    """A web server on this host; gives its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@task(retries=2, retry_delay_seconds=0.1, timeout_seconds=10)
async def fetch(port: int, path: str) -> str:
    """One page's text."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode().partition("\r\n\r\n")[2]


@task
def title(page: str) -> str:
    """What stands in a page's title."""
    return page.partition("<title>")[2].partition("</title>")[0]


@flow
async def crawl(port: int, paths: list[str] = PAGES) -> list[str]:
    """Titles of all pages, fetched at the same time."""
    pages = await asyncio.gather(*(fetch(port, path) for path in paths))
    return [title(page) for page in pages]


if __name__ == "__main__":
    with site() as port:
        print(asyncio.run(crawl(port)))
