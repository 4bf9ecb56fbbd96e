"""Results: how a value is encoded, where it is kept, and under which name users find it again."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import posixpath
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any

from orchestra import lazy, serializers, settings, signing
from orchestra.context import flow_run_context, task_run_context
from orchestra.errors import ConfigurationError, DefinitionError, MissingResult, ResultCorrupt, ValueTooLarge
from orchestra.specs import FlowSpec, TaskSpec, storage_option
from orchestra.store import blobs, stored_results
from orchestra.store.database import Database

#: Bytes of one part of a name, as file systems allow.
LONGEST_PART = 255
#: What is signed as a record, apart from values themselves.
_KIND = b"r"
#: A character in two halves, as Python may hold it; who reads JSON makes it one.
_SPLIT_CHARACTER = re.compile("[\ud800-\udbff][\udc00-\udfff]")


# -- sizes -------------------------------------------------------------------------------------------------------


def split(data: bytes, *, what: str = "the result") -> tuple[bytes | None, bool]:
    """What goes into the row: `(data, False)`, or `(None, True)` where it becomes a blob.

    Args:
        data: An encoded value.
        what: How an error names it.

    Raises:
        ValueTooLarge: It is over the `result_max_bytes` of the settings.
    """
    caps = settings.current()
    check_size(data, what, caps.result_max_bytes)
    fits = len(data) <= caps.result_inline_max_bytes
    return (data, False) if fits else (None, True)


def check_parameters(data: bytes, *, what: str = "the set of parameters") -> bytes:
    """Encoded parameters, if they are small enough to be kept.

    Raises:
        ValueTooLarge: They are over the `parameters_max_bytes` of the settings.
    """
    return check_size(data, what, settings.current().parameters_max_bytes)


def check_size(data: bytes, what: str, cap: int) -> bytes:
    """`data`, if it has at most `cap` bytes.

    Raises:
        ValueTooLarge: It has more.
    """
    if len(data) > cap:
        raise ValueTooLarge(what, len(data), cap)
    return data


# -- where a value is kept ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keeping:
    """How the values of one task or flow are kept, where that is not the ordinary way."""

    database: Database
    serializer: str = "auto"
    #: A folder, or a URL of fsspec; empty: the database.
    storage: str = ""
    #: Whether small values go there, too.
    everything: bool = False
    #: For how many seconds a storage that is away is tried.
    patience: float = 0.0
    #: Whether other processes must be able to read it: replays, and tasks that are given it.
    is_shared: bool = False

    def outside(self, data: bytes) -> str | None:
        """Keep an encoded value in the storage, if it belongs there; its name.

        A crash before the transaction that refers to it leaves a file for `orchestra db clean`.

        Raises:
            ResultStorageUnavailable: The storage did not take it.
            ConfigurationError: There is no such kind of storage here, or nobody else could read it.
        """
        if not self.storage or not (self.everything or blobs.is_large(data)):
            return None
        if self.is_shared and self.storage.startswith(stored_results.OF_ONE_PROCESS):
            raise ConfigurationError(
                f"the result storage {self.storage!r} is the memory of one process, and a result of a worker is read "
                "by others: set a folder, or a URL that all of them reach"
            )
        return stored_results.keep(self.database, data, self.storage, patience=self.patience)


def keeping_of(
    database: Database, spec: TaskSpec | FlowSpec, flow: FlowSpec | None = None, *, patience: float | None = None
) -> Keeping | None:
    """How values of a flow, or of a task in the run of `flow`, are kept; None: in the ordinary way.

    Args:
        patience: For how many seconds a storage that is away is tried; None: on a worker, for as long as a claim holds.
    """
    own, serializer = spec.result_storage, spec.result_serializer
    if flow is not None:
        own, serializer = own or flow.result_storage, serializer or flow.result_serializer
    storage = own or settings.current().result_storage
    if not storage and serializer is None:
        return None
    patient = settings.current().lease_seconds if patience is None else patience
    return Keeping(database, serializer or "auto", storage or "", own is not None, patient, patience is None)


@dataclass(frozen=True, slots=True)
class Kept:
    """An encoded result, and the name of its blob if it is one."""

    data: bytes | None = None
    blob: str | None = None


def keep_local(
    database: Database, value: Any, spec: TaskSpec | FlowSpec, flow: FlowSpec | None = None, *, ahead: bool = True
) -> Kept:
    """A result of this process, encoded, and put where it belongs.

    Args:
        flow: The flow in whose run a task has run.
        ahead: A large one is in its blob when this returns, ahead of the row that refers to it; else whoever writes
            the row makes it one, as another transaction would have to wait for the row's.

    Raises:
        SerializationError: It cannot be encoded.
        ValueTooLarge: It is over the cap.
        StoreError: The storage or the database is away.
        ConfigurationError: There is no such kind of storage here.
    """
    keeping = keeping_of(database, spec, flow, patience=0.0)
    data = serializers.encode(value, serializer="auto" if keeping is None else keeping.serializer)
    split(data)
    blob = None if keeping is None else keeping.outside(data)
    if ahead and blob is None and blobs.is_large(data):
        blob = blobs.keep(database, data)
    return Kept(data, blob)


# -- results under names of users' own ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResultRecordMetadata:
    """What is said of a result beside it, in its file."""

    storage_key: str
    #: How its value was encoded.
    serializer: str = "auto"
    #: From when on it counts as not there; None: never.
    expiration: datetime | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    orchestra_version: str = field(default_factory=lambda: version("celery-orchestra"))

    @property
    def has_expired(self) -> bool:
        """Whether it counts as not there any more."""
        return self.expiration is not None and self.expiration <= datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """A result with what is said of it: what a file of a `ResultStore` holds."""

    metadata: ResultRecordMetadata
    result: Any

    @property
    def expiration(self) -> datetime | None:
        """From when on it counts as not there; None: never."""
        return self.metadata.expiration

    def serialize(self, *, what: str = "the result") -> bytes:
        """The record as JSON, with a signature. A value that is plain JSON stands there as its text.

        Raises:
            SerializationError: The value cannot be encoded so.
            ValueTooLarge: It is over the cap of results.
        """
        data = serializers.encode(self.result, what=what, serializer=self.metadata.serializer)
        check_size(data, what, settings.current().result_max_bytes)
        encoding, text = _as_text(data)
        said = _said(self.metadata) | {"encoding": encoding}
        record = {"metadata": said, "result": text, "signature": signing.seal(_KIND, _canonical(said), text)}
        return json.dumps(record).encode()

    @classmethod
    def deserialize(cls, data: bytes) -> ResultRecord:
        """The record that `serialize` wrote. Its signature is checked before anything of the value is loaded.

        Raises:
            ResultCorrupt: It is no such record, or was changed, cut off, or signed with another key.
            SerializationError: What the value needs cannot be imported here.
        """
        try:
            record = json.loads(data)
            said, text, signature = record["metadata"], record["result"], record["signature"]
            if not signing.is_sealed(signature, _KIND, _canonical(said), text):
                raise ResultCorrupt(
                    f"a result record of {len(data):,} bytes was changed, or signed with another installation's key; "
                    "nothing of it was loaded"
                )
            metadata, encoded = _metadata(said), _encoded(said, text)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ResultCorrupt(f"{len(data):,} bytes are no result record: {error}") from error
        return cls(metadata, serializers.decode(encoded))


@dataclass(frozen=True, slots=True)
class ResultStore:
    """Results in a folder or an fsspec URL, under names of the user's own. Each name is one file, whole or not there.

    `get_result_store()` gives the one in force where it is asked for.
    """

    result_storage: str | os.PathLike[str] | None = None
    serializer: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "serializer", serializers.serializer_option(self.serializer))

    @property
    def storage(self) -> str:
        """Where its files are: as given, else by ORCHESTRA_RESULT_STORAGE, else `storage` in ORCHESTRA_HOME."""
        given = None if self.result_storage is None else storage_option(self.result_storage)
        return given or settings.current().result_storage or str(settings.current().home_path / "storage")

    def read(self, key: str) -> ResultRecord:
        """The record under a name.

        Raises:
            MissingResult: There is none, or it has expired.
            ResultCorrupt: It is damaged, or was not written by this installation.
            ResultStorageUnavailable: The storage did not answer.
        """
        record = self.find(key)
        if record is None:
            raise MissingResult(f"there is no result {key!r} in {self.storage!r}, or it has expired")
        return record

    def find(self, key: str) -> ResultRecord | None:
        """The record under a name; None where there is none, or it has expired. Raises as `read` otherwise."""
        data = _files().read(self.storage, _checked(key))
        if data is None:
            return None
        record = ResultRecord.deserialize(data)
        if record.metadata.storage_key != key:
            raise ResultCorrupt(f"the file of the result {key!r} holds that of {record.metadata.storage_key!r}")
        return None if record.metadata.has_expired else record

    def write(self, obj: Any, key: str, expiration: datetime | timedelta | None = None) -> ResultRecord:
        """Keep a value under a name, in place of what may be there. Safe to repeat.

        Args:
            expiration: From when on, or after what time, it counts as not there; None: never.

        Raises:
            SerializationError: The value cannot be encoded.
            ResultStorageUnavailable: The storage did not take it.
        """
        if isinstance(expiration, timedelta):
            expiration = _after(expiration)
        record = ResultRecord(ResultRecordMetadata(_checked(key), self.serializer, expiration), obj)
        _files().write(self.storage, key, record.serialize(what=f"the result {key!r}"))
        return record

    def exists(self, key: str) -> bool:
        """Whether there is a record under a name which `read` would give."""
        try:
            return self.find(key) is not None
        except ResultCorrupt:
            return False

    async def aread(self, key: str) -> ResultRecord:
        """As `read`, without holding up the event loop."""
        return await asyncio.to_thread(self.read, key)

    async def awrite(self, obj: Any, key: str, expiration: datetime | timedelta | None = None) -> ResultRecord:
        """As `write`, without holding up the event loop."""
        return await asyncio.to_thread(partial(self.write, obj, key, expiration))

    async def aexists(self, key: str) -> bool:
        """As `exists`, without holding up the event loop."""
        return await asyncio.to_thread(self.exists, key)


def get_result_store() -> ResultStore:
    """The store of the task that runs here, else of the flow, else of the settings."""
    task_run, flow_run = task_run_context.get(), flow_run_context.get()
    specs: list[TaskSpec | FlowSpec] = [] if task_run is None else [task_run.task]
    if flow_run is not None:
        specs.append(flow_run.flow)
    return store_of(*specs)


def store_of(*specs: TaskSpec | FlowSpec) -> ResultStore:
    """The store that the first of these names, and its serializer; else those of the settings."""
    storage = next((spec.result_storage for spec in specs if spec.result_storage is not None), None)
    serializer = next((spec.result_serializer for spec in specs if spec.result_serializer is not None), "auto")
    return ResultStore(storage, serializer)


def _files() -> Any:
    return lazy.load("result_files")


def _checked(key: str) -> str:
    """A name that stays within its storage: it may have been made of what a stranger gave.

    Raises:
        DefinitionError: It does not.
    """
    if not isinstance(key, str) or not key or "\0" in key:
        raise DefinitionError(f"the name of a result is a text, not {key!r}")
    parts = key.replace("\\", "/").split("/")
    if posixpath.normpath(key) != key or ".." in parts or parts[0] in ("", ".") or "://" in key:
        raise DefinitionError(f"the name {key!r} of a result does not stay within its storage: give names without ..")
    if any(len(part.encode("utf-8", "surrogatepass")) > LONGEST_PART for part in parts):
        raise DefinitionError(
            f"the name {key[:60]!r}… of a result is too long: give at most {LONGEST_PART} bytes between two slashes"
        )
    return key


def _after(time: timedelta) -> datetime | None:
    """In that time; None where that is later than any date."""
    try:
        return datetime.now(UTC) + time
    except OverflowError:
        return None


def _said(metadata: ResultRecordMetadata) -> dict[str, Any]:
    times = {"expiration": metadata.expiration, "created": metadata.created}
    return asdict(metadata) | {name: None if at is None else at.isoformat() for name, at in times.items()}


def _metadata(said: dict[str, Any]) -> ResultRecordMetadata:
    times = {name: said[name] and datetime.fromisoformat(said[name]) for name in ("expiration", "created")}
    return ResultRecordMetadata(
        said["storage_key"], said["serializer"], times["expiration"], times["created"], said["orchestra_version"]
    )


def _as_text(data: bytes) -> tuple[str, str]:
    """An encoded value as it stands in a record, and how: JSON as it is, unless a reader would make it another text."""
    if serializers.is_json(data):
        text = str(data[1:], "utf-8", "surrogatepass")
        if _SPLIT_CHARACTER.search(text) is None:
            return "json", text
    return "base64", base64.b64encode(data).decode()


def _encoded(said: dict[str, Any], text: str) -> bytes:
    if said["encoding"] == "json":
        return b"j" + text.encode("utf-8", "surrogatepass")
    return base64.b64decode(text, validate=True)


def _canonical(said: dict[str, Any]) -> str:
    return json.dumps(said, sort_keys=True)
