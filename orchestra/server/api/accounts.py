"""`/api/me`: as whom one is known. `/api/users` and `/api/api-keys`: who else may use the server, for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from orchestra import accounts
from orchestra.accounts import Scope
from orchestra.server.acts import perform
from orchestra.server.dependencies import Admin, Asker, Db
from orchestra.store import access
from orchestra.store.access import ApiKey, User

router = APIRouter(tags=["access"])


#: Checked where it is hashed, which says the same to everybody.
_Password = Annotated[
    str, Field(json_schema_extra={"minLength": accounts.SHORTEST_PASSWORD, "maxLength": accounts.LONGEST_PASSWORD})
]


class Me(BaseModel):
    """As whom one is known, and what one may do."""

    kind: str
    name: str
    scope: Scope


class NewUser(BaseModel):
    """A user to add."""

    name: Annotated[str, Field(max_length=128, examples=["ada"])]
    password: Annotated[_Password, Field(examples=["a long secret"])]
    scope: Scope = Scope.READ


class UserChanges(BaseModel):
    """What to change of a user; what is left out stays. They are logged out everywhere."""

    password: _Password | None = None
    scope: Scope | None = None
    disabled: bool | None = None


class NewApiKey(BaseModel):
    """A key to make."""

    name: Annotated[str, Field(max_length=128, examples=["ci"])]
    scope: Scope = Scope.READ
    expires_in_seconds: Annotated[float | None, Field(gt=0, le=1e9, examples=[7_776_000])] = None


class NewKey(BaseModel):
    """The key itself, shown this once."""

    name: str
    key: str


@router.get("/me")
async def read_me(asker: Asker) -> Me:
    """As whom the server knows who asks."""
    return Me(kind=asker.kind, name=asker.name, scope=asker.scope)


@router.get("/users")
def read_users(asker: Admin, db: Db) -> list[User]:
    """All users by name."""
    return access.list_users(db)


@router.post("/users", status_code=201)
def create_user(asker: Admin, db: Db, new: NewUser) -> None:
    """Add a user, who may log in at once; 409 where there is one of this name."""
    perform(
        asker,
        "create",
        f"user {new.name}",
        lambda: accounts.create_user(db, new.name, new.password, new.scope),
        needs=Scope.ADMIN,
    )


@router.patch("/users/{name}", status_code=204)
def update_user(asker: Admin, db: Db, name: str, changes: UserChanges) -> None:
    """Change a user."""

    def act() -> None:
        accounts.update_user(db, name, **changes.model_dump())

    perform(asker, "update", f"user {name}", act, needs=Scope.ADMIN)


@router.delete("/users/{name}", status_code=204)
def delete_user(asker: Admin, db: Db, name: str) -> None:
    """Delete a user; they are logged out at once."""
    perform(asker, "delete", f"user {name}", lambda: access.delete_user(db, name), needs=Scope.ADMIN)


@router.get("/api-keys")
def read_api_keys(asker: Admin, db: Db) -> list[ApiKey]:
    """All API keys by name, without what they are."""
    return access.list_keys(db)


@router.post("/api-keys", status_code=201)
def create_api_key(asker: Admin, db: Db, new: NewApiKey) -> NewKey:
    """Make an API key; it is shown this once."""
    key = perform(
        asker,
        "create",
        f"API key {new.name}",
        lambda: accounts.create_key(db, new.name, new.scope, new.expires_in_seconds),
        needs=Scope.ADMIN,
    )
    return NewKey(name=new.name, key=key)


@router.delete("/api-keys/{name}", status_code=204)
def delete_api_key(asker: Admin, db: Db, name: str) -> None:
    """Delete an API key: it opens nothing from now on."""
    perform(asker, "delete", f"API key {name}", lambda: access.delete_key(db, name), needs=Scope.ADMIN)
