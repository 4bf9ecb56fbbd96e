"""The part of a client that is about what runs leave and share: artifacts, variables, events, concurrency limits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from orchestra import artifacts
from orchestra.client.backend import Backend
from orchestra.client.methods import ID, LIMIT, Id, Methods
from orchestra.client.runs import selected
from orchestra.client.schemas.actions import (
    ArtifactCreate,
    ArtifactUpdate,
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    VariableCreate,
    VariableUpdate,
)
from orchestra.client.schemas.filters import ArtifactCollectionFilter, ArtifactFilter, FlowRunFilter, TaskRunFilter
from orchestra.client.schemas.objects import Artifact, ArtifactCollection, GlobalConcurrencyLimit, Variable
from orchestra.client.schemas.sorting import ArtifactCollectionSort, ArtifactSort
from orchestra.errors import VariableNotFound
from orchestra.events import EventPage, event_of, filter_of
from orchestra.store import behind, search
from orchestra.store.database import Database

_LIMIT: TypeAdapter[GlobalConcurrencyLimit] = TypeAdapter(GlobalConcurrencyLimit)
_LIMITS: TypeAdapter[list[GlobalConcurrencyLimit]] = TypeAdapter(list[GlobalConcurrencyLimit])
_ARTIFACT: TypeAdapter[Artifact] = TypeAdapter(Artifact)
_ARTIFACTS: TypeAdapter[list[Artifact]] = TypeAdapter(list[Artifact])
_COLLECTIONS: TypeAdapter[list[ArtifactCollection]] = TypeAdapter(list[ArtifactCollection])
_VARIABLE: TypeAdapter[Variable] = TypeAdapter(Variable)
_MAYBE_VARIABLE: TypeAdapter[Variable | None] = TypeAdapter(Variable | None)
_VARIABLES: TypeAdapter[list[Variable]] = TypeAdapter(list[Variable])
_EVENTS: TypeAdapter[EventPage] = TypeAdapter(EventPage)


class RecordMethods(Methods):
    """What `SyncOrchestraClient` can do with artifacts, variables, events and concurrency limits."""

    # -- artifacts and variables ---------------------------------------------------------------------------------

    def create_artifact(self, artifact: ArtifactCreate) -> Artifact:
        """Make an artifact; in a flow's body on a worker once, whatever dies.

        Raises:
            InvalidArtifact: Its key, or what it shows, cannot be kept.
        """
        given = artifact.model_dump()
        new = artifacts.checked(metadata=given.pop("metadata_"), **given)
        return self.read_artifact(self._do(lambda at: at.create_artifact(new)))

    def read_artifact(self, artifact_id: Id) -> Artifact:
        """An artifact.

        Raises:
            ArtifactNotFound: There is none with this id.
        """

        def look(at: Backend) -> Any:
            behind.flush()
            return at.read_artifact(str(artifact_id))

        return self._seen("read_artifact", _ARTIFACT, look)

    def read_artifacts(
        self,
        *,
        artifact_filter: ArtifactFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
        sort: ArtifactSort | None = None,
        limit: int | None = LIMIT,
        offset: int = 0,
    ) -> list[Artifact]:
        """Artifacts that fit, of runs that do; the newest first. As `read_flow_runs` otherwise."""
        tests, order = artifact_filter.tests() if artifact_filter else (), sort or ArtifactSort.CREATED_DESC
        of = selected(None, flow_run_filter, task_run_filter).selection()
        return self._seen(
            "read_artifacts",
            _ARTIFACTS,
            lambda at: search.find_artifacts(_flushed(at), tests, of, sort=order.value, limit=limit, offset=offset),
        )

    def read_latest_artifacts(
        self,
        *,
        artifact_filter: ArtifactCollectionFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
        sort: ArtifactCollectionSort | None = None,
        limit: int | None = LIMIT,
        offset: int = 0,
    ) -> list[ArtifactCollection]:
        """The newest artifact of each key, where it fits; the newest first. As `read_artifacts` otherwise."""
        tests, order = artifact_filter.tests() if artifact_filter else (), sort or ArtifactCollectionSort.CREATED_DESC
        of = selected(None, flow_run_filter, task_run_filter).selection()

        def look(at: Backend) -> list[dict[str, Any]]:
            found = search.find_latest_artifacts(_flushed(at), tests, of, sort=order.value, limit=limit, offset=offset)
            return [asdict(each) | {"latest_id": each.id} for each in found]

        return self._seen("read_latest_artifacts", _COLLECTIONS, look)

    def update_artifact(self, artifact_id: Id, artifact: ArtifactUpdate) -> None:
        """Change an artifact in place: it is no new version. Safe to repeat.

        Raises:
            ArtifactNotFound: There is none with this id.
            InvalidArtifact: What it is to show cannot be kept.
        """
        given = artifact.model_dump(exclude_unset=True)
        self._do(lambda at: at.change_artifact(str(artifact_id), given))

    def delete_artifact(self, artifact_id: Id) -> None:
        """Delete an artifact; the version before it is the newest of its key then.

        Raises:
            ArtifactNotFound: There is none with this id.
        """
        self._do(lambda at: at.delete_artifact(str(artifact_id)))

    def create_variable(self, variable: VariableCreate) -> Variable:
        """Set a variable that is not set.

        Raises:
            VariableExists: There is one of this name: update it.
            InvalidVariable: Its name, its value or its tags cannot be kept.
        """
        name, tags = variable.name, variable.tags or ()
        self._do(lambda at: at.set_variable(name, variable.value, tags=tags, overwrite=False))
        return self._seen("read_variable", _VARIABLE, lambda at: at.read_variable(name))

    def read_variable_by_name(self, name: str) -> Variable | None:
        """A variable; None where there is none of this name."""

        def look(at: Backend) -> Any:
            try:
                return at.read_variable(name)
            except VariableNotFound:
                return None

        return self._seen("read_variable", _MAYBE_VARIABLE, look)

    def read_variables(self, limit: int | None = None) -> list[Variable]:
        """Variables by name.

        Args:
            limit: Most given; None: all.
        """
        most = sys.maxsize // 2 if limit is None else limit
        return self._seen(
            "read_variables", _VARIABLES, lambda at: list(at.list_variables(limit=most, after=None).items)
        )

    def update_variable(self, variable: VariableUpdate) -> None:
        """Change the value or the tags of a variable. Safe to repeat.

        Raises:
            VariableNotFound: There is none of this name.
            InvalidVariable: Its value or its tags cannot be kept.
        """
        given = variable.model_dump(exclude_unset=True)
        name = given.pop("name")
        self._do(lambda at: at.change_variable(name, **given))

    def delete_variable_by_name(self, name: str) -> None:
        """Delete a variable.

        Raises:
            VariableNotFound: There is none of this name.
        """
        self._do(lambda at: at.unset_variable(name))

    # -- events --------------------------------------------------------------------------------------------------

    def read_events(
        self,
        *,
        events: Sequence[str] = (),
        resources: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        flow_run_id: Id | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> EventPage:
        """A page of events, the newest first; see `orchestra.events.read_events`.

        Args:
            events: Their names, whole or as a beginning with `*`; one of them is enough.
            resources: Ids of what they are about, in the same way.
            since: From then on, aware.
            until: Before then, aware.
            flow_run_id: What is about this run and its task runs, or was emitted in them.
            limit: Most events of the page.
            after: `next` of the page before.
        """
        wanted = filter_of(events, resources, since, until, flow_run_id)

        def look(at: Backend) -> EventPage:
            found, following = at.list_events(wanted, limit=limit, after=after)
            return EventPage([event_of(record) for record in found], following)

        return self._seen("read_events", _EVENTS, look)

    # -- concurrency limits --------------------------------------------------------------------------------------

    def create_global_concurrency_limit(self, concurrency_limit: GlobalConcurrencyLimitCreate) -> str:
        """Make a limit; gives its id.

        Raises:
            Conflict: There is one of this name.
            ConfigurationError: A value cannot be.
        """
        given = concurrency_limit.model_dump()
        return self._seen("create_limit", ID, lambda at: at.create_limit(**given).id)

    def read_global_concurrency_limit_by_name(self, name: str) -> GlobalConcurrencyLimit:
        """A limit.

        Raises:
            LimitNotFound: There is none of this name.
        """
        return self._seen("read_limit", _LIMIT, lambda at: asdict(at.read_limit(name)))

    def read_global_concurrency_limits(self, *, limit: int = 100, offset: int = 0) -> list[GlobalConcurrencyLimit]:
        """Limits by name.

        Args:
            limit: Most given.
            offset: How many to leave out before.
        """

        def look(at: Backend) -> list[dict[str, Any]]:
            return [asdict(each) for each in at.list_limits()[offset : offset + limit]]

        return self._seen("read_limits", _LIMITS, look)

    def update_global_concurrency_limit(self, name: str, concurrency_limit: GlobalConcurrencyLimitUpdate) -> None:
        """Change a limit. Who waits is served at once, who has slots keeps them.

        Raises:
            LimitNotFound: There is none of this name.
            ConfigurationError: A value cannot be, or nothing is to change.
        """
        given = concurrency_limit.model_dump()
        self._act("update_limit", lambda at: at.update_limit(name, **given))

    def delete_global_concurrency_limit_by_name(self, name: str) -> None:
        """Delete a limit; who waits goes on.

        Raises:
            LimitNotFound: There is none of this name.
        """
        self._act("delete_limit", lambda at: at.delete_limit(name))


def _flushed(at: Backend) -> Database:
    """The database, once what runs in this process have made is there."""
    behind.flush()
    return at.db
