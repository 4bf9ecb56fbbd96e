"""Input for flow runs: what a paused run asks of a person, and messages between runs.

Names are Prefect's. A model's JSON schema is kept with the pause, so that an answer is checked before the run goes on,
without the flow's code; then the model itself checks it in the flow's body.
"""

from __future__ import annotations

import copy
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import UnionType
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from orchestra import lazy, serializers
from orchestra.awaitables import Done, in_coroutine
from orchestra.context import flow_run_context, task_run_context
from orchestra.engine import bodies, receiving
from orchestra.engine.branches import current_line
from orchestra.errors import DefinitionError, InputTimeout, InvalidRunInput, MissingContextError, SerializationError
from orchestra.questions import Message, Question, Receive, wait_seconds
from orchestra.results import check_parameters
from orchestra.runners.base import Runner
from orchestra.serializers import clean_text
from orchestra.store import inputs
from orchestra.store.database import database
from orchestra.store.tables import LONGEST_NAME
from orchestra.typed_values import is_importable

T = TypeVar("T")

#: Before the id of the run that sent a message.
SENDER = "orchestra.flow-run."
#: First and longest pause, in seconds, and growth, of a flow body on a worker that looks into another run's messages.
_FIRST_LOOK, _LONGEST_LOOK, _LOOK_GROWTH = 1.0, 30.0, 1.5
_ELSEWHERE = "receive-elsewhere"


class RunInputMetadata(BaseModel):
    """Where an input came from."""

    key: str
    #: `orchestra.flow-run.<id>` where a flow run sent it.
    sender: str | None = None
    #: The id of the flow run that it was given to.
    receiver: str


