"""Pickles: values that typed JSON cannot hold, and exceptions. Bytes are read here only once their signature is right.

An exception is a note (JSON: type, message, traceback) and the pickles of it and its causes, none where it does
not survive pickling.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import cloudpickle

from orchestra import masking
from orchestra.errors import SerializationError, TaskFailed
from orchestra.states import describe
from orchestra.typed_values import from_json, to_json

#: Begins the note under which an exception shows where it was raised first.
TRACEBACK_NOTE = "Raised first here, in a process of its own:"
#: Characters kept of an exception's message, and of its traceback.
_MESSAGE_MAX, _TRACEBACK_MAX = 64 * 1024, 32 * 1024
#: An exception's pickle above this many bytes is not kept; its text is.
_PICKLE_MAX = 1024 * 1024
#: Causes kept of an exception.
_CHAIN_MAX = 8
#: How deep an error message looks for the part that cannot be pickled.
_SEARCH_DEPTH = 20


def dumps(value: Any, what: str) -> bytes:
    """The value as a pickle; functions and classes that cannot be imported go by value.

    Raises:
        SerializationError: Some part cannot be pickled; names its type and place, and the value as `what`.
    """
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except Exception as error:
        raise SerializationError(_explain(value, what, error)) from error
    return pickled


def loads(data: bytes | memoryview) -> Any:
    """The value of a pickle whose signature was checked.

    Raises:
        SerializationError: It needs what is not there, or what it holds fails at loading.
    """
    try:
        return pickle.loads(data)
    except Exception as error:
        raise SerializationError(f"a stored value cannot be read here: {describe(error)}") from error


# -- what cannot be pickled --------------------------------------------------------------------------------------


def _explain(value: Any, what: str, error: Exception) -> str:
    place, part, reason = _culprit(value, "", error)
    found = f"its part {place} is a {_type_name(part)}" if place else "such a value cannot be pickled"
    return (
        f"{what}, a {_type_name(value)}, cannot be serialised: {found} ({describe(reason)}). "
        "Hand on plain data, or what it takes to make such an object again"
    )


def _culprit(value: Any, place: str, error: Exception) -> tuple[str, Any, Exception]:
    """The innermost part that cannot be pickled, where it stands, and why."""
    for _ in range(_SEARCH_DEPTH):
        for step, part in _parts(value):
            if reason := _refusal(part):
                place, value, error = place + step, part, reason
                break
        else:
            break
    return place, value, error


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{_short(key)}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from (("{…}", part) for part in value)
    elif not isinstance(value, type):
        yield from ((f".{name}", part) for name, part in getattr(value, "__dict__", {}).items())


def _refusal(part: Any) -> Exception | None:
    try:
        cloudpickle.dumps(part)
    except Exception as error:
        return error
    return None


def _short(key: Any) -> str:
    try:
        return _cut(repr(key), 60)
    except Exception:
        return _type_name(key)


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… [truncated]"


# -- exceptions --------------------------------------------------------------------------------------------------


def dump_exception(error: BaseException) -> bytes:
    """An exception with its causes and traceback; as text alone where it does not survive pickling."""
    note = to_json(_note(error))
    return b"".join((len(note).to_bytes(4, "big"), note, _dump_chain(error)))


def load_exception(body: bytes | memoryview) -> BaseException:
    """The exception of `dump_exception`; a `TaskFailed` where it could not be pickled, or not be loaded here."""
    note, chain = split_note(body)
    error = _load_chain(chain) if len(chain) else None
    if error is None:
        return TaskFailed(note["type"], note["message"], note["traceback"])
    if note["traceback"] and not _has_traceback_note(error):
        error.add_note(f"{TRACEBACK_NOTE}\n{note['traceback']}")
    return error


def split_note(body: bytes | memoryview) -> tuple[dict[str, str], bytes | memoryview]:
    """The note of an exception, and the rest, which is empty or a pickle.

    Raises:
        ValueError: It is not what `dump_exception` wrote.
    """
    end = 4 + int.from_bytes(body[:4], "big")
    return from_json(body[4:end]), body[end:]


def _note(error: BaseException) -> Mapping[str, str]:
    """What people read of an exception, without secrets; its pickle, which nobody is shown, is what it was."""
    if isinstance(error, TaskFailed):
        return {"type": error.type_name, "message": error.message, "traceback": error.traceback}
    return {"type": _type_name(error), "message": _message(error), "traceback": _traceback(error)}


def _message(error: BaseException) -> str:
    return _cut(masking.mask(_text(error), masking.marked(error)), _MESSAGE_MAX)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<its text cannot be made: {type(broken).__name__}>"


def _traceback(error: BaseException) -> str:
    if error.__traceback__ is None:
        return ""
    try:
        lines = traceback.format_exception(error)
    except Exception as broken:
        return f"<its traceback cannot be made: {type(broken).__name__}>"
    text = masking.mask("".join(lines), masking.marked(error))
    # The end says what was raised and where: cut in the middle of the way there.
    return text if len(text) <= _TRACEBACK_MAX else f"… [truncated]\n{text[-_TRACEBACK_MAX:]}"


def _has_traceback_note(error: BaseException) -> bool:
    return any(str(note).startswith(TRACEBACK_NOTE) for note in getattr(error, "__notes__", ()))


def _dump_chain(error: BaseException) -> bytes:
    """Pickles of an exception and its causes, each with whether the next is its `__cause__`; empty: the first fails."""
    first = _survivor(error)
    if first is None:
        return b""
    links = [(first, error.__cause__ is not None)]
    for link in _causes(error):
        pickled = _survivor(link) or pickle.dumps(TaskFailed(_type_name(link), _message(link)))
        links.append((pickled, link.__cause__ is not None))
    return pickle.dumps(links)


def _causes(error: BaseException) -> Iterator[BaseException]:
    met = {id(error)}
    while len(met) <= _CHAIN_MAX:
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None or id(below) in met:
            return
        yield below
        met.add(id(below))
        error = below


class _Whole:
    """Stands for an exception in its pickle, which makes it again without its `__init__`."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return made_without_init, (type(self._error), *self._error.args), self._error.__dict__


def made_without_init(kind: type[BaseException], *args: Any) -> BaseException:
    """An exception with these `args`; its attributes come after. Named in what is stored: its name must stay."""
    return kind.__new__(kind, *args)


def _survivor(error: BaseException) -> bytes | None:
    """An exception's pickle, if it gives back one of the same type and text."""
    # Loading calls the class with `args`, which is wrong where its `__init__` takes something else than it hands on.
    return _same_again(error, error) or _same_again(error, _Whole(error))


def _same_again(error: BaseException, form: Any) -> bytes | None:
    try:
        pickled: bytes = cloudpickle.dumps(form)
        copy = pickle.loads(pickled)
    except Exception:
        return None
    same = type(copy) is type(error) and _text(copy) == _text(error)
    return pickled if same and len(pickled) <= _PICKLE_MAX else None


def _load_chain(data: bytes | memoryview) -> BaseException | None:
    links = [(_revived(pickled), is_cause) for pickled, is_cause in pickle.loads(data)]
    for (upper, is_cause), (lower, _) in pairwise(links):
        if upper is None or lower is None:
            break
        if is_cause:
            upper.__cause__ = lower
        else:
            upper.__context__ = lower
    return links[0][0]


def _revived(pickled: bytes) -> BaseException | None:
    try:
        found = pickle.loads(pickled)
    except Exception:
        return None  # its class is not importable here; the note tells what it was
    return found if isinstance(found, BaseException) else None
