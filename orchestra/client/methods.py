"""How every method of a client asks: at once, or as a step where a flow body on a worker calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Unpack
from uuid import UUID

from pydantic import TypeAdapter

from orchestra.client.backend import Backend, DatabaseBackend, backend
from orchestra.deployment_options import RunOptions
from orchestra.handles import durable_body
from orchestra.store.database import database

T = TypeVar("T")
Id = str | UUID

#: Most records of one search or page where nothing else is said.
LIMIT = 200

ID: TypeAdapter[str] = TypeAdapter(str)
_DONE: TypeAdapter[None] = TypeAdapter(None)


class Methods:
    """What the methods of `SyncOrchestraClient` have in common."""

    def __init__(self) -> None:
        self._has_looked = False

    def _backend(self) -> Backend:
        """What is asked: the database, in which local runs of dead processes show as Crashed, or the API."""
        looks, self._has_looked = not self._has_looked, True
        return backend(of_runs=looks)

    def _started(self, name: str, parameters: Mapping[str, Any], **options: Unpack[RunOptions]) -> str:
        """The id of a run of a deployment; in a flow body on a worker a replay starts no second one."""
        at = self._backend()
        if isinstance(at, DatabaseBackend):
            return at.start_deployment(name, parameters, **options)
        return self._seen("start_deployment", ID, lambda there: there.start_deployment(name, parameters, **options))

    def _seen(self, name: str, shape: TypeAdapter[T], look: Callable[[Backend], Any]) -> T:
        """What `look` gives, as records; in a flow body on a worker it is kept, and a replay gets the same."""
        runner = durable_body()
        if runner is None:
            return shape.validate_python(look(self._backend()))

        def kept() -> Any:
            return shape.dump_python(shape.validate_python(look(self._backend())), mode="json")

        return shape.validate_python(runner.observe(f"client-{name}", kept))

    def _act(self, name: str, act: Callable[[Backend], object]) -> None:
        def once(at: Backend) -> None:
            act(at)

        self._seen(name, _DONE, once)

    def _do(self, act: Callable[[Backend], T]) -> T:
        """Change something; in a flow's body on a worker in the database of its run, where a replay repeats nothing."""
        return act(self._backend() if durable_body() is None else DatabaseBackend(database()))
