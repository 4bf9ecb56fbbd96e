"""`/api/artifacts`: what runs, and others, have shown people."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import ConfigDict, Field

from orchestra import artifacts as kept
from orchestra.errors import ArtifactNotFound
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Body, Deleted, Id, Key, Limit, Name, Page, Text
from orchestra.server.dependencies import Asker, Db
from orchestra.store import artifacts
from orchestra.store.artifacts import Artifact
from orchestra.store.queries import page_of

router = APIRouter(prefix="/artifacts", tags=["artifacts"])

_Type = Annotated[Name | None, Query(description="Only of this type, as table.")]
ArtifactKey = Annotated[
    Key | None, Header(alias="Idempotency-Key", description="The same key gives the same artifact again.")
]
_WithData = Annotated[bool, Query(description="False: without their data, which may be large.")]


class NewArtifact(Body):
    """An artifact to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"key": "sales", "type": "markdown", "data": "# Sales\n\n**up**"}]},
    )

    key: Key | None = Field(default=None, description="Lower-case letters, digits and dashes; null: none.")
    type: Name | None = Field(default=None, description="As markdown, table, image or progress.")
    description: Text | None = None
    data: Any = Field(
        default=None, description="Text of markdown, an image's address, rows or columns of a table, a number, …"
    )
    metadata_: dict[Key, Text] | None = None
    flow_run_id: Id | None = Field(default=None, description="The flow run that it is shown with.")
    task_run_id: Id | None = Field(default=None, description="The task run that it is shown with.")


class ArtifactChange(Body):
    """What to change of an artifact; what is not named stays."""

    type: Name | None = None
    description: Text | None = None
    data: Any = None
    metadata_: dict[Key, Text] | None = None


@router.get("")
def list_artifacts(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    key: Annotated[Name | None, Query(description="Only the versions of this key.")] = None,
    type: _Type = None,
    flow_run_id: Annotated[Id | None, Query(description="Only of this flow run, its tasks' included.")] = None,
    task_run_id: Annotated[Id | None, Query(description="Only of this task run.")] = None,
    with_data: _WithData = True,
) -> Page[Artifact]:
    """Artifacts, all versions among them, the newest first."""
    wanted = artifacts.Query(key, type, flow_run_id, task_run_id)
    found = artifacts.page(db, wanted, limit=limit + 1, after=after, with_data=with_data)
    return _page(found, limit)


@router.post("", status_code=201)
def create_artifact(db: Db, who: Asker, new: NewArtifact, key: ArtifactKey = None) -> Artifact:
    """Make an artifact: with a key, it is the key's newest version."""
    given = new.model_dump()
    made = kept.checked(metadata=given.pop("metadata_"), **given)

    def act() -> str:
        return kept.keep(made) if key is None else kept.keep_once(made, key)

    return artifacts.read(db, perform(who, "make", f"artifact {new.key or ''}".rstrip(), act))


@router.get("/latest")
def list_latest_artifacts(
    db: Db, limit: Limit = 50, after: After = None, type: _Type = None, with_data: _WithData = True
) -> Page[Artifact]:
    """The newest artifact of each key, the newest first."""
    return _page(artifacts.page_latest(db, type=type, limit=limit + 1, after=after, with_data=with_data), limit)


@router.get("/{key}/latest")
def read_latest_artifact(db: Db, key: Id) -> Artifact:
    """The newest artifact of a key."""
    found = artifacts.find_latest(db, key)
    if found is None:
        raise ArtifactNotFound(key)
    return found


@router.get("/{artifact_id}")
def read_artifact(db: Db, artifact_id: Id) -> Artifact:
    """An artifact."""
    return artifacts.read(db, artifact_id)


@router.patch("/{artifact_id}")
def update_artifact(db: Db, who: Asker, artifact_id: Id, change: ArtifactChange) -> Artifact:
    """Change what an artifact shows, in place: it is no new version."""
    changes = kept.changes_of(change.model_dump(exclude_unset=True))
    perform(who, "change", f"artifact {artifact_id}", lambda: kept.change(artifact_id, changes))
    return artifacts.read(db, artifact_id)


@router.delete("/key/{key}")
def delete_artifacts_of_key(db: Db, who: Asker, key: Id) -> Deleted:
    """Delete all versions of a key."""
    return Deleted(deleted=perform(who, "delete", f"artifacts of {key}", lambda: artifacts.delete_key(db, key)))


@router.delete("/{artifact_id}", status_code=204)
def delete_artifact(who: Asker, artifact_id: Id) -> None:
    """Delete an artifact; the version before it is the newest of its key then."""
    perform(who, "delete", f"artifact {artifact_id}", lambda: kept.delete(artifact_id))


def _page(found: list[Artifact], limit: int) -> Page[Artifact]:
    page = page_of(found, limit, lambda each: each.id)
    return Page(items=list(page.items), next=page.next)
