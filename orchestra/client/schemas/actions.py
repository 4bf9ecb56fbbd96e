"""What a client is handed to make or change something, with Prefect's names."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "DeploymentUpdate",
    "GlobalConcurrencyLimitCreate",
    "GlobalConcurrencyLimitUpdate",
    "WorkPoolCreate",
    "WorkPoolUpdate",
]


class DeploymentUpdate(BaseModel):
    """What to change of a deployment; what is not set stays."""

    model_config = ConfigDict(extra="forbid")

    description: str = ""
    version: str | None = None
    tags: list[str] = []
    parameters: dict[str, Any] = {}
    enforce_parameter_schema: bool = True
    entrypoint: str = ""
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = {}
    concurrency_limit: int | None = Field(default=None, ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    paused: bool = False


class WorkPoolCreate(BaseModel):
    """A work pool to make."""

    model_config = ConfigDict(extra="forbid")

    name: str
    type: str = "process"
    description: str = ""
    is_paused: bool = False
    concurrency_limit: int | None = Field(default=None, ge=0)
    #: None: that of its type.
    base_job_template: dict[str, Any] | None = None


class WorkPoolUpdate(BaseModel):
    """What to change of a work pool; what is not set stays."""

    model_config = ConfigDict(extra="forbid")

    description: str = ""
    is_paused: bool = False
    concurrency_limit: int | None = Field(default=None, ge=0)
    base_job_template: dict[str, Any] = {}


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
