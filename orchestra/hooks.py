"""State hooks as users write them: the options, the decorators, and which hooks a state calls for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from orchestra.errors import DefinitionError
from orchestra.specs import FlowSpec, Hooks, TaskSpec, overridden
from orchestra.states import StateType

H = TypeVar("H", bound=Callable[..., Any])

#: What may be said of hooks in a decorator: one, or several.
HookOption = Callable[..., Any] | Iterable[Callable[..., Any]] | None

#: The option whose hooks run when a run has come into a state of this type.
OPTION_OF: dict[str, str] = {
    StateType.RUNNING: "on_running",
    StateType.COMPLETED: "on_completion",
    StateType.FAILED: "on_failure",
    StateType.CANCELLED: "on_cancellation",
    StateType.CRASHED: "on_crashed",
}
OPTIONS = frozenset(OPTION_OF.values())
#: Those of a task that a transaction calls, with itself.
IN_TRANSACTIONS = frozenset({"on_rollback", "on_commit"})
#: Those that say how a run has ended.
_FINAL = OPTIONS - {"on_running"}


def hooks_of(spec: FlowSpec | TaskSpec, state_type: str) -> Hooks:
    """The hooks that a run of `spec` owes when it has come into a state of this type."""
    found: Hooks = getattr(spec, OPTION_OF.get(state_type, ""), ())
    return found


def has_final_hooks(spec: FlowSpec) -> bool:
    """Whether any end of a run of `spec` calls for hooks."""
    return any(getattr(spec, option) for option in _FINAL)


def hook_options(fields: dict[str, Any], what: str) -> None:
    """Put the hooks among `fields` into the form in which a spec has them.

    Args:
        what: "flow" or "task".

    Raises:
        DefinitionError: One cannot be called.
    """
    for option in (OPTIONS | IN_TRANSACTIONS) & fields.keys():
        given = fields[option]
        hooks = (given,) if callable(given) or not isinstance(given, Iterable) else tuple(given)
        for hook in hooks:
            if not callable(hook):
                given_to = "(transaction)" if option in IN_TRANSACTIONS else f"({what}, {what}_run, state)"
                raise DefinitionError(
                    f"{option}= of a {what} is a function, or a list of functions, called with "
                    f"{given_to}; {hook!r} cannot be called"
                )
        fields[option] = hooks


class TaskHooks:
    """`@my_task.on_failure` and the like: hooks that are added after the decoration."""

    _spec: Any
    #: Made by `with_options`: what a worker finds at its path is another one.
    _is_copy = False

    def on_completion(self, fn: H) -> H:
        """Have `fn` called each time a run of this has ended well. Gives `fn` back."""
        return self._add_hook("on_completion", fn)

    def on_failure(self, fn: H) -> H:
        """Have `fn` called each time a run of this has failed, no retry being left. Gives `fn` back."""
        return self._add_hook("on_failure", fn)

    def on_running(self, fn: H) -> H:
        """Have `fn` called each time a try of this starts. Gives `fn` back."""
        return self._add_hook("on_running", fn)

    def _add_hook(self, option: str, fn: H) -> H:
        spec = self._spec
        if not callable(fn):
            raise DefinitionError(f".{option} takes a function, not {fn!r}: write @{spec.name}.{option} above one")
        hooks = {option: (*getattr(spec, option), fn)}
        self._adopt(overridden(spec, hooks) if self._is_copy else replace(spec, **hooks))
        return fn

    def _adopt(self, spec: Any) -> None:
        raise NotImplementedError


class TransactionHooks(TaskHooks):
    """`@my_task.on_rollback` and `@my_task.on_commit`."""

    def on_rollback(self, fn: H) -> H:
        """Have `fn(transaction)` called where a transaction is rolled back in which a run of this has ended well.

        Gives `fn` back.
        """
        return self._add_hook("on_rollback", fn)

    def on_commit(self, fn: H) -> H:
        """Have `fn(transaction)` called where a transaction is committed in which a run of this has ended well.

        Outside of a transaction, at the end of each run. Gives `fn` back.
        """
        return self._add_hook("on_commit", fn)


class FlowHooks(TaskHooks):
    """`@my_flow.on_failure` and the like."""

    def on_cancellation(self, fn: H) -> H:
        """Have `fn` called each time a run of this has been cancelled. Gives `fn` back."""
        return self._add_hook("on_cancellation", fn)

    def on_crashed(self, fn: H) -> H:
        """Have `fn` called each time a run of this has crashed. Gives `fn` back."""
        return self._add_hook("on_crashed", fn)
