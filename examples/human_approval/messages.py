"""Two flows that talk to each other while they run."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from orchestra import flow, runtime
from orchestra.input import RunInput

#: Where the stock keeper says under which id it runs.
opened: SimpleQueue[str] = SimpleQueue()


class Order(RunInput):
    """What somebody wants from the stock."""

    item: str
    count: int


class Answer(RunInput):
    """Whether an order can be met."""

    item: str
    accepted: bool


@flow
def stock_keeper(orders: int) -> dict[str, int]:
    """Answer so many orders; gives what is left."""
    opened.put(str(runtime.flow_run.id))
    stock = {"apples": 10, "pears": 3}
    for order in itertools.islice(Order.receive(timeout=60), orders):
        accepted = stock.get(order.item, 0) >= order.count
        if accepted:
            stock[order.item] -= order.count
        order.respond(Answer(item=order.item, accepted=accepted))
    return stock


@flow
def shop(keeper: str, wanted: dict[str, int]) -> list[str]:
    """Order from the stock keeper's run; gives what could be had."""
    answers = Answer.receive(timeout=60)
    had = []
    for item, count in wanted.items():
        Order(item=item, count=count).send_to(keeper)
        if answers.next().accepted:
            had.append(item)
    return had


if __name__ == "__main__":
    with ThreadPoolExecutor() as pool:
        left = pool.submit(stock_keeper, 2)
        print("had", shop(opened.get(), {"apples": 4, "pears": 5}))
        print("left", left.result())
