"""Who runs submitted tasks in this process: the `task_runner=` of a flow."""

from __future__ import annotations

from dataclasses import dataclass

from orchestra.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ThreadPoolTaskRunner:
    """Threads of this process.

    `max_workers` is how many tasks run at once; None: as many as are submitted, up to 256.
    """

    max_workers: int | None = None

    def __post_init__(self) -> None:
        if self.max_workers is not None and self.max_workers < 1:
            raise ConfigurationError(f"max_workers must be 1 or more, not {self.max_workers}")
