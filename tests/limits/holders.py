"""A process that takes slots of a limit again and again, and writes down when it had them.

`python -m tests.limits.holders LIMIT ROUNDS SECONDS FILE`: a line of the file says that a block has begun, another one
when it began and ended, in seconds of a clock that all processes of the host share.
"""

from __future__ import annotations

import sys
import threading
import time

from orchestra.concurrency.sync import concurrency

#: Threads that take slots.
THREADS = 4


def main(name: str, rounds: int, seconds: float, path: str) -> None:
    """Take a slot so often in each thread, and hold it for so long."""
    lock = threading.Lock()
    with open(path, "a", buffering=1) as lines:

        def work() -> None:
            for _ in range(rounds):
                with concurrency(name, strict=True, lease_duration=3):
                    begin = time.monotonic()
                    with lock:
                        lines.write("in\n")
                    time.sleep(seconds)
                    end = time.monotonic()
                with lock:
                    lines.write(f"{begin} {end}\n")

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
