"""The right answer, worked out by plain Python over the same files, so that the demo can check itself."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from statistics import fmean
from typing import Any

from vega_datasets import local_data

#: Figures are rounded to two digits, on both sides.
NEAR = 0.011


def differences() -> dict[int, float]:
    """By month, the mean of each day's mean difference between San Francisco and Seattle, in °C."""
    seattle, san_francisco = dict(_hours("seattle_temps")), dict(_hours("sf_temps"))
    days: dict[tuple[int, int], list[float]] = defaultdict(list)
    for hour in seattle.keys() & san_francisco.keys():
        days[hour.month, hour.day].append((san_francisco[hour] - seattle[hour]) / 1.8)
    return {month: fmean(fmean(day) for (m, _), day in days.items() if m == month) for month in range(1, 13)}


def faults(months: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the pipeline's answer; empty where it is right."""
    found = [f"{len(months)} months instead of 12"] if len(months) != 12 else []
    right = differences()
    for row in months:
        if abs(row["difference"] - right[row["month"]]) > NEAR:
            found.append(f"month {row['month']}: {row['difference']} instead of {right[row['month']]:.2f}")
        if not row["low"] <= row["difference"] <= row["high"]:
            found.append(f"month {row['month']}: the difference is outside of its interval")
    return found


def _hours(source: str) -> Iterator[tuple[datetime, float]]:
    with open(getattr(local_data, source).filepath, newline="") as file:
        for row in csv.DictReader(file):
            yield datetime.strptime(row["date"][:16], "%Y/%m/%d %H:%M"), float(row["temp"])  # noqa: DTZ007
