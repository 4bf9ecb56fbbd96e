"""Names and numbers of things: run ids, step keys, owners, fingerprints."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import uuid
from functools import lru_cache
from pathlib import Path

#: Namespace of every id derived from another (RFC 9562, version 5).
_NAMESPACE = uuid.UUID("6f7a3c52-0d53-4f0e-9a5d-0c1f6c9f3a11")


def new_run_id() -> str:
    """A fresh random flow run id."""
    return str(uuid.uuid4())


def step_id(flow_run_id: str, run_attempt: int, step_key: str) -> str:
    """The id of a step's row (a task run's id): the same for the same step, in every process and replay."""
    return str(uuid.uuid5(_NAMESPACE, f"{flow_run_id}/{run_attempt}/{step_key}"))


def child_run_id(flow_run_id: str, run_attempt: int, step_key: str) -> str:
    """The id of the flow run that a subflow step starts."""
    return str(uuid.uuid5(_NAMESPACE, f"{flow_run_id}/{run_attempt}/{step_key}/child"))


def canvas_run_id(token: str, root_id: str) -> str:
    """The id of the flow run that an applied canvas starts.

    Args:
        token: Of the canvas.
        root_id: The Celery id of the first task of the workflow that it was applied in.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{token}/{root_id}"))


def idempotency_key(flow_run_id: str, step_key: str, run_attempt: int = 1) -> str:
    """The key handed to a step's body: the same each time that step is run again, for whatever reason.

    Args:
        run_attempt: Of a step inside a transaction: what was rolled back is done anew in the next attempt of its run,
            and is another thing then. So is what a body starts or sends once it was retried from a step before that.
    """
    key = f"{flow_run_id}/{step_key}"
    return key if run_attempt == 1 else f"{key}#{run_attempt}"


def made_id(idempotency_key: str, run_attempt: int, attempt: int, name: str) -> str:
    """The id of something that a task's body makes: the same when that try of it is run again.

    Args:
        idempotency_key: Of the task run.
        run_attempt: Of its flow run.
        attempt: The try.
        name: What it is, and the how-manieth.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{idempotency_key}/{run_attempt}/{attempt}/{name}"))


def artifact_id(idempotency_key: str) -> str:
    """The id of an artifact that is made under this idempotency key."""
    return str(uuid.uuid5(_NAMESPACE, f"artifact/{idempotency_key}"))


def fingerprint(data: bytes) -> str:
    """A short digest of encoded inputs (BLAKE2b, 128 bits, hexadecimal)."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def process() -> str:
    """The name of this process: `host:pid:start`, another one after a fork."""
    return _process(os.getpid())


def owner() -> str:
    """A fresh name under which to make one claim: this process's, and a random part."""
    return f"{process()}/{secrets.token_hex(4)}"


def process_of(owner: str) -> tuple[str, int, str]:
    """The host, process id and process start in an owner's or process's name."""
    host, pid, start = owner.partition("/")[0].rsplit(":", 2)
    return host, int(pid), start


def is_dead_here(owner: str) -> bool:
    """Whether the process in an owner's name was one of this host's, and is dead; false where that cannot be told.

    A pid that was given to another process since counts as dead.
    """
    host, pid, start = process_of(owner)
    if host != platform.node() or _process_start(os.getpid()) is None:
        return False
    return _process_start(pid) != start


@lru_cache(maxsize=1)
def _process(pid: int) -> str:
    return f"{platform.node()}:{pid}:{_process_start(pid) or secrets.token_hex(4)}"


def _process_start(pid: int) -> str | None:
    """The kernel's start time of a process (clock ticks since boot), which tells a reused pid apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
