"""Tracing: a flow body is called with placeholders for results, and what it asks for becomes a plan.

The plan holds the steps that a run of the body would journal, with the same keys and positions, and the edges that its
program order and its futures give: what stands behind a direct call, a `.result()` or a `.wait()` depends on it. A
body that looks into a result cannot be planned, as only a run can know it.
"""

from __future__ import annotations

import ast
import asyncio
import contextvars
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn, TypeVar

from orchestra import identifiers, lazy, names, serializers, states
from orchestra.context import FlowRunContext, flow_run_context, tags_context, tags_of, task_run_context
from orchestra.engine import definitions, loops
from orchestra.engine.arguments import find_futures, replace_futures, replace_refs
from orchestra.engine.branches import Line, Waiters, current_line
from orchestra.engine.parameters import call_with, validate
from orchestra.engine.values import encode_inputs
from orchestra.errors import DefinitionError, ForeignThread, StaticFlowError
from orchestra.futures import Future
from orchestra.graph import Edge, Node
from orchestra.journal import Branch
from orchestra.questions import Message, Pause, Receive, Slots
from orchestra.serializers import StepRef
from orchestra.specs import Call, FlowSpec, TaskSpec, require_importable
from orchestra.states import State
from orchestra.store.journal import NewStep
from orchestra.store.tables import Kind

T = TypeVar("T")

#: Of a task, the Celery queue and priority of its messages.
Route = Callable[[TaskSpec], tuple[str, "int | None"]]
#: First byte of an encoded outcome that was planned: the body itself did not run.
PLANNED = b"P"

