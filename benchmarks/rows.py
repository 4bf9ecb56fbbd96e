"""What is measured: the rows of the table, with their bars."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """What orchestra has to reach: a share of bare Celery's time, or seconds."""

    limit: float
    of_celery: bool = True

    def __str__(self) -> str:
        return f"≤ {self.limit:g} x" if self.of_celery else f"≤ {seconds(self.limit)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One shape of work; `answer` is what every half must come to."""

    name: str
    title: str
    #: What does the same in bare Celery; None: nothing there compares.
    celery: str | None
    answer: int | None
    sqlite: Bar
    #: None: no bar is set.
    postgresql: Bar | None
    #: Times it is measured in each round, for short ones; the round's figure is their median.
    repeat: int = 1

    def bar(self, subject: str) -> Bar | None:
        """The bar of a subject."""
        return self.postgresql if subject == "postgresql" else self.sqlite


def _both(limit: float) -> dict[str, Bar]:
    return {"sqlite": Bar(limit), "postgresql": Bar(limit)}


ROWS = (
    Row("local", "100 direct calls in a row, in process, recorded", None, 100, Bar(0.1, False), None, repeat=5),
    Row("local-one", "a one-task flow, in process, recorded", None, 1, Bar(0.005, False), None, repeat=20),
    Row("chain", "100 direct calls in a row, on a worker", "chain", 100, **_both(0.5), repeat=3),
    Row("fan-out", "1,000 submitted, gathered, summed", "chord", 500500, Bar(1.0), Bar(1.5)),
    Row("latency", "a flow of one direct call, trigger to result", "delay().get()", 1, Bar(2.5), Bar(4.0), repeat=25),
    Row("latency-submit", "a flow of one submitted task", "delay().get()", 1, **_both(5.0), repeat=15),
    Row("flows", "200 flows of 5 direct calls", "200 chains", 1000, Bar(1.0), Bar(3.0)),
    Row("layers", "3 layers of 50, all-to-all", "chain of chords", 24975, Bar(1.0), Bar(2.0)),
    Row("hits-local", "200 calls answered by the cache, in process", None, 200, Bar(0.2, False), None, repeat=5),
    Row("hits", "200 calls answered by the cache, on a worker", None, 200, Bar(0.4, False), Bar(0.4, False), repeat=3),
    Row("transactions-local", "100 empty transactions, in process", None, 100, Bar(0.1, False), None, repeat=5),
    Row("transactions", "100 empty transactions, on a worker", None, 100, Bar(0.3, False), None, repeat=3),
    Row("large", "a result of 10 MiB, kept and read", None, 10 * 2**20, Bar(1.0, False), Bar(1.0, False), repeat=5),
    Row("limit", "640 slots of a limit of 10, 8 processes", None, 640, Bar(10.0, False), None, repeat=3),
    Row("import", "from orchestra import flow, task", "import Celery", None, **_both(0.6), repeat=3),
)


def seconds(value: float) -> str:
    """A duration for people, in ms below one second."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"
