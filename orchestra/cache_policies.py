"""Cache policies: by what a call of a task is recognised, so that its result is used again.

A policy gives a key for a call, or None: such a call is not cached. Policies add up, `INPUTS + TASK_SOURCE`, and leave
arguments out, `INPUTS - "verbose"`. Whatever a policy says, the task itself is always part of what is kept.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from orchestra import callables
from orchestra.digests import digest
from orchestra.errors import DefinitionError, NoDigest
from orchestra.transaction_rules import IsolationLevel as IsolationLevel


class LockManager(Protocol):
    """Lets one holder at a time compute what a key stands for. Durations are in seconds; None: for ever."""

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Take the lock, waiting for at most `acquire_timeout`; it is lost after `hold_timeout`. Whether it was taken.

        A holder that has it already takes it again.
        """
        ...

    def release_lock(self, key: str, holder: str) -> None:
        """Give it up.

        Raises:
            ValueError: `holder` does not have it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of a policy says of a call."""

    name: str
    key: str | None
    #: What went into it, by name: an argument's digest, say.
    made_of: Mapping[str, str] = field(default_factory=dict)
    #: Why it gives no key.
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CacheKeyExplanation:
    """What went into the cache key of a call, and why there is none. Printed, it says so in words."""

    #: None: such a call is not cached.
    key: str | None
    #: What stands for the task.
    task: str
    parts: tuple[Part, ...] = ()
    #: Why there is no key.
    reason: str | None = None

    def __str__(self) -> str:
        head = f"cache key {self.key}" if self.key else f"not cached: {self.reason}"
        lines = [head, f"  task {self.task}"]
        for part in self.parts:
            lines.append(f"  {part.name}: {f'no key ({part.reason})' if part.key is None else part.key}")
            lines += [f"    {name}: {text}" for name, text in part.made_of.items()]
        return "\n".join(lines)


class CachePolicy:
    """By what a call of a task is recognised. Those of one's own define `compute_key`."""

    #: None: the database.
    key_storage: Any = None
    #: None: of callers in need of one key, one computes and the others wait.
    isolation_level: IsolationLevel | None = None
    #: What the callers wait by; None: the database.
    lock_manager: LockManager | None = None

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """The key of a call; None: it is not cached.

        Args:
            task_ctx: The `TaskRunContext` of the call.
            inputs: Its arguments by parameter name, defaults included.
            flow_parameters: Those of the flow run it is in; empty outside of one.
            kwargs: More may be told in a later version.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no compute_key()")

    def parts(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any]) -> list[Part]:
        """What the key of a call is made of, part by part."""
        return [_part(self, task_ctx, inputs, flow_parameters)]

    def configure(
        self,
        key_storage: Any = None,
        lock_manager: LockManager | None = None,
        isolation_level: IsolationLevel | str | None = None,
    ) -> Self:
        """A copy of this policy that is kept, and locked, so.

        Args:
            key_storage: None: in the database, which all processes share. Nothing else is supported.
            lock_manager: What callers that ask for one key at once wait by; None: the database.
            isolation_level: `READ_COMMITTED` lets each of them compute for itself.

        Raises:
            DefinitionError: It is none of these.
        """
        if key_storage is not None:
            raise DefinitionError(
                f"key_storage={key_storage!r} of a cache policy is not supported: keys are kept in the database "
                "(ORCHESTRA_DATABASE_URL), with the results; leave it out"
            )
        if lock_manager is not None and not hasattr(lock_manager, "acquire_lock"):
            raise DefinitionError(f"lock_manager= of a cache policy takes a lock manager, not {lock_manager!r}")
        changes = {"lock_manager": lock_manager, "isolation_level": _level(isolation_level)}
        made = copy.copy(self)
        # Into the instance's own dictionary, as policies may be frozen dataclasses.
        vars(made).update({name: value for name, value in changes.items() if value is not None})
        return made

    @property
    def locks(self) -> bool:
        """Whether, of callers that ask for one key at once, one computes and the others wait."""
        return self.isolation_level is not IsolationLevel.READ_COMMITTED

    @staticmethod
    def from_cache_key_fn(cache_key_fn: Callable[[Any, dict[str, Any]], str | None]) -> CacheKeyFn:
        """A policy whose key a function gives, called with the task run's context and the arguments by name."""
        return CacheKeyFn(cache_key_fn)

    def __add__(self, other: object) -> CachePolicy:
        """Both together: calls are the same where both say so."""
        if not isinstance(other, CachePolicy):
            return NotImplemented
        if isinstance(other, NoCache):
            return self
        made = Compound((*_members(self), *_members(other)))
        for name in ("lock_manager", "isolation_level"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if None not in (mine, theirs) and mine != theirs:
                raise DefinitionError(f"two policies with different {name}s cannot be added: configure() the sum")
            vars(made)[name] = mine or theirs
        return made

    def __sub__(self, argument: object) -> CachePolicy:
        """Without this argument, where the policy looks at arguments at all."""
        if not isinstance(argument, str):
            raise DefinitionError(f"what is taken from a cache policy is an argument's name, not {argument!r}")
        return self


@dataclass(frozen=True)
class NoCache(CachePolicy):
    """Nothing is cached."""

    def compute_key(self, *_: Any, **kwargs: Any) -> str | None:
        """None."""
        return None

    def parts(self, *_: Any) -> list[Part]:
        """One, that says so."""
        return [Part("NO_CACHE", None, reason="the task's policy is NO_CACHE")]

    def __add__(self, other: object) -> CachePolicy:
        """The other alone."""
        return other if isinstance(other, CachePolicy) else NotImplemented


@dataclass(frozen=True)
class Inputs(CachePolicy):
    """Calls with equal arguments are the same."""

    exclude: tuple[str, ...] = ()

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """A digest of the arguments that count; None for a task without parameters.

        Raises:
            NoDigest: An argument cannot be told apart from others; names it.
        """
        if not inputs:
            return None
        return _digest_of({name: value for name, value in inputs.items() if name not in self.exclude})

    def parts(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any]) -> list[Part]:
        """One, with the digest of each argument."""
        if not inputs:
            return [
                Part("INPUTS", None, reason=f"task {task_ctx.task.name!r} has no parameters, of which INPUTS tells")
            ]
        made_of = {name: _described(value) for name, value in inputs.items() if name not in self.exclude}
        made_of |= {name: "left out" for name in self.exclude}
        found = _part(self, task_ctx, inputs, flow_parameters)
        return [Part("INPUTS", found.key, made_of, found.reason)]

    def __sub__(self, argument: object) -> CachePolicy:
        """Without this argument, too."""
        if not isinstance(argument, str):
            return super().__sub__(argument)
        made = copy.copy(self)
        vars(made)["exclude"] = tuple(sorted({*self.exclude, argument}))
        return made


