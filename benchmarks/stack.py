"""Brings up what is measured: a Valkey server, and for each subject a worker of two processes and a client."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from tests.helpers import ROOT
from tests.servers import Worker

#: Worker processes of every subject.
SLOTS = 2


@dataclass(frozen=True, slots=True)
class Subject:
    """One system under measurement."""

    name: str
    title: str
    #: Module whose SHAPES the client runs.
    shapes: str
    #: Celery app and queue of the worker.
    app: str
    queue: str
    environment: Mapping[str, str]


def subjects(valkey: str, home: Path, postgresql: str | None) -> list[Subject]:
    """Bare Celery, orchestra on SQLite, and on PostgreSQL where there is one.

    Args:
        valkey: URL of the server, without a database number; each subject gets one of its own.
        home: An empty folder.
        postgresql: SQLAlchemy URL of an empty database.
    """
    environment = {"BENCH_CELERY_URL": f"{valkey}/0"}
    found = [Subject("celery", "Celery", "benchmarks.bare", "benchmarks.bare", "bare", environment)]
    found.append(_orchestra("sqlite", "orchestra, SQLite", f"{valkey}/1", home / "sqlite", ""))
    if postgresql:
        found.append(_orchestra("postgresql", "PostgreSQL", f"{valkey}/2", home / "postgresql", postgresql))
    return found


def _orchestra(name: str, title: str, broker: str, home: Path, database: str) -> Subject:
    environment = {
        "ORCHESTRA_HOME": str(home),
        "ORCHESTRA_BROKER_URL": broker,
        "ORCHESTRA_DATABASE_URL": database,
        "ORCHESTRA_FLOWS": "benchmarks.flows",
        "ORCHESTRA_LOG_TO_CONSOLE": "0",
    }
    return Subject(name, title, "benchmarks.flows", "celery_app", "default", environment)


class Wrong(Exception):
    """A subject failed, or came to another answer than it must."""


class Client:
    """A subject's client process."""

    def __init__(self, process: subprocess.Popen[str], subject: Subject) -> None:
        self._process, self._subject = process, subject

    def measure(self, row: Row) -> float:
        """Seconds of one round of a row.

        Raises:
            Wrong: It failed or came to a wrong answer.
        """
        answer = self._ask([row.name, row.repeat])
        if any(found != row.answer for found in answer["answers"]):
            raise Wrong(f"{self._subject.title}, {row.title}: came to {answer['answers']}, must be {row.answer}")
        return float(answer["seconds"])

    def _ask(self, question: list[Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its client died"}
        if "error" in answer:
            raise Wrong(f"{self._subject.title}, {question[0]}: {answer['error']}")
        return answer


@contextlib.contextmanager
def running(subject: Subject, logs: Path) -> Iterator[Client]:
    """A worker and a client of a subject, ended on leaving. What they print goes to files in `logs`."""
    environment = {**os.environ, **subject.environment}
    log = logs / f"{subject.name}.log"
    # A line for each task would be measured too.
    quiet = ("-l", "WARNING")
    worker = Worker(log, environment, app=subject.app, queues=subject.queue, concurrency=SLOTS, options=quiet)
    try:
        with _client(subject, environment, log) as process:
            yield Client(process, subject)
        worker.terminate()
    finally:
        worker.kill_group()


@contextlib.contextmanager
def _client(subject: Subject, environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.client", subject.shapes]
    pipe = subprocess.PIPE
    with log.open("a") as errors:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=errors, text=True
        )
    # Leaving closes its standard input, which ends it.
    with process:
        yield process
