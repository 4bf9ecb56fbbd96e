"""The code of docs/howto/caching.md."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from orchestra import flow, task
from orchestra.cache_policies import INPUTS, CachePolicy
from orchestra.locking.filesystem import FileSystemLockManager


@task(cache_policy=INPUTS, cache_expiration=timedelta(hours=1))
def exchange_rate(currency: str) -> float:
    """Asked of the bank once an hour for each currency."""
    print(f"asking for {currency}")
    return {"EUR": 1.0, "USD": 1.1}[currency]


@task(cache_key_fn=lambda context, parameters: parameters["day"] or None)
def report(day: str, verbose: bool = False) -> str:
    """One a day, however it is asked for; without a day none is kept."""
    print(f"writing the report of {day}")
    return f"report of {day}"


class ByMonth(CachePolicy):
    """Calls for days of one month are the same."""

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kwargs: Any) -> str | None:
        return str(inputs["day"])[:7]


by_month = report.with_options(cache_policy=ByMonth())


@flow
def month_end() -> list[Any]:
    """Asks for the same things more than once."""
    rates = [exchange_rate("EUR"), exchange_rate("USD"), exchange_rate("EUR")]
    reports = [report("2026-11-26"), report("2026-11-26", verbose=True), by_month("2026-11-25"), by_month("2026-11-24")]
    print(exchange_rate.explain_cache_key("EUR"))
    return [*rates, *reports]


EACH_FOR_ITSELF = INPUTS.configure(isolation_level="READ_COMMITTED")
BY_FILES = INPUTS.configure(lock_manager=FileSystemLockManager(Path("/shared/locks")))

if __name__ == "__main__":
    print(*month_end(), sep="\n")
