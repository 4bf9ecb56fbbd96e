"""What must not be read in log lines and errors: secrets in them are replaced by asterisks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from orchestra import settings

MASK = "********"
#: What is shorter is taken for a word, and stays.
_SHORTEST = 4
#: How deep secrets are looked for in parameters, and in how many values.
_DEEPEST, _MOST_VALUES = 8, 1000
#: Most texts that one process hides.
_MOST_HIDDEN = 10_000
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):([^/@\s]*)@")

#: The longest first, so that one which another one begins with hides nothing of it.
_hidden: tuple[str, ...] = ()
_of_settings: tuple[Any, tuple[str, ...]] = (None, ())


def mask_url(url: str) -> str:
    """A URL without its password; a text in which URLs stand, without their passwords."""
    return _PASSWORD.sub(rf"\1:{MASK}@", url) if "://" in url else url


def hide(*values: str) -> None:
    """Have this process mask these texts in all log lines of runs from now on.

    For secrets that a body fetches itself; those in parameters of type `SecretStr` are masked anyway. One that has less
    than four characters is not masked.
    """
    global _hidden
    _hidden = _by_length({*_hidden, *values})[:_MOST_HIDDEN]


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with asterisks in the place of these secrets, of those that are hidden, and of passwords in URLs."""
    for secret in _by_length({*secrets, *_hidden, *_known()}):
        if secret in text:
            text = text.replace(secret, MASK)
    return mask_url(text)


class Secrets:
    """Secrets as they travel with a log record; nothing that writes the record down shows them."""

    __slots__ = ("values",)

    def __init__(self, values: Iterable[str]) -> None:
        self.values = frozenset(values)

    def __bool__(self) -> bool:
        return bool(self.values)

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> str | tuple[Any, ...]:
        return Secrets, ((),)


#: Where an exception carries the secrets of the run that raised it, within its process.
_OF_ERROR = "__orchestra_secrets__"


def mark(error: BaseException, secrets: Iterable[str]) -> None:
    """Have what is written down of an exception show none of these secrets."""
    # One that takes no attributes shows what it shows.
    with contextlib.suppress(AttributeError, TypeError):
        setattr(error, _OF_ERROR, Secrets({*marked(error), *secrets}))


def marked(error: BaseException) -> frozenset[str]:
    """The secrets that an exception was marked with."""
    found: Secrets | None = getattr(error, _OF_ERROR, None)
    return frozenset() if found is None else found.values


def secrets_in(value: Any) -> set[str]:
    """The secrets in a value: what pydantic's `SecretStr` and its like hold, also within data and models."""
    found: set[str] = set()
    waiting: list[tuple[Any, int]] = [(value, 0)]
    seen = 0
    while waiting and seen < _MOST_VALUES:
        each, depth = waiting.pop()
        seen += 1
        if callable(reveal := getattr(type(each), "get_secret_value", None)):
            found.add(_text(reveal(each)))
        elif depth < _DEEPEST:
            waiting.extend((part, depth + 1) for part in _parts(each))
    return {secret for secret in found if len(secret) >= _SHORTEST}


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, str | bytes | int | float | type(None)):
        return
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, each.name, None) for each in fields(value))
    elif hasattr(type(value), "model_fields"):
        yield from vars(value).values()


def _text(secret: Any) -> str:
    return secret.decode(errors="replace") if isinstance(secret, bytes) else str(secret)


def _known() -> tuple[str, ...]:
    """What the settings say is secret."""
    global _of_settings
    current = settings.current()
    if _of_settings[0] is not current:
        _of_settings = (current, _by_length(settings.secrets()))
    return _of_settings[1]


def _by_length(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True))
