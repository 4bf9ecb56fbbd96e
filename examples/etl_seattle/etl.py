"""How much warmer is San Francisco than Seattle, month by month, and how sure is that?

A pipeline on the files that the PyPI package `vega_datasets` ships: 22,355 rows of four files are read in parallel,
cleaned, joined, compared with bootstrap intervals, and loaded into a SQLite database.
"""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd
from vega_datasets import local_data

from orchestra import flow, runtime, task, unmapped

SOURCES = ["seattle_temps", "sf_temps", "seattle_weather", "airports"]
CITIES = {"Seattle": (47.61, -122.33), "San Francisco": (37.77, -122.42)}


@task
def extract(source: str) -> pd.DataFrame:
    """Read one file as it is."""
    rows = pd.read_csv(getattr(local_data, source).filepath)
    print(f"{source}: {len(rows):,} rows")
    return rows


@task
def clean_hours(rows: pd.DataFrame) -> pd.Series:
    """Hourly temperatures in °C, one for each hour."""
    hours = pd.to_datetime(rows["date"]).rename("hour")
    celsius = pd.Series(((rows["temp"] - 32) / 1.8).to_numpy(), index=hours, name="celsius")
    return celsius[~celsius.index.duplicated()].dropna().sort_index()


@task
def count_rain(rows: pd.DataFrame) -> dict[int, float]:
    """Days with rain in Seattle, by month: the average of 2012 to 2015."""
    days = rows.assign(date=pd.to_datetime(rows["date"]))
    wet = days[days["precipitation"] > 0.2]
    years = days["date"].dt.year.nunique()
    return {int(month): round(count / years, 1) for month, count in wet.groupby(wet["date"].dt.month).size().items()}


@task(retries=3, retry_delay_seconds=2)
def locate_airport(airports: pd.DataFrame, city: str) -> str:
    """The airport next to a city, asked of a "service" whose first answer is always an error."""
    if runtime.task_run.run_count == 1 and city == "San Francisco":
        raise ConnectionError("the airport service did not answer")
    latitude, longitude = CITIES[city]
    east = (airports["longitude"] - longitude) * math.cos(math.radians(latitude))
    distance = (airports["latitude"] - latitude) ** 2 + east**2
    return str(airports.loc[distance.idxmin(), "name"])


@task
def join(seattle: pd.Series, san_francisco: pd.Series) -> pd.DataFrame:
    """Both cities side by side, for the hours that both have."""
    return pd.concat({"seattle": seattle, "san_francisco": san_francisco}, axis=1, join="inner").round(4)


@task
def compare_month(month: int, hours: pd.DataFrame, rain: dict[int, float], resamples: int) -> dict[str, Any]:
    """One month's means, and a 95 % bootstrap interval of their difference, resampled by days."""
    mine = hours[hours.index.month == month]
    apart = (mine["san_francisco"] - mine["seattle"]).groupby(mine.index.day).mean().to_numpy()
    random = np.random.default_rng(month)
    means = [random.choice(apart, len(apart)).mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    print(f"month {month}: {apart.mean():+.1f} °C from {len(mine)} hours")
    return {
        "month": month,
        "hours": len(mine),
        "seattle": round(float(mine["seattle"].mean()), 2),
        "san_francisco": round(float(mine["san_francisco"].mean()), 2),
        "difference": round(float(apart.mean()), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
        "rainy_days_seattle": rain[month],
    }


@task
def load(months: list[dict[str, Any]], airports: list[str], database: str) -> int:
    """Write the table. A task may run again after a crash, so it replaces rows and never adds the same twice."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table if not exists airports (city text primary key, airport text)")
        connection.executemany("replace into airports values (?, ?)", zip(CITIES, airports, strict=True))
        columns = list(months[0])
        connection.execute(f"create table if not exists months ({', '.join(columns)}, primary key (month))")
        marks = ", ".join(f":{column}" for column in columns)
        connection.executemany(f"replace into months values ({marks})", months)
        return int(connection.execute("select count(*) from months").fetchone()[0])


@flow(log_prints=True)
def etl(database: str = "weather.db", resamples: int = 2000) -> list[dict[str, Any]]:
    """Compare the weather of the two cities and keep it in a SQLite database.

    Args:
        database: File to write.
        resamples: Bootstrap resamples for each month; more take longer.
    """
    seattle_temps, sf_temps, weather, airports = extract.map(SOURCES)
    cities = clean_hours.map([seattle_temps, sf_temps])
    rain = count_rain.submit(weather)
    nearby = locate_airport.map(airports=unmapped(airports), city=list(CITIES))

    hours = join.submit(*cities)
    months = compare_month.map(range(1, 13), unmapped(hours), unmapped(rain), resamples)
    loaded = load(months, nearby, database)

    print(f"{loaded} months are in {database}")
    return months.result()


if __name__ == "__main__":
    for row in etl():
        print(row)
