"""Artifacts: what a run shows people, as markdown, a table, a link, an image or a progress; versions of one key.

Names are Prefect's. From a flow's body on a worker an artifact is made once, whatever dies; one that a task's body had
made when its process died is made over when the body runs again. A run in this process writes its artifacts behind it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from numbers import Real
from typing import Any, TypeVar
from uuid import UUID

from orchestra import clock, identifiers, serializers
from orchestra.awaitables import answer
from orchestra.context import flow_run_context, task_run_context
from orchestra.engine import acts
from orchestra.errors import ArtifactNotFound, InvalidArtifact
from orchestra.failpoints import failpoint
from orchestra.handles import in_thread
from orchestra.names import clean_text
from orchestra.store import artifacts, behind, tables
from orchestra.store.artifacts import Artifact as ArtifactRecord
from orchestra.store.artifacts import NewArtifact
from orchestra.store.database import database
from orchestra.store.tables import LONGEST_NAME

__all__ = [
    "LARGEST_ARTIFACT",
    "Artifact",
    "ArtifactRecord",
    "ImageArtifact",
    "LinkArtifact",
    "MarkdownArtifact",
    "ProgressArtifact",
    "TableArtifact",
    "acreate_image_artifact",
    "acreate_link_artifact",
    "acreate_markdown_artifact",
    "acreate_progress_artifact",
    "acreate_table_artifact",
    "aupdate_progress_artifact",
    "create_image_artifact",
    "create_link_artifact",
    "create_markdown_artifact",
    "create_progress_artifact",
    "create_table_artifact",
    "update_progress_artifact",
]

T = TypeVar("T")
Table = Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]] | Iterable[Iterable[Any]]

#: Longest artifact with its description, as JSON, in bytes.
LARGEST_ARTIFACT = 1024 * 1024
#: Longest type, in characters.
_LONGEST_TYPE = 64

_KEY = re.compile(r"[a-z0-9-]+")


# -- kinds of artifacts ------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Artifact:
    """An artifact to be made; a class of one's own gives its `type`, and what it keeps by `format`.

    In coroutines the verbs are awaited, or called as `acreate`, `aget`, ….
    """

    #: Lower-case letters, digits and dashes. Each making is a new version of its key; None: it belongs to its run only.
    key: str | None = None
    #: By which people see what it is, and the view how to show it.
    type: str | None = None
    description: str | None = None
    #: Plain data, as JSON has it.
    data: Any = None
    metadata_: dict[str, str] | None = None
    #: Who made it; None: the run that runs here.
    flow_run_id: str | UUID | None = None
    task_run_id: str | UUID | None = None

    def format(self) -> Any:
        """What is kept of it: plain data."""
        return None if self.data is None else _json(self.data, "data")

    def create(self) -> ArtifactRecord:
        """Keep it, as the newest version of its key; gives what is kept.

        Raises:
            InvalidArtifact: The key, or what it shows, cannot be kept; a ValueError too.
        """
        made: ArtifactRecord = answer(self._create())
        return made

    async def acreate(self) -> ArtifactRecord:
        """As `create`, without holding up the event loop."""
        return await in_thread(self._create)

    @classmethod
    def get(cls, key: str | None = None) -> ArtifactRecord | None:
        """The newest version of a key; None where there is none.

        In a flow's body on a worker it is a step: a replay gets the same.
        """
        found: ArtifactRecord | None = answer(_latest(key))
        return found

    @classmethod
    async def aget(cls, key: str | None = None) -> ArtifactRecord | None:
        """As `get`, without holding up the event loop."""
        return await in_thread(lambda: _latest(key))

    @classmethod
    def get_or_create(
        cls, key: str | None = None, description: str | None = None, data: Any = None, **fields: Any
    ) -> tuple[ArtifactRecord, bool]:
        """The newest version of a key; where there is none, one that is made now. And whether it was made.

        Args:
            key: It is looked for by.
            description: Of one that is made.
            data: Of one that is made.
            fields: Others of this class.
        """
        found: tuple[ArtifactRecord, bool] = answer(cls._get_or_create(key, description, data, fields))
        return found

    @classmethod
    async def aget_or_create(
        cls, key: str | None = None, description: str | None = None, data: Any = None, **fields: Any
    ) -> tuple[ArtifactRecord, bool]:
        """As `get_or_create`, without holding up the event loop."""
        return await in_thread(lambda: cls._get_or_create(key, description, data, fields))

    @classmethod
    def _get_or_create(
        cls, key: str | None, description: str | None, data: Any, fields: Mapping[str, Any]
    ) -> tuple[ArtifactRecord, bool]:
        if (found := _latest(key)) is not None:
            return found, False
        return cls(key=key, description=description, data=data, **fields)._create(), True

    def _create(self) -> ArtifactRecord:
        new = self._new()
        return _kept(keep(new), new)

    def _new(self) -> NewArtifact:
        flow_run, task_run = flow_run_context.get(), task_run_context.get()
        flow_run_id = self.flow_run_id or (None if flow_run is None else flow_run.run_id)
        task_run_id = self.task_run_id or (None if task_run is None else task_run.task_run_id)
        return checked(
            key=self.key,
            type=self.type,
            description=self.description,
            data=self.format(),
            metadata=self.metadata_,
            flow_run_id=None if flow_run_id is None else str(flow_run_id),
            task_run_id=None if task_run_id is None else str(task_run_id),
        )


@dataclass(kw_only=True)
class MarkdownArtifact(Artifact):
    """Text in markdown."""

    markdown: str
    type: str | None = "markdown"

    def format(self) -> str:
        """The text."""
        return _text(self.markdown, "markdown")


@dataclass(kw_only=True)
class LinkArtifact(Artifact):
    """A link, kept as markdown."""

    link: str
    link_text: str | None = None
    type: str | None = "markdown"

    def format(self) -> str:
        """The link in markdown."""
        link = _text(self.link, "link")
        return f"[{self.link_text or link}]({link})"


@dataclass(kw_only=True)
class TableArtifact(Artifact):
    """A table: columns by name, or rows as mappings or lists. NaN is kept as an empty cell."""

    table: Table
    type: str | None = "table"

    def format(self) -> str:
        """The table as JSON text."""
        plain = _plain(self.table)
        if isinstance(plain, dict):
            fits = all(isinstance(column, list) for column in plain.values())
        else:
            fits = isinstance(plain, list) and all(isinstance(row, dict | list) for row in plain)
        if not fits:
            raise InvalidArtifact(
                f"a {type(self.table).__name__} of that form is no table: give a list of dictionaries, a list of "
                "lists, or a dictionary of lists"
            )
        return _json(plain, "table")


@dataclass(kw_only=True)
class ImageArtifact(Artifact):
    """An image, by its address."""

    image_url: str
    type: str | None = "image"

    def format(self) -> str:
        """The address."""
        return _text(self.image_url, "image_url")


@dataclass(kw_only=True)
class ProgressArtifact(Artifact):
    """How much of something is done, from 0 to 100."""

    progress: float
    type: str | None = "progress"

    def format(self) -> float:
        """The number."""
        return _progress(self.progress)


# -- verbs -------------------------------------------------------------------------------------------------------


def create_markdown_artifact(markdown: str, key: str | None = None, description: str | None = None) -> str:
    """Show text in markdown; gives the artifact's id. In a coroutine it may be awaited.

    Args:
        markdown: The text.
        key: Lower-case letters, digits and dashes; with it this is the newest version of the key. None: it belongs to
            its run only.
        description: What people read beside it.

    Raises:
        InvalidArtifact: The key or the text cannot be kept.
    """
    return _made(MarkdownArtifact(key=key, description=description, markdown=markdown))


async def acreate_markdown_artifact(markdown: str, key: str | None = None, description: str | None = None) -> str:
    """As `create_markdown_artifact`, without holding up the event loop."""
    return await _amade(MarkdownArtifact(key=key, description=description, markdown=markdown))


def create_table_artifact(table: Table, key: str | None = None, description: str | None = None) -> str:
    """Show a table: a list of dictionaries or of lists, or a dictionary of lists. As `create_markdown_artifact`."""
    return _made(TableArtifact(key=key, description=description, table=table))


async def acreate_table_artifact(table: Table, key: str | None = None, description: str | None = None) -> str:
    """As `create_table_artifact`, without holding up the event loop."""
    return await _amade(TableArtifact(key=key, description=description, table=table))


def create_link_artifact(
    link: str, link_text: str | None = None, key: str | None = None, description: str | None = None
) -> str:
    """Show a link, as `link_text` if given. As `create_markdown_artifact` otherwise."""
    return _made(LinkArtifact(key=key, description=description, link=link, link_text=link_text))


async def acreate_link_artifact(
    link: str, link_text: str | None = None, key: str | None = None, description: str | None = None
) -> str:
    """As `create_link_artifact`, without holding up the event loop."""
    return await _amade(LinkArtifact(key=key, description=description, link=link, link_text=link_text))


def create_image_artifact(image_url: str, key: str | None = None, description: str | None = None) -> str:
    """Show the image at an address. As `create_markdown_artifact` otherwise."""
    return _made(ImageArtifact(key=key, description=description, image_url=image_url))


async def acreate_image_artifact(image_url: str, key: str | None = None, description: str | None = None) -> str:
    """As `create_image_artifact`, without holding up the event loop."""
    return await _amade(ImageArtifact(key=key, description=description, image_url=image_url))


def create_progress_artifact(progress: float, key: str | None = None, description: str | None = None) -> str:
    """Show a progress, from 0 to 100; `update_progress_artifact` moves it. As `create_markdown_artifact` otherwise."""
    return _made(ProgressArtifact(key=key, description=description, progress=progress))


async def acreate_progress_artifact(progress: float, key: str | None = None, description: str | None = None) -> str:
    """As `create_progress_artifact`, without holding up the event loop."""
    return await _amade(ProgressArtifact(key=key, description=description, progress=progress))


def update_progress_artifact(artifact_id: str | UUID, progress: float, description: str | None = None) -> str:
    """Move a progress, in place: it is no new version; gives its id. In a coroutine it may be awaited. Safe to repeat.

    Args:
        artifact_id: As `create_progress_artifact` gave it.
        progress: From 0 to 100.
        description: Another one; None: it stays.

    Raises:
        ArtifactNotFound: There is none with this id.
        InvalidArtifact: It is no progress.
    """
    moved: str = answer(_update_progress(str(artifact_id), progress, description))
    return moved


async def aupdate_progress_artifact(artifact_id: str | UUID, progress: float, description: str | None = None) -> str:
    """As `update_progress_artifact`, without holding up the event loop."""
    return await in_thread(lambda: _update_progress(str(artifact_id), progress, description))


# -- how it is done ----------------------------------------------------------------------------------------------


def checked(
    *,
    key: str | None,
    type: str | None = None,
    description: str | None = None,
    data: Any = None,
    metadata: Mapping[str, str] | None = None,
    flow_run_id: str | None = None,
    task_run_id: str | None = None,
) -> NewArtifact:
    """An artifact to be kept by `keep`, which has no id yet.

    Raises:
        InvalidArtifact: It cannot be kept.
    """
    if type is not None and not 0 < len(type) <= _LONGEST_TYPE:
        raise InvalidArtifact(f"an artifact's type has 1 to {_LONGEST_TYPE} characters, not {len(type)}")
    new = NewArtifact(
        "",
        checked_key(key),
        type,
        None if description is None else clean_text(_text(description, "description")),
        None if data is None else _json(data, "data"),
        None if metadata is None else _json(dict(metadata), "metadata"),
        flow_run_id,
        task_run_id,
    )
    size = sum(len(text.encode()) for text in (new.description, new.data, new.metadata) if text is not None)
    if size > LARGEST_ARTIFACT:
        raise InvalidArtifact(
            f"{_called(new)} is {size:,} bytes; at most {LARGEST_ARTIFACT:,} are kept. Show a part of the data, or "
            "keep it elsewhere and show a link to it"
        )
    return new


def checked_key(key: str | None) -> str | None:
    """The key of an artifact.

    Raises:
        InvalidArtifact: It cannot be one.
    """
    if key is not None and not (isinstance(key, str) and _KEY.fullmatch(key) and len(key) <= LONGEST_NAME):
        raise InvalidArtifact(
            f"{key!r} cannot be the key of an artifact: it has 1 to {LONGEST_NAME} lower-case letters, digits and "
            "dashes"
        )
    return key


def keep(new: NewArtifact) -> str:
    """Keep an artifact in the name of the calling code; gives its id."""
    new = replace(new, id=acts.id_of_made(new.key or new.type or "artifact"))
    if acts.may_write_behind() and _write_behind(new):
        return new.id
    inputs = serializers.encode([new.key, new.type, new.description, new.data, new.metadata], what=_called(new))
    failpoint("before_artifact")
    kept = acts.act("artifact", lambda connection, moment: artifacts.add(connection, new, moment), new.id, inputs)
    failpoint("after_artifact")
    return kept


def keep_once(new: NewArtifact, idempotency_key: str) -> str:
    """Keep an artifact for who is no run, unless that was done under this key; gives its id. Safe to repeat.

    Raises:
        IdempotencyConflict: It was, with another key or run.
    """
    new = replace(new, id=identifiers.artifact_id(idempotency_key))
    acts.alone(lambda connection, moment: artifacts.add_once(connection, new, moment))
    return new.id


def changes_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Columns for `change`, of `type`, `description`, `data` and `metadata_`; what is not given stays.

    Raises:
        InvalidArtifact: What it is to show cannot be kept.
    """
    names = [name.rstrip("_") for name in given]
    wanted = checked(key=None, **dict(zip(names, given.values(), strict=True)))
    return {name: getattr(wanted, name) for name in names}


