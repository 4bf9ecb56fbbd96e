"""Whole flows as native Celery canvases: drawn for people, applied by hand, or sent by `.delay()` of a static flow.

A node carries ids only, `(run, step key)`; the plan and every value are in the journal, where each node is claimed
like any other step. A message that comes too early, or twice, is dropped there; one that does not come is
sent again by the sweeper. So nothing rests on Celery's chords, which only save the journal's own announcements.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.canvas import Signature, chain, chord, group

from orchestra import decomposition, graph
from orchestra.celery import doors
from orchestra.celery.apps import JOIN_TASK, PASS_ON_TASK, STEP_TASK
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.decomposition import Decomposition, Leaf, Parallel, Series, Tree
from orchestra.engine import tracing
from orchestra.engine.parameters import call_with
from orchestra.engine.tracing import Plan
from orchestra.specs import FlowSpec, TaskSpec, require_importable
from orchestra.store.announcements import Announcement
from orchestra.store.runs import Created, NewRun, Planned

#: First part of what stands for a run in a canvas that was not applied yet.
TOKEN = "canvas:"
#: Bytes of one signature in a message, roughly, and of a message beside its signatures.
_SIGNATURE_BYTES, _MESSAGE_BYTES = 400, 1000
#: A canvas whose messages are larger than this on average is not sent: a message holds all that comes after it, so
#: that their sum grows with the square of a chain's length. The journal alone then announces each step.
LARGEST_MEAN_BYTES = 16 * 1024


def flow_canvas(spec: FlowSpec, parameters: dict[str, Any]) -> Signature:
    """A flow as a canvas, to apply, to embed in another one, or to print. No run exists before it is applied.

    Its first node, `orchestra.enter`, creates a run, each time that the canvas is applied; its last one,
    `orchestra.pass_on`, gives the run's value, or raises its exception.

    Args:
        spec: The flow.
        parameters: By name, defaults included.

    Raises:
        StaticFlowError: The flow's body looks into a result, or does what a canvas cannot hold.
        NotImportable: A worker could not import the flow, or one of its tasks.
        ParameterError: The parameters do not fit.
    """
    require_importable(spec.path, "flow")
    carrying = CeleryCarrier(_app())
    plan = tracing.trace(spec, parameters, router(spec, carrying))
    token = TOKEN + secrets.token_hex(4)
    queue = spec.queue or carrying.route(spec.path)[0] or carrying.default_queue
    drawing = _Drawing(plan, token, carrying.app, queue)
    # Unlike another door, Celery itself goes on behind it.
    options = {"queue": queue, "shadow": f"enter {spec.name}", "ignore_result": True}
    args, kwargs = call_with(spec.fn, parameters)
    enter = doors.signature(spec, args, kwargs, immutable=True, options=options, token=token)
    leave = drawing.signature(PASS_ON_TASK, (token,), f"pass on {spec.name}")
    return drawing.whole(enter, leave)


def router(spec: FlowSpec, carrying: CeleryCarrier, queue: str | None = None) -> tracing.Route:
    """Where a task's messages go: its own queue, else as the app routes it, else where its flow runs.

    Args:
        spec: The flow.
        carrying: By which the app is asked.
        queue: Where the run goes, if that is not as the flow says.
    """
    home = queue or spec.queue or carrying.route(spec.path)[0] or carrying.default_queue

    def route(task: TaskSpec) -> tuple[str, int | None]:
        routed, priority = (None, None) if task.queue else carrying.route(task.routed_as)
        return task.queue or routed or home, task.priority if task.priority is not None else priority

    return route


def _app() -> Celery:
    if (app := doors.app_or_none()) is not None:
        return app
    # Enough to look at a canvas; it cannot be applied.
    app = Celery("orchestra", set_as_current=False)
    app.conf.task_default_queue = "default"
    return app


# -- a static flow's run -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StaticRun:
    """A run of a static flow, planned and not yet written."""

    planned: Planned
    #: None: the journal announces it step by step, as its canvas would be too large, or the app has no chords.
    canvas: Signature | None

    def send(self, created: Created, carrying: CeleryCarrier) -> None:
        """Publish what is owed for a run that has been written; nothing where it was there before."""
        if self.canvas is None or not created.announcements:
            carrying.announce(created.announcements)
        else:
            carrying.send(self.canvas, created.announcements)


def plan_static(spec: FlowSpec, parameters: dict[str, Any], new: NewRun, carrying: CeleryCarrier) -> StaticRun:
    """Plan a run of a static flow, and draw the canvas that carries it.

    Raises:
        StaticFlowError: The flow's body looks into a result, or does what a canvas cannot hold.
        NotImportable: A worker could not import one of its tasks.
        Exception: What the body raises of its own accord.
    """
    route = router(spec, carrying, new.queue)
    plan = tracing.trace(spec, parameters, route, run_id=new.id, run_name=new.name, tags=new.tags)
    drawing = _Drawing(plan, new.id, carrying.app, new.queue)
    # Celery would start all that is ready, however much the flow's task runner lets be in flight.
    if spec.most_in_flight is not None or not drawing.may_be_sent():
        return StaticRun(Planned(plan.steps, plan.outcome, lambda queue: graph.window(carrying.slots(queue))), None)
    # All that is ready goes out at once: no row waits for a window.
    return StaticRun(Planned(plan.steps, plan.outcome, lambda queue: len(plan.steps)), drawing.led())


class Entered:
    """The carrier of a node from which Celery itself goes on: what comes next of its run is in the canvas already.

    What is lost of it, the sweeper announces after a lease.
    """

    def __init__(self, carrier: CeleryCarrier, run_id: str) -> None:
        self._carrier = carrier
        self._run_id = run_id

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Publish what is not in the canvas: other runs, and this run's end."""
        self._carrier.announce([each for each in announcements if each.kind != "step" or each.run_id != self._run_id])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._carrier, name)


