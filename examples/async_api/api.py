"""A web service whose requests start flows, and a flow that asks many services at the same time. All in one process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from orchestra import flow, task

PRICES = {"ann": 3, "bob": 5, "cid": 7}
#: Requests for a price so far, by the customer's name.
ASKED: dict[str, int] = {}


@task(retries=2, retry_delay_seconds=0.01, timeout_seconds=5)
async def price_of(port: int, customer: str) -> int:
    """Asks the price service; it refuses every first request."""
    status, body = await get(port, f"/price/{customer}")
    if status != 200:
        raise ConnectionError(f"the service said {status}")
    return int(body["price"])


@task
async def total(prices: list[int]) -> int:
    """Their sum."""
    return sum(prices)


@flow
async def quote_for(port: int, customers: list[str]) -> dict[str, Any]:
    """Prices of all customers, asked for at the same time."""
    prices = await asyncio.gather(*(price_of(port, customer) for customer in customers))
    return {"prices": dict(zip(customers, prices, strict=True)), "total": await total(prices)}


async def answer(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """What the service says to a request; one for a quote runs a flow, in the event loop of the service."""
    kind, _, rest = path.strip("/").partition("/")
    if kind == "price":
        ASKED[rest] = ASKED.get(rest, 0) + 1
        if rest not in PRICES:
            return 404, {}
        return (200, {"price": PRICES[rest]}) if ASKED[rest] > 1 else (503, {})
    if kind == "quote":
        state = await quote_for(port, rest.split(","), return_state=True)
        if state.is_completed():
            return 200, await state.result()
        return 502, {"error": state.message}
    return 404, {}


async def get(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body of a GET request to this host."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), json.loads(body)


async def _handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    path = (await reader.readline()).decode().split()[1]
    port = writer.get_extra_info("sockname")[1]
    status, body = await answer(port, path)
    writer.write(f"HTTP/1.0 {status} -\r\n\r\n{json.dumps(body)}".encode())
    await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def service() -> AsyncIterator[int]:
    """The web service, on a free port of this host."""
    server = await asyncio.start_server(_handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def main() -> None:
    """Ask for a quote, and for one that cannot be made."""
    async with service() as port:
        print(*await get(port, "/quote/ann,bob,cid"))
        print(*await get(port, "/quote/ann,zoe"))


if __name__ == "__main__":
    asyncio.run(main())
