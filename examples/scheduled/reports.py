"""A report by the clock: twice on working days in Berlin, and every few seconds to have something to watch."""

from __future__ import annotations

from datetime import timedelta

from orchestra import flow, task
from orchestra.schedules import Cron, Interval, RRule


@task
def count_orders(region: str) -> int:
    """How many orders a region had."""
    return len(region)


@flow(log_prints=True)
def report(region: str = "all") -> int:
    """Count the orders of a region."""
    orders = count_orders(region)
    print(f"{orders} orders in {region}")
    return orders


SCHEDULES = [
    Cron("0 9,17 * * mon-fri", timezone="Europe/Berlin", slug="office-hours"),
    RRule("FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17", timezone="Europe/Berlin", slug="last-friday", catchup="all"),
    Interval(timedelta(seconds=5), parameters={"region": "north"}, slug="often", catchup="none"),
]

if __name__ == "__main__":
    report.to_deployment("by-the-clock", schedules=SCHEDULES).apply()
