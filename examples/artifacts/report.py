"""A day's report for people: a table, markdown, a link and a progress; and variables that say what is in it."""

from __future__ import annotations

from orchestra import flow, task
from orchestra.artifacts import (
    Artifact,
    TableArtifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from orchestra.variables import Variable

SALES = {"north": [120, 80], "south": [200], "west": [40, 60, 90]}


@task
def total(region: str) -> dict[str, object]:
    """One row of the table."""
    return {"region": region, "orders": len(SALES[region]), "sum": sum(SALES[region])}


@task
def count_slowly(regions: list[str]) -> list[dict[str, object]]:
    """Shows how far it is while it works."""
    progress = create_progress_artifact(0, description="regions counted")
    rows = []
    for number, region in enumerate(regions, 1):
        rows.append(total(region))
        update_progress_artifact(progress, 100 * number / len(regions))
    return rows


@flow
def daily_report(day: str) -> int:
    """Shows a table and a summary, each a new version of its key."""
    rows = count_slowly(Variable.get("regions", default=["north", "south"]))
    create_table_artifact(rows, key="sales", description=f"Sales of {day}")
    best = max(rows, key=lambda row: row["sum"])
    create_markdown_artifact(f"# {day}\n\nBest region: **{best['region']}**", key="summary")
    create_link_artifact("https://example.org/sales", "the shop's own page", key="shop")
    return len(rows)


def newest(key: str) -> str:
    """What the newest version of a key shows."""
    found = Artifact.get(key)
    return "nothing yet" if found is None else str(found.data)


def ensure_prices() -> bool:
    """Whether the table had to be made."""
    _, made = TableArtifact.get_or_create("prices", table={"fruit": ["apple", "pear"], "price": [1.2, None]})
    return made


def choose(*regions: str) -> None:
    """Has later reports count these regions."""
    Variable.set("regions", list(regions), tags=["report"], overwrite=True)


if __name__ == "__main__":
    print(newest("summary"))
    daily_report("2026-11-26")
    choose("north", "south", "west")
    print(daily_report("2026-11-27"), "regions")
    print(newest("sales"))
    print(ensure_prices(), ensure_prices())
