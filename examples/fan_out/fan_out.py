"""A thousand files counted at the same time, and what is known of them put together."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter

from orchestra import allow_failure, flow, get_run_logger, task


@task
def list_files(count: int) -> list[str]:
    """The names of all files."""
    return [f"file-{number:04d}" for number in range(count)]


@task(retries=2)
def measure(name: str) -> int:
    """The size of one file. One in a hundred cannot be read."""
    if name.endswith("99"):
        raise OSError(f"{name} cannot be read")
    return int(hashlib.sha256(name.encode()).hexdigest()[:4], 16)


@task
def classify(size: int) -> str:
    """In which class it belongs."""
    return "small" if size < 16_384 else "medium" if size < 49_152 else "large"


@task
def summarise(classes: list[str | Exception]) -> dict[str, int]:
    """How many there are of each class; what failed is counted apart."""
    return dict(Counter("failed" if isinstance(each, Exception) else each for each in classes))


@flow(log_prints=True)
def fan_out(count: int = 1000) -> dict[str, int]:
    """Measure and classify all files: each is classified as soon as it is measured."""
    sizes = measure.map(list_files(count))
    classes = classify.map(sizes)
    summary = summarise.submit(allow_failure(classes))  # a future of each becomes its value
    get_run_logger().info("%d files are on their way", len(sizes))
    return summary.result()


if __name__ == "__main__":
    print(dict(sorted(fan_out(int(sys.argv[1]) if len(sys.argv) > 1 else 1000).items())))