class RunInput(BaseModel):
    """A model of what a flow run is given, by a person or by another run. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    #: What people are told when they are asked for it.
    _description: ClassVar[str | None] = None
    #: The class that `with_initial_data` was asked of.
    _initial_of: ClassVar[type[RunInput] | None] = None
    _metadata: RunInputMetadata | None = PrivateAttr(default=None)

    @property
    def metadata(self) -> RunInputMetadata:
        """Where it came from.

        Raises:
            MissingContextError: It was made here, and not received.
        """
        if self._metadata is None:
            raise MissingContextError(f"this {type(self).__name__} was not received, so that it has no metadata")
        return self._metadata

    @classmethod
    def with_initial_data(cls, description: str | None = None, **defaults: Any) -> type[Self]:
        """This model with other defaults, which the form begins with; hand it on as `wait_for_input`.

        Args:
            description: What people are told when they are asked for it.
            defaults: By field.

        Raises:
            DefinitionError: There is no such field.
        """
        unknown = sorted(defaults.keys() - cls.model_fields.keys())
        if unknown:
            has = ", ".join(cls.model_fields) or "none"
            raise DefinitionError(f"{cls.__name__} has no field {unknown[0]!r}; its fields: {has}")
        fields: dict[str, Any] = {}
        for name, value in defaults.items():
            info = copy.copy(cls.model_fields[name])
            info.default, info.default_factory = value, None
            fields[name] = (info.annotation, info)
        made = create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, __module__=cls.__module__, **fields)
        made._description = description if description is not None else cls._description
        made._initial_of = cls._initial_of or cls
        return made

    @classmethod
    def receive(
        cls,
        timeout: float | timedelta | None = 3600.0,
        poll_interval: float = 10.0,
        raise_timeout_error: bool = False,
        exclude_keys: set[str] | None = None,
        key_prefix: str | None = None,
        flow_run_id: str | uuid.UUID | None = None,
        with_metadata: bool = False,
    ) -> InputReceiver[Self]:
        """The messages of this type that are sent to a run; see `receive_input`."""
        return InputReceiver(
            cls,
            timeout=timeout,
            raise_timeout_error=raise_timeout_error,
            exclude_keys=exclude_keys,
            key_prefix=key_prefix,
            flow_run_id=flow_run_id,
            with_metadata=with_metadata,
        )

    def send_to(
        self, flow_run_id: str | uuid.UUID, sender: str | None = None, key_prefix: str | None = None
    ) -> Awaitable[None]:
        """Send this to a flow run; see `send_input`."""
        return send_input(self, flow_run_id, sender=sender, key_prefix=key_prefix)

    def respond(self, run_input: Any, sender: str | None = None, key_prefix: str | None = None) -> Awaitable[None]:
        """Send something to the flow run that sent this; see `send_input`.

        Raises:
            MissingContextError: No flow run sent it.
        """
        came_from = self.metadata.sender or ""
        if not came_from.startswith(SENDER):
            raise MissingContextError("this input was not sent by a flow run, so that nobody can be sent a response")
        return send_input(run_input, came_from.removeprefix(SENDER), sender=sender, key_prefix=key_prefix)


class AutomaticRunInput(RunInput, Generic[T]):
    """One value of a type that is no model."""

    value: T


# -- what types become -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """A type as it is asked for: a model, whose only field is `value` where the type is none."""

    model: type[BaseModel]
    wrapped: bool

    @property
    def lasting(self) -> bool:
        """Whether another process can read what is made of an answer."""
        kind = getattr(self.model, "_initial_of", None) or self.model
        return self.wrapped or is_importable(kind, f"{kind.__module__}:{kind.__qualname__}")

    def question(self, key: str | None) -> Question:
        """What a person is told.

        Raises:
            DefinitionError: The type has no JSON schema.
            ValueTooLarge: It is too large to be kept.
        """
        try:
            schema = self.model.model_json_schema()
        except PydanticUserError as error:
            raise DefinitionError(f"{self.model.__name__} cannot be asked for as input: {error}") from error
        asked = Question(key, schema, getattr(self.model, "_description", None), self.wrapped)
        check_parameters(asked.encoded() or b"", what="what the pause asks for")
        return asked

    def read(self, given: Any, what: str, metadata: RunInputMetadata) -> BaseModel:
        """An instance of the model.

        Args:
            given: Plain data, as JSON has it.
            what: What it is, for the error.
            metadata: Where it came from.

        Raises:
            InvalidRunInput: It does not fit; names each field.
        """
        try:
            found = self.model.model_validate_json(to_json(given))
        except ValidationError as error:
            raise InvalidRunInput(what, *map(_sentence, error.errors(include_url=False))) from error
        if isinstance(found, RunInput):
            found._metadata = metadata
        origin = getattr(self.model, "_initial_of", None)
        if origin is not None:
            # Its fields are the same; but no other process could find a class that was made on the way.
            object.__setattr__(found, "__class__", origin)
        return found

    def accept(self, given: Any, *, key: str, flow_run_id: str) -> Any:
        """What the body gets of an answer. Raises as `read`."""
        metadata = RunInputMetadata(key=key, receiver=flow_run_id)
        found = self.read(given, f"the input of flow run {flow_run_id}", metadata)
        return getattr(found, "value") if self.wrapped else found  # noqa: B009 - only wrapped ones have it


@functools.lru_cache(maxsize=256)
def _form_of(kind: Any) -> Form:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return Form(kind, False)
    name = getattr(kind, "__name__", None) or str(kind)
    try:
        model: Any = create_model(f"{name}Input", __base__=AutomaticRunInput[Any], value=(kind, ...))
    except Exception as error:
        raise DefinitionError(f"{kind!r} cannot be asked for as input: {error}") from error
    return Form(model, True)


def form_of(kind: Any) -> Form:
    """How a type is asked for: a pydantic model, or anything that pydantic takes as an annotation.

    Raises:
        DefinitionError: pydantic takes it for none.
    """
    try:
        return _form_of(kind)
    except TypeError as error:
        if isinstance(error, DefinitionError):
            raise
        return _form_of.__wrapped__(kind)  # it has no hash


def _sentence(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    return f"{path!r}: {problem['msg']}" if path else str(problem["msg"])


def _prefixes(kind: Any) -> tuple[str, ...] | None:
    """The key prefixes under which values of a type are sent; None: any."""
    if kind is Any or kind is object:
        return None
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _prefixes(args[0])
    if origin in (Union, UnionType, Literal):
        parts = [_prefixes(type(part) if origin is Literal else part) for part in args]
        return None if None in parts else tuple({prefix: None for part in parts if part for prefix in part})
    name = "NoneType" if kind is None else getattr(origin or kind, "__name__", None)
    if name is None:
        raise DefinitionError(f"values of {kind!r} are sent under the names of their own types: give key_prefix=")
    return (f"{name.lower()}-auto",)


# -- sending -----------------------------------------------------------------------------------------------------


def send_input(
    run_input: Any, flow_run_id: str | uuid.UUID, sender: str | None = None, key_prefix: str | None = None
) -> Awaitable[None]:
    """Send a flow run a value, which it gets by `receive_input`; in a coroutine: `await send_input(…)`.

    Sent from a flow's body on a worker it arrives once, whatever dies; from a task's body once for each time that the
    body runs.

    Args:
        run_input: A `RunInput`, another pydantic model, or a value that pydantic can write as JSON.
        flow_run_id: The run that is to have it.
        sender: Who sends it; else the flow run that runs here.
        key_prefix: By which it is received; else the name of its type.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended.
        SerializationError: The value cannot be written as JSON.
        DefinitionError: The prefix is too long.
    """
    message = _message(run_input, str(flow_run_id), sender, key_prefix)
    if (runner := _body()) is not None:
        runner.send(message)
    else:
        lazy.load("operations").send(database(), message)
    return Done()


def _message(value: Any, receiver: str, sender: str | None, key_prefix: str | None) -> Message:
    here = flow_run_context.get()
    if isinstance(value, AutomaticRunInput):
        value = value.value
    prefix = clean_text(key_prefix or (_prefixes(type(value)) or ("any",))[0])
    if len(prefix) > LONGEST_NAME:
        raise DefinitionError(f"key_prefix= has {len(prefix)} characters; at most {LONGEST_NAME} are kept")
    key = f"{prefix}-{uuid.uuid4()}"
    came_from = sender or (None if here is None else f"{SENDER}{here.run_id}")
    try:
        plain = to_jsonable_python(value, by_alias=True)
    except PydanticSerializationError as error:
        raise SerializationError(f"a {type(value).__name__} cannot be sent as JSON: {error}") from error
    what = f"the input for flow run {receiver}"
    content = serializers.encode({"value": plain, "key": key, "sender": came_from}, what=what)
    return Message(receiver, prefix, key, check_parameters(content, what=what))


# -- receiving ---------------------------------------------------------------------------------------------------


def receive_input(
    input_type: type[T] | Any,
    timeout: float | timedelta | None = 3600.0,
    poll_interval: float = 10.0,
    raise_timeout_error: bool = False,
    exclude_keys: set[str] | None = None,
    key_prefix: str | None = None,
    flow_run_id: str | uuid.UUID | None = None,
    with_metadata: bool = False,
) -> InputReceiver[Any]:
    """The values of a type that are sent to a flow run, as an iterator, for `for` and `async for`; or by `next()`.

    Each is received once, the oldest first. In a flow's body on a worker each is a step: a replay gives the same values
    in the same order, and no slot is held while the run waits.

    Args:
        input_type: A `RunInput`, another pydantic model, or a type that pydantic takes as an annotation.
        timeout: Seconds to wait for each; None: without an end.
        poll_interval: Taken for Prefect's sake; what is sent is noticed sooner.
        raise_timeout_error: Have the iterator raise when none comes in time; else it ends.
        exclude_keys: Keys of messages that are not wanted.
        key_prefix: Only what was sent under this; else under the name of the type.
        flow_run_id: The run whose messages are received; else the one that runs here.
        with_metadata: Give values of types that are no models as objects with `value`, `metadata` and `respond`.
    """
    return InputReceiver(
        input_type,
        timeout=timeout,
        raise_timeout_error=raise_timeout_error,
        exclude_keys=exclude_keys,
        key_prefix=key_prefix,
        flow_run_id=flow_run_id,
        with_metadata=with_metadata,
    )


class InputReceiver(Generic[T]):
    """Gives what is sent to a flow run, one after another."""

    def __init__(
        self,
        input_type: Any,
        *,
        timeout: float | timedelta | None,
        raise_timeout_error: bool,
        exclude_keys: set[str] | None,
        key_prefix: str | None,
        flow_run_id: str | uuid.UUID | None,
        with_metadata: bool,
    ) -> None:
        """As `receive_input`.

        Raises:
            MissingContextError: No flow runs here, and no `flow_run_id` is given.
        """
        here = flow_run_context.get()
        if here is None and flow_run_id is None:
            raise MissingContextError("no flow runs here: say by flow_run_id= whose input is to be received")
        self.flow_run_id = str(flow_run_id) if flow_run_id is not None or here is None else here.run_id
        self.raise_timeout_error = raise_timeout_error
        self._form = form_of(input_type)
        self._with_metadata = with_metadata
        prefixes = _prefixes(input_type) if key_prefix is None else (clean_text(key_prefix),)
        self._wanted = Receive(wait_seconds(timeout), prefixes, tuple(sorted(exclude_keys or ())))

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return self._read(self._receive())
        except InputTimeout:
            if self.raise_timeout_error:
                raise
            raise StopIteration from None

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return self._read(await self._receive_async())
        except InputTimeout:
            if self.raise_timeout_error:
                raise
            raise StopAsyncIteration from None

    def next(self) -> Any:
        """The next value; in a coroutine: `await receiver.next()`.

        Raises:
            InputTimeout: None came in time.
            InvalidRunInput: What came is not of the type; it is not received again.
        """
        return self._next_async() if in_coroutine() else self._read(self._receive())

    async def _next_async(self) -> T:
        return self._read(await self._receive_async())

    def _receive(self) -> Any:
        runner = _body()
        if runner is not None and self._is_own:
            return runner.receive(self._wanted)
        if runner is None or current_line.get() is None:
            return bodies.run_coroutine(self._poll)
        waited, pause = 0.0, _FIRST_LOOK
        while (found := runner.observe(_ELSEWHERE, self._look())) is None:
            runner.sleep(self._until_next_look(waited, pause))
            waited, pause = waited + pause, min(pause * _LOOK_GROWTH, _LONGEST_LOOK)
        return found

    async def _receive_async(self) -> Any:
        runner = _body()
        if runner is not None and self._is_own:
            return await runner.receive_async(self._wanted)
        if runner is None or current_line.get() is None:
            return await self._poll()
        waited, pause = 0.0, _FIRST_LOOK
        while (found := runner.observe(_ELSEWHERE, self._look())) is None:
            await runner.sleep_async(self._until_next_look(waited, pause))
            waited, pause = waited + pause, min(pause * _LOOK_GROWTH, _LONGEST_LOOK)
        return found

    @property
    def _is_own(self) -> bool:
        here = flow_run_context.get()
        return here is not None and here.run_id == self.flow_run_id

    async def _poll(self) -> Any:
        return await receiving.receive(database(), self.flow_run_id, self._wanted, f"call/{uuid.uuid4()}")

    def _look(self) -> Callable[[], Any]:
        """Takes the next message of another run, on a worker: under the name of the step, so that it is taken once."""
        here, line = flow_run_context.get(), current_line.get()
        assert here is not None
        assert line is not None
        taker = f"{here.run_id}/{line.branch.peek(_ELSEWHERE).key}"

        def look() -> Any:
            content = inputs.take(database(), self.flow_run_id, self._wanted, taker)
            return None if content is None else serializers.decode(content)

        return look

    def _until_next_look(self, waited: float, pause: float) -> float:
        left = self._wanted.timeout - waited
        if left <= 0:
            raise InputTimeout(f"flow run {self.flow_run_id} was sent no input within {self._wanted.timeout:g} s")
        return min(pause, left)

    def _read(self, message: dict[str, Any]) -> T:
        metadata = RunInputMetadata(key=message["key"], sender=message["sender"], receiver=self.flow_run_id)
        given = {"value": message["value"]} if self._form.wrapped else message["value"]
        found: Any = self._form.read(given, f"the input {metadata.key!r} of flow run {self.flow_run_id}", metadata)
        value: T = found.value if self._form.wrapped and not self._with_metadata else found
        return value


def _body() -> Runner | None:
    """The runner of the flow body that calls; None in a task's body and outside of runs."""
    here = flow_run_context.get()
    return None if here is None or task_run_context.get() is not None else here.runner
