"""What flows and tasks have in common: a function, its spec, what it is bound to, and where others find it."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, ParamSpec, Self, TypeVar

from orchestra import callables, clock, lazy
from orchestra.annotations import allow_failure
from orchestra.engine.parameters import signature
from orchestra.errors import DefinitionError, ReservedArgumentError
from orchestra.futures import Future
from orchestra.retries import delay_option, jitter_option
from orchestra.specs import FlowSpec, TaskSpec, given_options, storage_option
from orchestra.states import State

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
Spec = TypeVar("Spec", FlowSpec, TaskSpec)

#: Names that calls keep for themselves.
RESERVED = frozenset({"wait_for", "return_state"})

#: Options of Prefect whose machinery is not there yet, and what that is. None, and what says no, is taken.
LATER = {
    "asset_deps": "assets",
}


#: What says how results are kept.
RESULT_OPTIONS = frozenset({"result_storage", "result_storage_key", "result_serializer", "cache_result_in_memory"})
#: What is on or off.
FLAGS = frozenset({"cache_result_in_memory", "log_prints", "persist_result", "refresh_cache", "validate_parameters"})


class Option:
    """An option of a flow or task, read by its name; what was not given reads as its default."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, made: Any, owner: type | None = None) -> Any:
        """The option's value; of the class: this."""
        return self if made is None else getattr(made.spec, self._name)


class Decorated(Generic[P, R, Spec]):
    """A function under `@flow` or `@task`."""

    #: "flow" or "task", as messages say it.
    kind: ClassVar[str]
    _spec: Spec
    #: What binds a call, where it is not the instance: `classmethod` or `staticmethod`.
    _binds: type | None = None

    @property
    def spec(self) -> Spec:
        """What the engine sees of it."""
        if not self._placed:
            self._place()
        return self._spec

    @property
    def fn(self) -> Callable[P, R]:
        """The function itself, which runs without orchestra when called."""
        return functools.partial(self._fn, *self._bound) if self._bound else self._fn

    @property
    def name(self) -> str:
        """Its name: the function's, or as `name=` says."""
        return self._spec.name

    @property
    def description(self) -> str:
        """What it does: the function's docstring, or as `description=` says."""
        return self._spec.description

    @property
    def version(self) -> str | None:
        """As `version=` says."""
        return self._spec.version

    @property
    def retries(self) -> int:
        """How many tries may follow a failed one."""
        return self._spec.max_retries

    @property
    def timeout_seconds(self) -> float | None:
        """Seconds it may take; None: as long as it takes."""
        return self._spec.timeout_seconds

    retry_delay_seconds = Option()
    log_prints = Option()
    persist_result = Option()

    def __repr__(self) -> str:
        return f"<{self.kind} {self._spec.name!r} at {self._spec.path}>"

    def having(self, spec: Any) -> Self:
        """A copy of it with another spec; for orchestra itself."""
        made = copy.copy(self)
        made._adopt(spec)
        return made

    def _declare(self, fn: Callable[P, R], spec: Spec) -> None:
        # Below us, `@classmethod` and `@staticmethod` are ours to do.
        self._binds = type(fn) if isinstance(fn, (classmethod, staticmethod)) else None
        self._fn = callables.below(fn)
        self._home = callables.declaring_module()
        #: The same in all copies: what is found under a name is this, whatever its options.
        self._mark = object()
        self._bound: tuple[Any, ...] = ()
        self._yields = callables.is_generator(self._fn) or callables.is_async_generator(self._fn)
        self._adopt(spec)

    def _adopt(self, spec: Spec) -> None:
        wrapper: Any = self
        functools.update_wrapper(wrapper, self._fn, updated=())
        wrapper.__name__ = callables.name_of(self._fn)
        self._spec = replace(spec, decorated=self)
        self._is_async = spec.is_async
        self._placed = False

    def _of(self, instance: Any, owner: type | None) -> Self:
        """What an attribute of a class or of its instance gives."""
        if self._binds is classmethod:
            return self._bind(type(instance) if owner is None else owner)
        return self if instance is None or self._binds is staticmethod else self._bind(instance)

    def _bind(self, instance: Any) -> Self:
        """A copy whose calls get `instance` as their first argument: `self` of a method."""
        if not self._placed:
            self._place()
        bound = copy.copy(self)
        bound._bound = (instance, *self._bound)
        return bound

    def _place(self) -> None:
        """Find where another process finds this: at its function's own name, else in a variable of its module.

        Done when it is first used: then the variable is there.
        """
        self._placed = True
        module = sys.modules.get(self._home)
        if getattr(lazy.loaded(self._spec.path), "_mark", None) is self._mark or module is None:
            return
        held = {
            name: value
            for name, value in list(vars(module).items())
            # By its type: other objects in the module may be proxies, which must not be woken.
            if issubclass(type(value), Decorated) and value._mark is self._mark
        }
        if held:
            name = min(held, key=lambda name: (held[name] is not self, len(held[name]._spec.overrides)))
            self._spec = _moved(self._spec, self._home, name, getattr(module, "__file__", None))
        else:
            # It may be used while its module is still being imported.
            self._placed = not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _moved(spec: Spec, module: str, name: str, file: str | None) -> Spec:
    path = f"{module}:{name}"
    if isinstance(spec, FlowSpec) and file is not None:
        return replace(spec, path=path, entrypoint=f"{file}:{name}")
    return replace(spec, path=path)