def change(artifact_id: str, changes: Mapping[str, Any]) -> None:
    """Change columns of an artifact in the name of the calling code. Safe to repeat.

    Raises:
        ArtifactNotFound: There is none with this id.
    """
    behind.flush()
    inputs = serializers.encode([artifact_id, dict(changes)], what="what is to change of an artifact")
    acts.act(
        "update-artifact",
        lambda connection, moment: artifacts.change(connection, artifact_id, changes, moment),
        None,
        inputs,
    )


def delete(artifact_id: str) -> None:
    """Delete an artifact in the name of the calling code; the version before it is the newest of its key then.

    Raises:
        ArtifactNotFound: There is none with this id.
    """
    behind.flush()
    effect = acts.removal(lambda connection, moment: artifacts.delete(connection, artifact_id))
    acts.act("delete-artifact", effect, None, serializers.encode(artifact_id))


def table_of(artifact: ArtifactRecord, most: int | None = None) -> tuple[list[str], list[list[Any]]] | None:
    """The columns and rows of a table, of whichever of its three forms; None where it is none that can be shown.

    Rows are made as wide as the widest; columns of rows without names are numbered from 1.

    Args:
        most: Rows that are given at most; None: all.
    """
    if artifact.type != "table":
        return None
    try:
        data = json.loads(artifact.data) if isinstance(artifact.data, str) else artifact.data
    except (ValueError, RecursionError):
        return None  # a client may have kept anything under this type
    if isinstance(data, dict):
        columns = (values if isinstance(values, list) else [values] for values in data.values())
        return list(data), [list(row) for row in islice(zip_longest(*columns), most)]
    if not isinstance(data, list) or not data:
        return None
    rows = data[:most]
    if all(isinstance(row, dict) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        return names, [[row.get(name) for name in names] for row in rows]
    lists = [row if isinstance(row, list) else [row] for row in rows]
    width = max(map(len, lists))
    return [str(number) for number in range(1, width + 1)], [row + [None] * (width - len(row)) for row in lists]


def _write_behind(new: NewArtifact) -> bool:
    row = new.row(clock.now())
    return behind.behind().add(tables.artifacts, row, then=lambda connection: artifacts.follow(connection, row))


def _latest(key: str | None) -> ArtifactRecord | None:
    if key is None:
        return None

    def look() -> ArtifactRecord | None:
        behind.flush()
        return artifacts.find_latest(database(), key)

    return acts.seen("latest-artifact", look)


def _kept(artifact_id: str, new: NewArtifact) -> ArtifactRecord:
    def look() -> ArtifactRecord:
        behind.flush()
        try:
            return artifacts.read(database(), artifact_id)
        except ArtifactNotFound:
            # It is written when the db_transaction() around it is committed.
            return artifacts.record(new.row(clock.now()) | {"id": artifact_id})

    return acts.seen("artifact-kept", look)


def _update_progress(artifact_id: str, progress: float, description: str | None) -> str:
    changes: dict[str, Any] = {"data": _json(_progress(progress), "progress")}
    if description is not None:
        changes["description"] = clean_text(_text(description, "description"))
    change(artifact_id, changes)
    return artifact_id


def _made(artifact: Artifact) -> str:
    made: str = answer(keep(artifact._new()))
    return made


async def _amade(artifact: Artifact) -> str:
    return await in_thread(lambda: keep(artifact._new()))


# -- values ------------------------------------------------------------------------------------------------------


def _called(new: NewArtifact) -> str:
    return f"the {new.type or 'artifact'} {new.key!r}" if new.key else f"a {new.type or 'plain'} artifact"


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidArtifact(f"{what} is a text, not {value!r:.100}")
    return value


def _progress(value: Any) -> float:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= 100:
        raise InvalidArtifact(f"a progress is a number from 0 to 100, not {value!r:.100}")
    return number


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArtifact(f"{what} cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    """A value as JSON has it: NaN is null, an infinite number and what JSON has not are text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    # Numbers of numpy and pandas.
    as_number = getattr(value, "item", None)
    return _plain(as_number()) if callable(as_number) and not hasattr(value, "__len__") else clean_text(str(value))
