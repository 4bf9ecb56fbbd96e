"""What a client is handed to make or change something, with Prefect's names."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["GlobalConcurrencyLimitCreate", "GlobalConcurrencyLimitUpdate"]


class GlobalConcurrencyLimitCreate(BaseModel):
    """A concurrency limit to make."""

    model_config = ConfigDict(extra="forbid")

    #: `tag:NAME`: of all tasks with the tag NAME.
    name: str
    #: How many slots it has; 0 holds everybody.
    limit: int = Field(ge=0)
    #: False: it limits nothing until it is enabled.
    active: bool = True
    #: Of a rate limit: how many slots a second are free again.
    slot_decay_per_second: float = Field(default=0.0, ge=0)


class GlobalConcurrencyLimitUpdate(BaseModel):
    """What to change of a concurrency limit; what is None stays."""

    model_config = ConfigDict(extra="forbid")

    limit: int | None = Field(default=None, ge=0)
    active: bool | None = None
    slot_decay_per_second: float | None = Field(default=None, ge=0)
