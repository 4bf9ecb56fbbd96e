"""Find the code of a flow or task by the path that its row carries."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from orchestra import lazy, serializers
from orchestra.errors import ConfigurationError, DefinitionNotFound
from orchestra.specs import CELERY_TASK, FlowSpec, TaskSpec, is_celery_task, overridden

_Spec = TypeVar("_Spec", FlowSpec, TaskSpec)


def load_flow(path: str, entrypoint: str | None = None, options: bytes | None = None) -> FlowSpec:
    """The flow at `module:qualname`; one that was defined in `__main__`, at the `file.py:qualname` of its script.

    Args:
        options: Those that `with_options` has set, as `encoded_options` gave them.

    Raises:
        DefinitionNotFound: It cannot be imported in this process; says why.
    """
    # Only a script has to be loaded by its file: a module's tasks are looked for under the module's name.
    where = entrypoint if entrypoint and path.startswith("__main__:") else path
    return _with(options, _load(where, FlowSpec, "flow"))


def load_task(path: str, options: bytes | None = None) -> TaskSpec:
    """The task at `module:qualname`. As `load_flow` otherwise.

    Raises:
        DefinitionNotFound: It cannot be imported in this process; says why.
    """
    return _with(options, _load(path, TaskSpec, "task"))


def object_at(path: str, kind: type[FlowSpec | TaskSpec], what: str) -> Any:
    """The decorated flow or task itself, at `module:qualname` or `file.py:qualname`.

    Raises:
        DefinitionNotFound: It cannot be imported in this process; says why.
    """
    return _found_at(path, kind, what)


def encoded_options(spec: FlowSpec | TaskSpec) -> bytes | None:
    """What another process needs besides the path to have this very flow or task.

    Raises:
        SerializationError: An option cannot be encoded.
    """
    if not spec.overrides:
        return None
    return serializers.encode(dict(spec.overrides), what=f"the options of {spec.name!r}")


def _with(options: bytes | None, spec: _Spec) -> _Spec:
    return spec if options is None else overridden(spec, serializers.decode(options))


def import_modules(names: Iterable[str]) -> list[ModuleType]:
    """Import the modules that ORCHESTRA_FLOWS names.

    Raises:
        ConfigurationError: One cannot be imported; names it and says why.
    """
    see_working_directory()
    return [_import_named(name) for name in names]


def see_working_directory() -> None:
    """Let modules in the working directory be imported, as `python -m` does."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def specs_in(modules: Iterable[ModuleType]) -> Iterator[FlowSpec | TaskSpec]:
    """The flows and tasks that stand at the top level of modules."""
    for module in modules:
        for value in vars(module).values():
            # Nothing else is asked: a proxy, such as Flask's `current_app`, may raise whatever it likes.
            spec = getattr(value, "spec", None) if hasattr(type(value), "having") else None
            if isinstance(spec, (FlowSpec, TaskSpec)):
                yield spec


def queues_of(modules: Iterable[ModuleType]) -> list[str]:
    """The queues that the flows and tasks of modules name, sorted."""
    return sorted({spec.queue for spec in specs_in(modules) if spec.queue})


def _import_named(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"ORCHESTRA_FLOWS names the module {name!r}, which cannot be imported "
            f"({type(error).__name__}: {error}): mend it, or the variable; the working directory is {os.getcwd()!r}"
        ) from error


def _load(path: str, kind: type[_Spec], what: str) -> _Spec:
    spec: _Spec = _found_at(path, kind, what).spec
    return spec


def _found_at(path: str, kind: type[FlowSpec | TaskSpec], what: str) -> Any:
    try:
        found = _at(path)
        spec = getattr(found, "spec", None)
        if kind is TaskSpec and not isinstance(spec, TaskSpec) and is_celery_task(found):
            found = lazy.load("adopted_celery_task")(found)
            spec = found.spec
    except (Exception, SystemExit) as error:
        raise DefinitionNotFound(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(spec, kind):
        raise DefinitionNotFound(path, f"what stands there is no {what} but of type {type(found).__name__}")
    return found


def _at(path: str) -> Any:
    if path.startswith(CELERY_TASK):
        return lazy.load("registered_celery_task")(path.removeprefix(CELERY_TASK))
    where, _, qualname = path.rpartition(":")
    return _find(_module(where), qualname)


def _find(module: ModuleType, qualname: str) -> Any:
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _module(where: str) -> ModuleType:
    if where.endswith(".py"):
        return _from_file(Path(where).resolve())
    return importlib.import_module(where)


def _from_file(path: Path) -> ModuleType:
    """A script as a module, run once, under its path as its name: so its `__main__` part does not run, and the paths of
    the tasks in it lead here again, in every process."""
    name = str(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # What lies beside a script can be imported, as where it is run; what is installed comes first.
    if (folder := str(path.parent)) not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