_OURS = str(Path(__file__).resolve().parent.parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run of a flow will do, known before it starts."""

    steps: list[NewStep]
    #: What the run ends as when the steps have ended, with step keys in the place of results.
    outcome: bytes

    @property
    def nodes(self) -> list[Node]:
        """The steps as a graph, in the order of asking."""
        return [Node(step.key, step.edges) for step in self.steps]


def trace(
    flow: FlowSpec,
    parameters: dict[str, Any],
    route: Route,
    *,
    run_id: str = "",
    run_name: str = "",
    tags: Iterable[str] = (),
) -> Plan:
    """Call the body of `flow` with placeholders for results. No task runs; log lines of the body are dropped.

    Args:
        flow: The flow.
        parameters: By name, as bound.
        route: Where the messages of a task go.
        run_id: The run that the plan is for, if it is known.
        run_name: Its name.
        tags: Its tags, which its steps have too.

    Raises:
        StaticFlowError: The body looks into a result, or does what a canvas cannot hold.
        NotImportable: A worker could not import one of its tasks.
        Exception: What the body raises of its own accord.
    """
    if flow.timeout_seconds is not None:
        raise StaticFlowError(flow.name, "has timeout_seconds, which a canvas does not keep: give its tasks their own")
    if flow.validate_parameters:
        parameters = validate(flow.fn, parameters)
    tracer = _Tracer(flow, route)
    context = FlowRunContext(
        flow=flow,
        run_id=run_id,
        run_name=run_name,
        parameters=parameters,
        runner=tracer,
        tags=tuple(tags),
        lines=_NoLines(),
    )
    return contextvars.copy_context().run(tracer.run, context)


def sketch(flow: FlowSpec, parameters: dict[str, Any]) -> Plan:
    """As `trace`, to be looked at only: flows that the body calls are steps too, and nothing need be importable.

    Raises:
        StaticFlowError: The body looks into a result.
        Exception: What the body raises of its own accord.
    """
    if flow.validate_parameters:
        parameters = validate(flow.fn, parameters)
    tracer = _Sketcher(flow, lambda task: ("", None))
    context = FlowRunContext(
        flow=flow, run_id="", run_name=flow.name, parameters=parameters, runner=tracer, lines=_NoLines()
    )
    return contextvars.copy_context().run(tracer.run, context)


def planned_value(
    outcome: bytes, state_of: Callable[[str], State[Any] | None], future_of: Callable[[str], Future[Any]]
) -> Any:
    """What the body of a planned run would have returned, or the failed State in which it would have ended.

    Args:
        outcome: As `trace` encoded it.
        state_of: The final state of a step.
        future_of: A future of it.
    """
    raising, value = serializers.decode(outcome[1:])
    for key in raising:
        state = state_of(key)
        if state is not None and not state.is_completed():
            return states.from_exception(state.result(raise_on_failure=False))

    def fill(ref: StepRef) -> Any:
        state = state_of(ref.step_key)
        if ref.allow_failure or state is None:
            return future_of(ref.step_key)
        return state.result(raise_on_failure=False)

    return replace_refs(value, fill)


# -- what stands for results -------------------------------------------------------------------------------------


class Traced(Future[Any]):
    """Stands for a step that has not run: its future, its state or its value."""

    #: The tracer of its body.
    waiter: _Tracer
    #: Whether its value may be an exception.
    may_fail = False

    def __init__(self, tracer: _Tracer, key: str, name: str) -> None:
        super().__init__("", name, tracer)
        self.key = key

    def peek(self) -> State[Any] | None:
        """Nothing is known of it."""
        return None

    @property
    def state(self) -> State[Any]:
        """Cannot be known.

        Raises:
            StaticFlowError: Always.
        """
        self.refuse("looks at the state of")

    def add_done_callback(self, callback: Callable[[Future[Any]], object]) -> None:
        """Cannot be called.

        Raises:
            StaticFlowError: Always.
        """
        self.refuse("adds a callback to")

    def done(self) -> bool:
        """Cannot be known.

        Raises:
            StaticFlowError: Always.
        """
        self.refuse("looks whether there is a result of")

    def refuse(self, does: str) -> NoReturn:
        """Say that the body does this to the step's task.

        Raises:
            StaticFlowError: Always.
        """
        self.waiter.refuse(f"{does} task {self.name!r}")


class TracedFuture(Traced):
    """The future of a submitted step. Asked for its value, it gives a placeholder, and what follows depends on it."""

    def final_state(self) -> Any:
        """Stands for the final state."""
        return TracedState(self.waiter, self.key, self.name)


class TracedState(Traced):
    """The final state of a step, which can only be asked for its value."""

    def result(self, raise_on_failure: bool = True) -> Any:  # type: ignore[override]  # as a state's, not a future's
        """A placeholder of the value."""
        if raise_on_failure:
            self.waiter.must_succeed(self.key, self.name)
        made = Placeholder(self.waiter, self.key, self.name)
        object.__setattr__(made, "may_fail", not raise_on_failure)
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self.refuse("looks at the state of")


class Placeholder(Traced):
    """The value of a step. It may be handed on and returned; to look into it is an error."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """Asked by `.map()`, which would call its task once for each element.

        Raises:
            StaticFlowError: Always.
        """
        self.refuse("maps over (or hands to .map() without unmapped()) the result of")

    def __getattribute__(self, name: str) -> Any:
        # isinstance() asks for __class__ where the type itself does not tell.
        frame = sys._getframe(1)
        if frame.f_code.co_filename == "<frozen abc>" and frame.f_back is not None:
            frame = frame.f_back
        if _is_ours(frame) or (name.startswith("__") and name != "__class__"):
            return object.__getattribute__(self, name)
        if name == "__class__":
            _looked(self, "isinstance")
        _looked(self, f".{name}")


def _looked(value: Placeholder, how: str) -> NoReturn:
    tracer: _Tracer = object.__getattribute__(value, "waiter")
    name: str = object.__getattribute__(value, "name")
    tracer.refuse(f"looks into the result of task {name!r} ({how})")


def _look(operator: str) -> Callable[..., NoReturn]:
    def look(self: Placeholder, *args: Any, **kwargs: Any) -> NoReturn:
        _looked(self, operator)

    return look


#: What Python asks of a value, by the name that a person gives it.
_LOOKS = {
    "bool": "bool", "iter": "iteration", "len": "len", "getitem": "[…]", "setitem": "[…] =", "delitem": "del […]",
    "contains": "in", "next": "next", "reversed": "reversed", "call": "call", "enter": "with", "exit": "with",
    "aenter": "async with", "aexit": "async with", "aiter": "async for", "await": "await", "hash": "hash",
    "str": "str", "repr": "repr", "format": "format", "bytes": "bytes", "int": "int", "float": "float",
    "complex": "complex", "index": "index", "round": "round", "trunc": "trunc", "floor": "floor", "ceil": "ceil",
    "fspath": "os.fspath", "buffer": "bytes", "setattr": "attribute =", "reduce_ex": "copy or pickle",
    "copy": "copy", "deepcopy": "copy", "length_hint": "len", "dir": "dir", "sizeof": "size",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "neg": "-", "pos": "+", "invert": "~", "abs": "abs",
    **{
        f"{side}{name}": sign
        for side in ("", "r", "i")
        for name, sign in {
            "add": "+", "sub": "-", "mul": "*", "matmul": "@", "truediv": "/", "floordiv": "//", "mod": "%",
            "divmod": "divmod", "pow": "**", "lshift": "<<", "rshift": ">>", "and": "&", "xor": "^", "or": "|",
        }.items()
        if (side, name) != ("i", "divmod")
    },
}  # fmt: skip
#: What the making of a placeholder itself needs.
_SPARED = {"setattr"}
for _name, _operator in _LOOKS.items():
    if _name not in _SPARED:
        setattr(Placeholder, f"__{_name}__", _look(_operator))


# -- the runner --------------------------------------------------------------------------------------------------


class _NoLines:
    def next(self, series: str = "") -> tuple[str, int] | None:
        """Drops the line: it belongs to no run."""
        return None


class _Tracer:
    """A runner that carries nothing out: it notes what the body asks for."""

    def __init__(self, flow: FlowSpec, route: Route) -> None:
        self.flow = flow
        self.steps: list[NewStep] = []
        self._route = route
        self._code: CodeType | None = getattr(inspect.unwrap(flow.fn), "__code__", None)
        #: By branch: what the next step depends on by program order alone, and whether it must have succeeded.
        self._behind: dict[str, dict[str, bool]] = {}
        self._by_key: dict[str, NewStep] = {}
        #: Steps whose failure ends the body, in program order.
        self._raising: dict[str, None] = {}
        self._error: StaticFlowError | None = None

    def run(self, context: FlowRunContext) -> Plan:
        """Call the body; this context is the caller's own, and left as it is."""
        flow_run_context.set(context)
        task_run_context.set(None)
        tags_context.set(frozenset(context.tags))
        value = self._call(*call_with(self.flow.fn, context.parameters))
        if self._error is not None:
            # The body may have caught it.
            raise self._error
        refs = replace_futures(value, _as_outcome)
        encoded = serializers.encode([list(self._raising), refs], what=f"the result of flow {self.flow.name!r}")
        return Plan(self.steps, PLANNED + encoded)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.flow.is_async:
            # In a thread of its own: the caller's may have a running loop.
            inside = contextvars.copy_context()
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(inside.run, self._call_async, args, kwargs).result()
        current_line.set(Line())
        return self.flow.fn(*args, **kwargs)

    def _call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        current_line.set(Line())
        return loops.run_branches(self._main(args, kwargs), Waiters())

    async def _main(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        make = loop.get_task_factory()
        loop.set_task_factory(lambda loop, coro, **options: self._branch(make, loop, coro, options))
        return await self.flow.fn(*args, **kwargs)

    def _branch(self, make: Any, loop: Any, coro: Coroutine[Any, Any, T], options: Any) -> asyncio.Task[T]:
        """A branch begins behind what its parent is behind; once it has ended, so is its parent behind it."""
        parent = self._line("a task")
        made: asyncio.Task[T] = make(loop, coro, **options)
        child = f"{parent.id}.{parent.children - 1}"
        self._behind[child] = dict(self._behind.get(parent.id, {}))
        made.add_done_callback(lambda _: _merge(self._behind.setdefault(parent.id, {}), self._behind[child]))
        return made

    # -- what a body may ask for ---------------------------------------------------------------------------------

    def call_task(self, task: TaskSpec, call: Call) -> Any:
        """Note a direct call: all that follows depends on it."""
        if task.persist_result is False:
            self.refuse(f"calls task {task.name!r}, whose result is not kept (persist_result=False)")
        key = self._note(task, call, direct=True)
        line = self._line(task.name).id
        still = {each: True for each, strict in self._behind.get(line, {}).items() if strict}
        self._behind[line] = still | {key: False}
        return TracedState(self, key, task.name)

    async def call_task_async(self, task: TaskSpec, call: Call) -> Any:
        """As `call_task`."""
        return self.call_task(task, call)

    def submit_task(self, task: TaskSpec, call: Call) -> Future[Any]:
        """Note a submitted call."""
        return TracedFuture(self, self._note(task, call, direct=False), task.name)

    def wait(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """What follows depends on these."""
        if timeout is not None:
            self.refuse(f"waits with a timeout for task {futures[0].name!r}")
        if first:
            self.refuse(f"goes on with whichever of several tasks ends first ({futures[0].name!r})")
        for future in futures:
            self._put_behind(_key_of(future), strict=False)

    async def wait_async(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """As `wait`."""
        self.wait(futures, timeout, first=first)

    def must_succeed(self, key: str, name: str) -> None:
        """The body goes on only if this step succeeds: what follows depends on that."""
        if (line := self._guarding_line()) is not None:
            self.refuse(f"catches what task {name!r} may raise, or cleans up after it", line)
        self._raising.setdefault(key)
        self._put_behind(key, strict=True)

    # -- what it may not -----------------------------------------------------------------------------------------

    def refuse(self, what: str, where: str | None = None) -> NoReturn:
        """Say what the body does that no canvas can hold.

        Raises:
            StaticFlowError: Always.
        """
        error = StaticFlowError(self.flow.name, what, where or self._where())
        self._error = self._error or error
        raise error

    def call_flow(self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]) -> State[Any]:
        """Refuse: a child run has a body of its own."""
        self.refuse(f"calls flow {flow.name!r}, which has a body of its own")

    async def call_flow_async(
        self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]
    ) -> State[Any]:
        """As `call_flow`."""
        return self.call_flow(flow, parameters, wait_for)

    @property
    def keeper(self) -> Any:
        """Refuse: a canvas undoes nothing."""
        self.refuse("opens a transaction")

    def sleep(self, seconds: float) -> None:
        """Refuse: no step of a canvas waits for a time."""
        self.refuse("sleeps")

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`."""
        self.sleep(seconds)

    def slots(self, wanted: Slots) -> AbstractContextManager[None]:
        """Not in a canvas."""
        self.refuse(f"takes slots of the concurrency limit {wanted.named}")

    def slots_async(self, wanted: Slots) -> AbstractAsyncContextManager[None]:
        """As `slots`."""
        self.slots(wanted)
        raise AssertionError

    def pause(self, pause: Pause) -> Any:
        """Refuse: no step of a canvas waits for a person."""
        self.refuse("pauses for a person")

    async def pause_async(self, pause: Pause) -> Any:
        """As `pause`."""
        self.pause(pause)

    def receive(self, wanted: Receive) -> Any:
        """Refuse: no step of a canvas waits for a message."""
        self.refuse("waits for input")

    async def receive_async(self, wanted: Receive) -> Any:
        """As `receive`."""
        self.receive(wanted)

    def send(self, message: Message) -> None:
        """Refuse: a body that is only drawn has no effects."""
        self.refuse("sends input")

    def emit(self, row: dict[str, Any]) -> dict[str, Any]:
        """Refuse: a body that is only drawn has no effects."""
        self.refuse("emits an event (emit it in a task)")

    def observe(self, name: str, look: Callable[[], T]) -> T:
        """Refuse: what is seen while tracing is not what a run would see."""
        self.refuse(f"asks for {name!r} (hand it in as a parameter, or ask in a task)")

    def patched(self, name: str) -> bool:
        """What is planned is new, and goes by every patch."""
        return True

    # -- notes ---------------------------------------------------------------------------------------------------

    def _note(self, task: TaskSpec, call: Call, *, direct: bool) -> str:
        line = self._line(task.name)
        self._check(task)
        found = [*find_futures([call.args, call.kwargs]), *find_futures(list(call.wait_for))]
        edges = dict(self._behind.get(line.id, {}))
        for future, strict in found:
            _merge(edges, {_key_of(future): strict and not getattr(future, "may_fail", False)})
        values = [future for future, _ in found if isinstance(future, Placeholder)]
        inputs = encode_inputs(replace_futures(call.args, _as_input), replace_futures(call.kwargs, _as_input))
        asked = line.ask(names.step_name(task.name))
        queue, priority = self._route(task)
        step = NewStep(
            asked.key,
            asked.branch,
            asked.position,
            len(self.steps),
            Kind.TASK,
            asked.key.rpartition("/")[2],
            task.path,
            definitions.encoded_options(task),
            inputs=inputs,
            fingerprint=_fingerprint(inputs, values),
            edges=tuple(Edge(key, strict) for key, strict in edges.items()),
            queue=queue,
            priority=priority,
            lease_seconds=task.lease_seconds,
            version=self.flow.version,
            most_in_flight=self.flow.most_in_flight,
            tags=tags_of(task.tags),
        )
        self.steps.append(step)
        self._by_key[step.key] = step
        return step.key

    def _check(self, task: TaskSpec) -> None:
        require_importable(task.path, "task")

    def _put_behind(self, key: str, *, strict: bool) -> None:
        behind = self._behind.setdefault(self._line("wait").id, {})
        for edge in self._by_key[key].edges:
            # It stands behind this one itself; but that this one must have succeeded may have to be said still.
            if (edge.strict and strict) or not behind.get(edge.upstream, True):
                behind.pop(edge.upstream, None)
        _merge(behind, {key: strict})

    def _line(self, what: str) -> Branch:
        line = current_line.get()
        if line is None:
            raise ForeignThread(what)
        return line.branch

    # -- where the body stands -----------------------------------------------------------------------------------

    def _where(self) -> str:
        """`file:line` of the body, or of a function of the user's that it called."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if frame.f_code is self._code or not (_is_ours(frame) or file.startswith((*_LIBRARIES, "<"))):
                return f"{file}:{frame.f_lineno}"
            frame = frame.f_back
        return ""

    def _guarding_line(self) -> str | None:
        """Where the body is now, if that is inside of a `try`: what runs then depends on a failure."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if not _is_ours(frame):
                file, line = frame.f_code.co_filename, frame.f_lineno
                if not file.startswith((*_LIBRARIES, "<")) and any(line in lines for lines in _tried(frame.f_code)):
                    return f"{file}:{line}"
            if frame.f_code is self._code:
                return None
            frame = frame.f_back
        return None


class _Sketched(TracedFuture):
    """The future of a step whose task says what to take for its value."""

    def __init__(self, tracer: _Tracer, key: str, name: str, value: Any) -> None:
        super().__init__(tracer, key, name)
        self._value = value

    def final_state(self) -> Any:
        """Completed, with that value."""
        return states.Completed(data=self._value)


class _Sketcher(_Tracer):
    """A tracer for people to look at: its plan is never run."""

    def _check(self, task: TaskSpec) -> None:
        pass

    def call_task(self, task: TaskSpec, call: Call) -> Any:
        """Note a direct call; a task that says what to take for its value gives that."""
        if task.persist_result is False:
            task = replace(task, persist_result=None)
        state = super().call_task(task, call)
        return state if task.viz_return_value is None else states.Completed(data=task.viz_return_value)

    def submit_task(self, task: TaskSpec, call: Call) -> Future[Any]:
        """Note a submitted call, likewise."""
        future = super().submit_task(task, call)
        if task.viz_return_value is None:
            return future
        return _Sketched(self, _key_of(future), task.name, task.viz_return_value)

    def call_flow(self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]) -> Any:
        """Note it as one step."""
        return self.call_task(TaskSpec(flow.fn, flow.name, flow.path), Call((), parameters, wait_for))

    @property
    def keeper(self) -> Any:
        """A transaction is not drawn, what is in it is."""
        return lazy.load("silent_keeper")()

    def sleep(self, seconds: float) -> None:
        """A sleep is not drawn."""

    def slots(self, wanted: Slots) -> AbstractContextManager[None]:
        """A limit is not drawn."""
        return nullcontext()

    def slots_async(self, wanted: Slots) -> AbstractAsyncContextManager[None]:
        """As `slots`."""
        return nullcontext()

    def pause(self, pause: Pause) -> None:
        """A pause is not drawn; a body that looks into the answer cannot be."""


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OURS)


@lru_cache(maxsize=1024)
def _tried(code: CodeType) -> tuple[range, ...]:
    """The lines of a function that stand in the body of a `try`; none where its source is not there."""
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return ()
    return tuple(
        range(node.body[0].lineno + first - 1, (node.body[-1].end_lineno or node.body[-1].lineno) + first)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try | ast.TryStar)
    )


def _merge(edges: dict[str, bool], more: dict[str, bool]) -> None:
    """Add edges; one that is strict in either stays strict."""
    for key, strict in more.items():
        edges[key] = edges.get(key, False) or strict


def _key_of(future: Future[Any]) -> str:
    if not isinstance(future, Traced):
        raise DefinitionError(f"{future!r} belongs to another run; hand on its result instead")
    key: str = object.__getattribute__(future, "key")
    return key


def _as_input(future: Future[Any], strict: bool) -> StepRef:
    return StepRef(_key_of(future), allow_failure=not strict or bool(getattr(future, "may_fail", False)))


def _as_outcome(future: Future[Any], strict: bool) -> StepRef:
    """In an outcome, a reference that allows failure stands for a future, another one for its value."""
    return StepRef(_key_of(future), allow_failure=not isinstance(future, Placeholder))


def _fingerprint(inputs: bytes, values: Sequence[Traced]) -> str | None:
    """As a step-by-step run would give it; none where values stand for which the plan has only keys.

    A retry, which goes step by step, then keeps the step's result, unless a value may change: an exception's.
    """
    if any(value.may_fail for value in values):
        return "planned"
    if values or serializers.is_pickle(inputs):
        return None
    return identifiers.fingerprint(inputs)
