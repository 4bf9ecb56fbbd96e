"""Flows that real workers run under the limits of work pools; what they do stands in the file that LEDGER names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from orchestra import flow

#: The environment variable that names the file.
LEDGER = "TEST_POOLS_LEDGER"


def write(*words: object) -> None:
    """Append a line."""
    with Path(os.environ[LEDGER]).open("a") as lines:
        lines.write(" ".join(map(str, words)) + "\n")


@flow
def holds(what: str, seconds: float = 0.05) -> str:
    """Is at work for so long; at its first start for ever, where it is told to hang."""
    hangs = what == "hangs" and "in hangs" not in Path(os.environ[LEDGER]).read_text()
    begin = time.monotonic()
    write("in", what)
    time.sleep(600 if hangs else seconds)
    write("span", what, begin, time.monotonic())
    return what
