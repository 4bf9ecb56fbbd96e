"""The code of docs/howto/results.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestra import flow, settings, task


@dataclass
class Summary:
    """A value of a type of one's own."""

    rows: int
    mean: float


@task(persist_result=True)
def summarise(values: list[float]) -> Summary:
    """Its result is kept also where the flow runs in this process."""
    return Summary(len(values), sum(values) / len(values))


@task(result_storage_key="summary-{parameters[day]}.json", result_serializer="json")
def publish(day: str, rows: int) -> dict[str, int]:
    """In a file with a name of its own; a call whose file is there is answered by it."""
    print(f"publishing {day}")
    return {"rows": rows}


@flow(persist_result=True)
def daily(day: str) -> Summary:
    """Keeps what it returns, too."""
    summary = summarise([1.0, 2.0, 6.0])
    publish(day, summary.rows)
    return summary


if __name__ == "__main__":
    state = daily("2026-11-26", return_state=True)
    daily("2026-11-26")
    files = sorted(path.name for path in Path(settings.current().home_path, "storage").iterdir())
    print(state.result(), files)
