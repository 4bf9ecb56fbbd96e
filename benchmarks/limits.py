"""`python -m benchmarks.limits`: how many blocks a second eight processes get through one limit of ten."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import servers
from orchestra import settings
from orchestra.concurrency.limits import create_limit
from orchestra.concurrency.sync import concurrency
from orchestra.store import database

PROCESSES, THREADS, LIMIT = 8, 4, 10
#: For how long a block is held, in seconds, and how many each thread does.
SHAPES = ((0.0, 15), (0.05, 10))


def work(blocks: int, seconds: float) -> None:
    """What one of the processes does, once it is told to."""
    print("ready", flush=True)
    sys.stdin.readline()

    def take() -> None:
        for _ in range(blocks):
            with concurrency("shared", strict=True):
                time.sleep(seconds)

    threads = [threading.Thread(target=take) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(blocks: int, seconds: float) -> float:
    """Blocks a second of all processes together."""
    command = [sys.executable, "-m", "benchmarks.limits", str(blocks), str(seconds)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(PROCESSES)]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert not any(process.wait() for process in started)
    return PROCESSES * THREADS * blocks / (time.perf_counter() - began)


def alone(blocks: int = 200) -> float:
    """Seconds that a block costs for which nobody else asks."""
    began = time.perf_counter()
    for _ in range(blocks):
        with concurrency("shared", strict=True):
            pass
    return (time.perf_counter() - began) / blocks


def main() -> None:
    """Measure on SQLite and on PostgreSQL."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestra-bench-")))
        os.environ["ORCHESTRA_HOME"] = str(folder)
        postgresql = stack.enter_context(servers.postgresql())
        for title, url in (("SQLite", f"sqlite:///{folder}/bench.db"), ("PostgreSQL", postgresql)):
            if url is None:
                continue
            os.environ["ORCHESTRA_DATABASE_URL"] = url
            settings.reset()
            database.reset()
            create_limit("shared", LIMIT)
            print(f"{title}: a block alone {alone() * 1000:.2f} ms")
            for seconds, blocks in SHAPES:
                most = f" of {LIMIT / seconds:.0f}" if seconds else ""
                print(f"{title}: held for {seconds:g} s, {measure(blocks, seconds):.0f} blocks a second{most}")
        database.reset()


if __name__ == "__main__":
    work(int(sys.argv[1]), float(sys.argv[2])) if len(sys.argv) > 1 else main()