def items_in(items: Iterable[Any]) -> Iterator[Any]:
    """What a generator function has yielded, as a generator."""
    yield from items


async def items_of(make: Callable[[], Coroutine[Any, Any, Iterable[Any]]]) -> AsyncIterator[Any]:
    """What an async generator function has yielded: run at the first `async for` over it."""
    for item in await make():
        yield item


def require_function(fn: Any, decorated: type[Decorated[..., Any, Any]]) -> None:
    """Check that `fn` can be a flow or task.

    Raises:
        DefinitionError: It is no function, or decorated already.
        ReservedArgumentError: One of its parameters has a name that calls keep for themselves.
    """
    kind = decorated.kind
    if isinstance(fn, decorated):
        raise DefinitionError(f"{fn!r} is a {kind} already; use .with_options(...) for a copy with other options")
    if isinstance(fn, Decorated):
        raise DefinitionError(f"{fn!r} cannot be a {kind} too: decorate the function itself, or call it from a {kind}")
    if not callable(fn):
        raise DefinitionError(f"@{kind} takes a function, not {fn!r}; options go by name: @{kind}(retries=3)")
    if reserved := RESERVED & set(signature(callables.engine_form(fn)).parameters):
        raise ReservedArgumentError(
            f"{kind} function {callables.name_of(fn)!r} has a parameter named {min(reserved)!r}, which calls of a "
            f"{kind} keep for themselves; rename it"
        )


def spec_fields(
    options: Mapping[str, Any], known: Mapping[str, Any], spec: type[FlowSpec | TaskSpec]
) -> dict[str, Any]:
    """Options that flows and tasks share, as fields of a spec.

    Args:
        options: As the user gave them.
        known: The options there are, by name.
        spec: What they are fields of.

    Raises:
        DefinitionError: One is unknown, or of a wrong kind.
    """
    kind = "flow" if spec is FlowSpec else "task"
    if unknown := sorted(set(options) - known.keys()):
        close_matches = lazy.resolve("difflib:get_close_matches")
        near = [name for each in unknown for name in close_matches(each, known, 1)]
        hint = f"is {' and '.join(map(repr, near))} meant?" if near else f"it has {', '.join(sorted(known))}"
        raise DefinitionError(f"a {kind} has no option {', '.join(map(repr, unknown))}: {hint}")
    fields = given_options(_present(options, kind), spec, kind)
    for name in ("timeout_seconds", "lease_seconds", "cache_expiration"):
        if fields.get(name) is not None:
            fields[name] = _duration(name, fields[name], kind)
    for name in FLAGS & fields.keys():
        if not (fields[name] is None or isinstance(fields[name], bool)):
            raise DefinitionError(f"{name}= of a {kind} is True or False, not {fields[name]!r}")
    if fields.get("version") is not None:
        # A number, say: rows keep it as text.
        fields["version"] = str(fields["version"])
    if fields.get("retry_delay_seconds") is not None:
        fields["retry_delay_seconds"] = delay_option(fields["retry_delay_seconds"])
    if "retry_jitter_factor" in fields:
        fields["retry_jitter_factor"] = jitter_option(fields["retry_jitter_factor"])
    if not RESULT_OPTIONS.isdisjoint(fields):
        _result_options(fields, kind)
    return fields


def _result_options(fields: dict[str, Any], kind: str) -> None:
    if fields.get("result_storage") is not None:
        fields["result_storage"] = storage_option(fields["result_storage"])
    if fields.get("result_serializer") is not None:
        fields["result_serializer"] = lazy.load("serializer_option")(fields["result_serializer"])
    key = fields.get("result_storage_key")
    if not (key is None or (isinstance(key, str) and key)):
        raise DefinitionError(f"result_storage_key= of a {kind} is a text such as 'out-{{parameters[x]}}', not {key!r}")
    named = sorted(name for name in RESULT_OPTIONS if fields.get(name) is not None and name.startswith("result"))
    if fields.get("persist_result") is False and named:
        raise DefinitionError(
            f"a {kind} with persist_result=False keeps no result, so {', '.join(named)} would do nothing: leave out "
            "either"
        )


def _present(options: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The options without those of `LATER`, and without those that change nothing here."""
    for name in LATER.keys() & options.keys():
        if options[name]:
            raise DefinitionError(
                f"{name}= of a {kind} needs {LATER[name]}, which orchestra does not have yet, so that "
                f"it would do nothing: leave {name} out"
            )
    return {name: value for name, value in options.items() if name not in LATER}


def _duration(name: str, given: Any, kind: str) -> float | None:
    """Seconds; None for 0, which limits nothing."""
    try:
        seconds = clock.seconds(given)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{name}= of a {kind} is a number of seconds or a timedelta, not {given!r}") from error
    if not seconds >= 0:
        raise DefinitionError(f"{name}= of a {kind} cannot be {given!r}: give seconds from 0, or leave it out")
    return seconds or None


def waited_for(wait_for: Any) -> tuple[Any, ...]:
    """What `wait_for=` names: nothing, one future or state, or several.

    Raises:
        DefinitionError: It is none of these.
    """
    if wait_for is None:
        return ()
    if isinstance(wait_for, (Future, State, allow_failure)):
        return (wait_for,)
    if not isinstance(wait_for, Iterable):
        raise DefinitionError(f"wait_for= takes a future, or several in a list, not {wait_for!r}")
    return tuple(wait_for)
