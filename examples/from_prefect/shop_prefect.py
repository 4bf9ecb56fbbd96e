"""How a shop closes its day, as written for Prefect."""

import csv
import io
from datetime import timedelta

from prefect import allow_failure, flow, get_run_logger, runtime, tags, task, unmapped
from prefect.futures import as_completed, wait
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

TILLS = {
    "front": "item,price\nbread,2.40\nmilk,1.15\nbread,2.40\n",
    "back": "item,price\ncheese,7.90\nmilk,1.15\n",
    "yard": "item,price\nbread,two\n",
}


class Closing(BaseModel):
    """What is asked for."""

    tills: list[str]
    currency: str = "EUR"


#: The tills that were asked: each answers only when asked again.
asked: set[str] = set()


@task(retries=2, retry_delay_seconds=exponential_backoff(0.01), retry_jitter_factor=0.5, task_run_name="read-{till}")
def read(till: str) -> list[dict[str, str]]:
    if till not in asked:
        asked.add(till)
        raise ConnectionError(f"the till {till!r} does not answer")
    return list(csv.DictReader(io.StringIO(TILLS[till])))


@task(timeout_seconds=30)
def add_up(rows: list[dict[str, str]], currency: str) -> float:
    get_run_logger().info("adding up %d sales in %s", len(rows), currency)
    return sum(float(row["price"]) for row in rows)


@task
def best_seller(tills: list[list[dict[str, str]]]) -> str:
    items = [row["item"] for rows in tills for row in rows]
    return max(sorted(set(items)), key=items.count)


@task
def post_mortem(outcome: float | Exception) -> str:
    return f"{type(outcome).__name__}: {outcome}" if isinstance(outcome, Exception) else "all is well"


@flow(log_prints=True, flow_run_name="check-{limit}")
def check(total: float, limit: float = 10.0):
    if total > limit:
        return Completed(message=f"{total:.2f} is enough")
    return Failed(message=f"{total:.2f} is less than {limit:.2f}")


def tell(flow, flow_run, state):
    print(f"HOOK: {flow.name} is {state.name}")


@flow(
    name="close-the-day",
    retries=1,
    timeout_seconds=timedelta(minutes=5).total_seconds(),
    task_runner=ThreadPoolTaskRunner(max_workers=4),
    on_completion=[tell],
    log_prints=True,
)
def close_the_day(closing: Closing) -> dict[str, float | str]:
    with tags("closing"):
        sales = read.map(closing.tills)
        totals = add_up.map(sales, currency=unmapped(closing.currency))
        wait(totals)
        failed = [total for total in totals if total.state.is_failed()]
        why = [post_mortem.submit(allow_failure(total)) for total in failed]
        total = sum(done.result() for done in as_completed([each for each in totals if each not in failed]))
    verdict = check(total, return_state=True)
    print(f"{runtime.flow_run.flow_name}: {total:.2f} {closing.currency}, {verdict.message}")
    return {
        "total": round(total, 2),
        "best seller": best_seller(sales),
        "troubles": "; ".join(each.result() for each in why),
    }


if __name__ == "__main__":
    print(close_the_day({"tills": ["front", "back", "yard"]}))
