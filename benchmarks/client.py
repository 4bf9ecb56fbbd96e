"""One subject's client: reads `[shape, repeat]` lines, answers each with the seconds taken and the answer got.

Every subject has a process of its own, because a process has one database and one broker.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    shapes: dict[str, Callable[[], Any]] = importlib.import_module(sys.argv[1]).SHAPES
    for line in sys.stdin:
        name, repeat = json.loads(line)
        try:
            answer = measure(shapes[name], repeat)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=sys.__stdout__, flush=True)


def measure(work: Callable[[], Any], repeat: int) -> dict[str, Any]:
    """Median seconds of some repetitions, and all answers."""
    taken, answers = [], []
    for _ in range(repeat):
        began = time.perf_counter()
        answers.append(work())
        taken.append(time.perf_counter() - began)
    return {"seconds": statistics.median(taken), "answers": answers}


if __name__ == "__main__":
    main()
