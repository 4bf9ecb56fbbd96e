"""`/api/variables`: values that runs read by name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from orchestra import variables as setting
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Body, Id, Limit, Name, Page, Tags
from orchestra.server.dependencies import Asker, Db
from orchestra.store import variables
from orchestra.store.queries import page_of
from orchestra.store.variables import Variable

router = APIRouter(prefix="/variables", tags=["variables"])


class NewVariable(Body):
    """A variable to set."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "region", "value": "eu-west-1", "tags": ["etl"]}]}
    )

    name: Name
    value: Any = Field(description="Any JSON.")
    tags: Tags = Field(default_factory=list)


class VariableChange(Body):
    """What to change of a variable; what is not named stays."""

    value: Any = None
    tags: Tags = Field(default_factory=list)


@router.get("")
def list_variables(db: Db, limit: Limit = 50, after: After = None) -> Page[Variable]:
    """Variables by name."""
    page = page_of(variables.page(db, limit=limit + 1, after=after), limit, lambda each: each.name)
    return Page(items=list(page.items), next=page.next)


@router.post("", status_code=201)
def create_variable(db: Db, who: Asker, new: NewVariable) -> Variable:
    """Set a variable that is not set yet."""

    def act() -> None:
        setting.set_variable(new.name, new.value, new.tags, overwrite=False)

    perform(who, "set", f"variable {new.name}", act)
    return variables.read(db, new.name)


@router.get("/{name}")
def read_variable(db: Db, name: Id) -> Variable:
    """A variable."""
    return variables.read(db, name)


@router.patch("/{name}")
def update_variable(db: Db, who: Asker, name: Id, change: VariableChange) -> Variable:
    """Change the value or the tags of a variable."""
    given = change.model_dump(exclude_unset=True)
    perform(who, "change", f"variable {name}", lambda: setting.change_variable(name, **given))
    return variables.read(db, name)


@router.delete("/{name}", status_code=204)
def delete_variable(who: Asker, name: Id) -> None:
    """Unset a variable."""
    perform(who, "unset", f"variable {name}", lambda: setting.remove_variable(name))