@dataclass(frozen=True)
class TaskSource(CachePolicy):
    """Calls of a task are the same while its own code is: comments, and functions that it calls, do not count."""

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """A digest of the code that runs here, whatever stands in its file by now.

        Raises:
            NoDigest: The task's function has no Python code.
        """
        fn = callables.code_of(inspect.unwrap(task_ctx.task.fn))
        code = getattr(fn, "__code__", None)
        if code is None:
            raise NoDigest(f"the function of task {task_ctx.task.name!r} has no Python code to tell it by")
        return digest(code)


@dataclass(frozen=True)
class RunId(CachePolicy):
    """Calls are the same within one flow run only."""

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """The id of the flow run; outside of one, that of the task run."""
        return str(task_ctx.task_run_id if task_ctx.flow_run is None else task_ctx.flow_run.run_id)

    def parts(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any]) -> list[Part]:
        """One; outside of a flow run no two calls are the same."""
        if task_ctx.flow_run is None:
            return [Part("RUN_ID", None, reason="outside of a flow run no two calls are the same")]
        return [_part(self, task_ctx, inputs, flow_parameters)]


@dataclass(frozen=True)
class FlowParameters(CachePolicy):
    """Calls in flow runs with equal parameters are the same."""

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """A digest of the flow run's parameters; None where there are none.

        Raises:
            NoDigest: One cannot be told apart from others; names it.
        """
        return _digest_of(flow_parameters) if flow_parameters else None

    def parts(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any]) -> list[Part]:
        """One, with the digest of each parameter."""
        if not flow_parameters:
            where = "outside of a flow run there are none" if task_ctx.flow_run is None else "the flow run has none"
            return [Part("FLOW_PARAMETERS", None, reason=where)]
        made_of = {name: _described(value) for name, value in flow_parameters.items()}
        found = _part(self, task_ctx, inputs, flow_parameters)
        return [Part("FLOW_PARAMETERS", found.key, made_of, found.reason)]


