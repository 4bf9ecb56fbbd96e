"""What a client is handed to make or change something, with Prefect's names."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ArtifactCreate",
    "ArtifactUpdate",
    "DeploymentUpdate",
    "GlobalConcurrencyLimitCreate",
    "GlobalConcurrencyLimitUpdate",
    "VariableCreate",
    "VariableUpdate",
    "WorkPoolCreate",
    "WorkPoolUpdate",
]


class ArtifactCreate(BaseModel):
    """An artifact to make."""

    model_config = ConfigDict(extra="forbid")

    #: Lower-case letters, digits and dashes; None: it belongs to its flow run only.
    key: str | None = None
    type: str | None = None
    description: str | None = None
    #: As the view shows it: text of markdown, an image's address, a table as JSON text, a progress as number.
    data: Any = None
    metadata_: dict[str, str] | None = None
    flow_run_id: str | None = None
    task_run_id: str | None = None


class ArtifactUpdate(BaseModel):
    """What to change of an artifact; what is not set stays."""

    model_config = ConfigDict(extra="forbid")

    type: str | None = None
    description: str | None = None
    data: Any = None
    metadata_: dict[str, str] | None = None


class VariableCreate(BaseModel):
    """A variable to set."""

    model_config = ConfigDict(extra="forbid")

    #: Lower-case letters, digits, dashes and underscores.
    name: str
    #: Plain data, as JSON has it.
    value: Any
    tags: list[str] = Field(default_factory=list)


class VariableUpdate(BaseModel):
    """What to change of the variable of this name; what is not set stays."""

    model_config = ConfigDict(extra="forbid")

    name: str
    value: Any = None
    tags: list[str] | None = None


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
