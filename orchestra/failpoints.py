"""Named points at which a test makes this process die, stop, sleep or fail. A no-op unless switched on.

`ORCHESTRA_FAILPOINTS` holds a comma-separated list of `name=action[:probability][:nth]`; the actions are
`kill` (SIGKILL to this process), `stop` (SIGSTOP), `exit` (os._exit), `raise` and `sleep<seconds>`. With `nth`
the action happens at the nth visit only, counted in a file under `ORCHESTRA_FAILPOINT_DIR`, so that it
happens once over all processes. `@path` names a file that holds the list, read at every visit. Shape after
FreeBSD's fail(9).
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path


class FailpointHit(RuntimeError):
    """A failpoint was told to raise."""


@dataclass(frozen=True, slots=True)
class Failpoint:
    """What to do at one point."""

    name: str
    action: str
    probability: float = 1.0
    nth: int | None = None


def parse(text: str) -> dict[str, Failpoint]:
    """The failpoints named in the environment's text, by name."""
    points = {}
    for part in filter(None, text.split(",")):
        name, _, spec = part.strip().partition("=")
        action, *rest = spec.split(":")
        points[name] = Failpoint(name, action, float(rest[0] or 1) if rest else 1.0, int(rest[1]) if rest[1:] else None)
    return points


_TEXT = os.environ.get("ORCHESTRA_FAILPOINTS", "")
_POINTS = parse("" if _TEXT.startswith("@") else _TEXT)


def failpoint(name: str) -> None:
    """Do what the environment says at this point; normally nothing.

    Raises:
        FailpointHit: The action is `raise`.
    """
    if _TEXT and (point := _armed().get(name)) is not None and _due(point):
        _act(point)


def _armed() -> dict[str, Failpoint]:
    if not _TEXT.startswith("@"):
        return _POINTS
    try:
        return parse(Path(_TEXT[1:]).read_text())
    except FileNotFoundError:
        return {}


def _due(point: Failpoint) -> bool:
    if point.nth is not None:
        return _visit(point.name) == point.nth
    return random.random() < point.probability


def _visit(name: str) -> int:
    # One byte per visit on an O_APPEND descriptor: atomic between processes, and kept when this one is killed.
    path = Path(os.environ["ORCHESTRA_FAILPOINT_DIR"]) / name
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def _act(point: Failpoint) -> None:
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif point.action == "exit":
        os._exit(70)
    elif point.action == "raise":
        raise FailpointHit(point.name)
    elif point.action.startswith("sleep"):
        time.sleep(float(point.action.removeprefix("sleep")))
