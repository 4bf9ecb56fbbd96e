"""`/api/global_concurrency_limits`: how much may go on at once, over all processes."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from orchestra.accounts import Scope
from orchestra.concurrency import limits
from orchestra.concurrency.limits import HolderRecord
from orchestra.concurrency.limits import Limit as ConcurrencyLimit
from orchestra.server import announcing
from orchestra.server.acts import perform
from orchestra.server.api.shapes import Body, Count, Id, Name
from orchestra.server.dependencies import Asker

router = APIRouter(prefix="/global_concurrency_limits", tags=["concurrency limits"])


class NewLimit(Body):
    """A limit to be; one named `tag:NAME` is for all tasks with the tag NAME."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "database", "limit": 10}]})

    name: Name
    limit: Count = Field(description="How many slots it has; 0 holds everybody.")
    active: bool = True
    slot_decay_per_second: float = Field(
        default=0.0, ge=0, lt=1e9, description="Of a rate limit: slots free again a second."
    )


class LimitChange(Body):
    """What to change of a limit; what is null stays."""

    limit: Count | None = None
    active: bool | None = None
    slot_decay_per_second: float | None = Field(default=None, ge=0, lt=1e9)


@router.get("")
def list_limits() -> list[ConcurrencyLimit]:
    """All limits by name, with how many slots are taken and how many wait."""
    return limits.list_limits()


@router.post("", status_code=201)
def create_limit(who: Asker, new: NewLimit) -> ConcurrencyLimit:
    """Make a limit."""
    given = new.model_dump()
    return perform(
        who, "create", f"concurrency limit {new.name}", lambda: limits.create_limit(**given), needs=Scope.ADMIN
    )


@router.get("/{name:path}/holders")
def list_holders(name: Id) -> list[HolderRecord]:
    """Who has slots of a limit, then who waits for some, in their order; 1,000 at most."""
    limits.read_limit(name)
    return limits.read_holders(name)


@router.get("/{name:path}")
def read_limit(name: Id) -> ConcurrencyLimit:
    """A limit."""
    return limits.read_limit(name)


@router.patch("/{name:path}")
def update_limit(who: Asker, name: Id, change: LimitChange) -> ConcurrencyLimit:
    """Change a limit. Who waits is served at once; who has slots keeps them."""

    def act() -> ConcurrencyLimit:
        return limits.update_limit(name, **change.model_dump(), announce=announcing.announce)

    return perform(who, "change", f"concurrency limit {name}", act, needs=Scope.ADMIN)


@router.delete("/{name:path}", status_code=204)
def delete_limit(who: Asker, name: Id) -> None:
    """Delete a limit; who waits goes on."""

    def act() -> None:
        limits.delete_limit(name, announcing.announce)

    perform(who, "delete", f"concurrency limit {name}", act, needs=Scope.ADMIN)
