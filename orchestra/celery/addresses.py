"""Files in ORCHESTRA_HOME that tell other processes where something listens, and which process it is."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestra.celery.processes import look, process_start

#: The files of the server and of Flower.
SERVER, FLOWER = "server.json", "flower.json"


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens, and which process it is."""

    url: str
    pid: int
    #: As `processes.process_start` says it, where it can be told.
    started: str | None

    @property
    def lives(self) -> bool:
        """Whether that process is still there."""
        if self.started is not None:
            found = look(self.pid)
            return found is not None and found.start == self.started and not found.is_dead
        try:
            os.kill(self.pid, 0)
        except OSError as error:
            return isinstance(error, PermissionError)
        return True


def read(file: Path) -> Address | None:
    """The address that a file tells, of a process that lives; None where there is none."""
    try:
        address = Address(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return address if address.lives else None


def write(file: Path, url: str, pid: int) -> None:
    """Tell where process `pid` listens; whoever reads meanwhile sees the old or the new, whole."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.write_text(json.dumps(asdict(Address(url, pid, process_start(pid)))))
    new.replace(file)
