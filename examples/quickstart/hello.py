"""The smallest true program: two tasks and a flow."""

from __future__ import annotations

from orchestra import flow, task


@task(retries=2)
def fetch(day: int) -> int:
    return day * 10


@task
def total(sales: list[int]) -> int:
    return sum(sales)


@flow(log_prints=True)
def etl(days: int = 3) -> int:
    result = total(fetch.map(range(days)))
    print(f"{days} days: {result}")
    return result


if __name__ == "__main__":
    etl()