@dataclass(frozen=True)
class CacheKeyFn(CachePolicy):
    """A function of the user's says it."""

    cache_key_fn: Callable[[Any, dict[str, Any]], str | None]

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """What the function gives."""
        return self.cache_key_fn(task_ctx, inputs)


@dataclass(frozen=True)
class Compound(CachePolicy):
    """Calls are the same where all of several policies say so."""

    policies: tuple[CachePolicy, ...]

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """A digest of their keys; None where one of them that is the user's own gives none, or all of them.

        A task without parameters is told by what else there is, and so is a flow without.
        """
        keys = [key_by(policy, task_ctx, inputs, flow_parameters) for policy in self.policies]
        vetoed = any(
            key is None and not _may_be_silent(policy) for key, policy in zip(keys, self.policies, strict=True)
        )
        return None if vetoed or not any(key is not None for key in keys) else digest(keys)

    def parts(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any]) -> list[Part]:
        """Those of each."""
        return [part for policy in self.policies for part in policy.parts(task_ctx, inputs, flow_parameters)]

    def __sub__(self, argument: object) -> CachePolicy:
        """Without this argument, in each of them."""
        made = copy.copy(self)
        vars(made)["policies"] = tuple(policy - argument for policy in self.policies)
        return made


def key_by(policy: CachePolicy, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any]) -> str | None:
    """The key that a policy gives for a call; None: it is not cached.

    Raises:
        DefinitionError: What it gives is neither a text nor None.
        Exception: What it raises.
    """
    key: Any = policy.compute_key(task_ctx, inputs, flow_parameters)
    if key is None or isinstance(key, str):
        return key
    if isinstance(policy, CacheKeyFn):
        what = f"cache_key_fn {callables.name_of(policy.cache_key_fn)!r} returned"
    else:
        what = f"compute_key() of {type(policy).__name__} returned"
    raise DefinitionError(f"{what} {key!r}: it is to give a text, or None for no caching")


_NAMES: dict[type[CachePolicy], str] = {
    TaskSource: "TASK_SOURCE",
    RunId: "RUN_ID",
    FlowParameters: "FLOW_PARAMETERS",
    CacheKeyFn: "cache_key_fn",
}


def task_input_hash(context: Any, arguments: dict[str, Any]) -> str | None:
    """A `cache_key_fn`: a digest of the task and its arguments; None, and so no caching, where they have none."""
    try:
        return digest([context.task.path, arguments])
    except NoDigest:
        return None


def _level(given: IsolationLevel | str | None) -> IsolationLevel | None:
    if given is None:
        return None
    try:
        return IsolationLevel(str(getattr(given, "value", given)).upper())
    except ValueError as error:
        known = ", ".join(IsolationLevel)
        raise DefinitionError(f"isolation_level= of a cache policy is one of {known}, not {given!r}") from error


def _members(policy: CachePolicy) -> tuple[CachePolicy, ...]:
    return policy.policies if isinstance(policy, Compound) else (policy,)


def _may_be_silent(policy: CachePolicy) -> bool:
    """Whether in a sum its having no key means that there is nothing to tell by it."""
    return isinstance(policy, (Inputs, FlowParameters, NoCache))


def _digest_of(values: Mapping[str, Any]) -> str:
    """The digest of all; where there is none, the error names the one that it is for."""
    try:
        return digest(values)
    except NoDigest:
        for name, value in values.items():
            try:
                digest(value)
            except NoDigest as error:
                raise NoDigest(f"{name!r}: {error}") from error
        raise


def _described(value: Any) -> str:
    try:
        return digest(value)[:16]
    except NoDigest as error:
        return str(error)


def _part(policy: CachePolicy, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any]) -> Part:
    name = _NAMES.get(type(policy), type(policy).__name__)
    try:
        key = key_by(policy, task_ctx, dict(inputs), dict(flow_parameters))
    except Exception as error:
        return Part(name, None, reason=f"{type(error).__name__}: {error}")
    return Part(name, key, reason=None if key is not None else "it gave no key")


#: Calls with equal arguments are the same.
INPUTS = Inputs()
#: Calls are the same while the task's own code is.
TASK_SOURCE = TaskSource()
#: Calls are the same within one flow run.
RUN_ID = RunId()
#: Calls in flow runs with equal parameters are the same.
FLOW_PARAMETERS = FlowParameters()
#: Nothing is cached.
NO_CACHE = NoCache()
NONE = NO_CACHE
#: Calls with equal arguments, of the same code, within one flow run are the same.
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID
