"""Doors: flows and tasks as native Celery signatures, for users' own chains, groups, chords and links.

A door's message names a flow or task, sealed, as loading what it names runs code; beside that it carries the arguments,
to which Celery adds the result of the member before. A worker that gets it creates a run (`orchestra.celery.nodes`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from celery import Celery
from celery.canvas import Signature

from orchestra import serializers, signing
from orchestra.celery.apps import ENTER_TASK, current_app
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.context import tags_context
from orchestra.engine import definitions
from orchestra.engine.parameters import bind
from orchestra.errors import NoBroker, SignatureInvalid
from orchestra.specs import FlowSpec, TaskSpec, require_importable
from orchestra.store.tables import encode_tags

#: The argument of a door's message that says what stands behind it.
DOOR = "__orchestra__"
#: The one key of what stands for a value that plain JSON cannot say.
_VALUE = "__orchestra_value__"
#: Kind of what is sealed.
_SEAL = b"c"


@dataclass(frozen=True, slots=True)
class Door:
    """What a door leads to."""

    #: "flow" or "task".
    kind: str
    path: str
    #: The encoded options that differ from those of what stands at `path`, as text.
    options: str = ""
    #: Of a flow's own canvas: its steps come behind, as messages of the same canvas.
    token: str = ""
    #: The tags in force where the signature was made, as a JSON list; empty: none.
    tags: str = ""

    @classmethod
    def to(cls, spec: FlowSpec | TaskSpec, token: str = "") -> Door:
        """The door to a flow or task.

        Raises:
            NotImportable: A worker could not import it.
            SerializationError: An option of it cannot be encoded.
        """
        kind = "flow" if isinstance(spec, FlowSpec) else "task"
        require_importable(spec.path, kind)
        options = (definitions.encoded_options(spec) or b"").decode("latin-1")
        return cls(kind, spec.path, options, token, encode_tags(tags_context.get()) or "")

    def sealed(self) -> dict[str, str]:
        """As a message carries it."""
        return {**asdict(self), "seal": signing.seal(_SEAL, *self._parts())}

    @classmethod
    def opened(cls, given: Any) -> Door:
        """What a message leads to.

        Raises:
            SignatureInvalid: Nobody with this installation's key made it, or it was changed since.
        """
        parts = dict(given) if isinstance(given, Mapping) else {}
        seal = parts.pop("seal", "")
        known = {each.name for each in fields(cls)}
        if set(parts) <= known and {"kind", "path"} <= set(parts) and all(isinstance(p, str) for p in parts.values()):
            door = cls(**parts)
            if isinstance(seal, str) and signing.is_sealed(seal, _SEAL, *door._parts()):
                return door
        raise SignatureInvalid(
            f"the message that starts {parts.get('kind')} {parts.get('path')!r} was not signed with this "
            "installation's key, or was changed since; its code was not loaded. Give whoever makes such signatures the "
            "ORCHESTRA_SECRET_KEY of the workers, or share their ORCHESTRA_HOME/secret.key"
        )

    def load(self) -> FlowSpec | TaskSpec:
        """What it leads to.

        Raises:
            DefinitionNotFound: The code is not on this worker.
        """
        options = self.options.encode("latin-1") or None
        if self.kind == "flow":
            return definitions.load_flow(self.path, options=options)
        return definitions.load_task(self.path, options)

    def tag_names(self) -> list[str]:
        """The tags that its run has, beside those of the flow or task itself."""
        return list(json.loads(self.tags)) if self.tags else []

    def _parts(self) -> tuple[str, ...]:
        return self.kind, self.path, self.options, self.token, self.tags


def signature(
    spec: FlowSpec | TaskSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    immutable: bool = False,
    options: Mapping[str, Any] | None = None,
    token: str = "",
) -> Signature:
    """A flow or task as a native Celery signature.

    Args:
        spec: The flow or task.
        args: Positional arguments; Celery puts the result of the member before in front of them, unless `immutable`.
        kwargs: Arguments by name.
        immutable: Takes nothing from the member before.
        options: As Celery's, such as `queue`, `countdown`, `link`.
        token: Of a flow's own canvas.

    Raises:
        NotImportable: A worker could not import it.
        ParameterBindError: It is immutable, and the arguments do not fit.
        SerializationError: An argument cannot be encoded.
    """
    door = Door.to(spec, token)
    if immutable:
        bind(spec.fn, tuple(args), dict(kwargs))
    app = app_or_none()
    return Signature(
        ENTER_TASK,
        tuple(_packed(value) for value in args),
        {name: _packed(value) for name, value in kwargs.items()} | {DOOR: door.sealed()},
        # Arguments are not for logs and monitors.
        {"shadow": spec.name, "argsrepr": "…", "kwargsrepr": "…", **_where(spec, app), **(options or {})},
        app=app,
        immutable=immutable,
    )


def arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a door's message. The signature of what JSON cannot say is checked before it is loaded.

    Raises:
        SerializationError: One cannot be read here.
    """
    return tuple(_unpacked(value) for value in args), {name: _unpacked(value) for name, value in kwargs.items()}


def app_or_none() -> Celery | None:
    """The app in use; None: what is made can be looked at, and is applied through Celery's current app."""
    try:
        return current_app()
    except NoBroker:
        return None


def _where(spec: FlowSpec | TaskSpec, app: Celery | None) -> dict[str, Any]:
    """Queue and priority of a door's message: the decorator's, else as the app routes the flow or task by its name."""
    routed: tuple[str | None, int | None] = (None, None)
    if app is not None:
        routed = CeleryCarrier(app).route(spec.routed_as)
    chosen = {"queue": spec.queue or routed[0], "priority": routed[1] if spec.priority is None else spec.priority}
    return {name: value for name, value in chosen.items() if value is not None}


def _packed(value: Any) -> Any:
    """What Celery's JSON gives back equal, as it is; else our own encoding, signed where loading it could run code."""
    encoded = serializers.encode(value, what="an argument of a signature")
    return value if serializers.is_json(encoded) else {_VALUE: encoded.decode("latin-1")}


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {_VALUE} and isinstance(value[_VALUE], str):
        return serializers.decode(value[_VALUE].encode("latin-1"))
    return value