# -- drawing -----------------------------------------------------------------------------------------------------


class _Drawing:
    """Makes the signatures of one plan."""

    def __init__(self, plan: Plan, run: str, app: Celery, queue: str) -> None:
        """Draw `plan`.

        Args:
            plan: What the flow will do.
            run: The run's id, or a token of a run to be.
            app: Whose tasks the signatures are.
            queue: Where the flow's own nodes go.
        """
        self.app = app
        self._queue = queue
        self._steps = {step.key: step for step in plan.steps}
        self._parts: Decomposition = decomposition.decompose(plan.nodes)
        # Two ids: Celery goes on from this node. Where the canvas orders more than the graph does, the journal does.
        self._place = (run,) if self._parts.exact else (run, 1)

    def whole(self, first: Signature | None = None, last: Signature | None = None) -> Signature:
        """The canvas of all steps, between two more signatures."""
        behind = [] if last is None else [last]
        if self._parts.tree is not None:
            behind = self._draw(self._parts.tree, behind)
        return self._one([*behind, first] if first is not None else behind)

    def led(self) -> Signature:
        """The canvas with one node at its beginning: a worker sends what follows.

        Celery subscribes to the result of each member of a group that is sent, which is nothing for a client to do.
        """
        if _starts_alone(self._parts.tree):
            return self.whole()
        return self.whole(self.signature(JOIN_TASK, (), "start"))

    def may_be_sent(self) -> bool:
        """Whether the canvas is worth sending: parts come behind others, chords can be done, messages are small."""
        tree = self._parts.tree
        if not isinstance(tree, Series | Parallel) or weight(tree) > LARGEST_MEAN_BYTES * len(self._steps):
            return False
        if isinstance(tree, Parallel) and all(isinstance(part, Leaf) for part in tree.parts):
            # A mere group: as the journal announces it.
            return False
        return not _has_chords(tree) or _can_chord(self.app)

    def signature(self, task: str, args: tuple[Any, ...], shadow: str, queue: str | None = None) -> Signature:
        """A signature that takes nothing from the one before it."""
        return Signature(
            task, args, {}, {"queue": queue or self._queue, "shadow": shadow}, app=self.app, immutable=True
        )

    def _node(self, key: str) -> Signature:
        step = self._steps[key]
        made = self.signature(STEP_TASK, (*self._place, key), step.name, step.queue)
        if step.priority is not None:
            made["options"]["priority"] = step.priority
        return made

    def _draw(self, tree: Tree, behind: list[Signature]) -> list[Signature]:
        """What is to run one after another, last first: the tree, and what is to run behind it."""
        if isinstance(tree, Leaf):
            return [*behind, self._node(tree.key)]
        if isinstance(tree, Series):
            for part in reversed(tree.parts):
                behind = self._draw(part, behind)
            return behind
        if not behind:
            return [group([self._one(self._draw(part, [])) for part in tree.parts], app=self.app)]
        header = [self._one(self._draw(part, self._joint(part))) for part in tree.parts]
        return [chord(group(header, app=self.app), self._one(behind), app=self.app)]

    def _joint(self, part: Tree) -> list[Signature]:
        """An empty node behind a part of a chord's header that would end in a group, for which Celery cannot wait."""
        return [] if _ends_alone(part) else [self.signature(JOIN_TASK, (), "join")]

    def _one(self, backwards: list[Signature]) -> Signature:
        return backwards[0] if len(backwards) == 1 else chain(*reversed(backwards), app=self.app)


def weight(tree: Tree) -> int:
    """The bytes of all messages of a canvas together, roughly."""
    return _weigh(tree, 0)


def _weigh(tree: Tree, behind: int) -> int:
    """As `weight`, where so many signatures come behind, which each message of its end holds too."""
    if isinstance(tree, Leaf):
        return _MESSAGE_BYTES + _SIGNATURE_BYTES * behind
    if isinstance(tree, Parallel):
        return sum(_weigh(part, behind) for part in tree.parts)
    total = 0
    for part in reversed(tree.parts):
        total += _weigh(part, behind)
        behind += sum(1 for _ in decomposition.leaves(part))
    return total


def _starts_alone(tree: Tree | None) -> bool:
    if isinstance(tree, Series):
        return _starts_alone(tree.parts[0])
    return isinstance(tree, Leaf)


def _ends_alone(tree: Tree) -> bool:
    if isinstance(tree, Series):
        return _ends_alone(tree.parts[-1])
    return isinstance(tree, Leaf)


def _has_chords(tree: Tree, *, behind: bool = False) -> bool:
    """Whether anything comes behind parallel parts."""
    if isinstance(tree, Series):
        *rest, last = tree.parts
        return _has_chords(last, behind=behind) or any(_has_chords(part, behind=True) for part in rest)
    return isinstance(tree, Parallel) and (behind or any(_has_chords(part) for part in tree.parts))


def _can_chord(app: Celery) -> bool:
    """Whether the app's result backend can join; without one there are no chords."""
    try:
        app.backend.ensure_chords_allowed()
    except NotImplementedError:
        return False
    return True
