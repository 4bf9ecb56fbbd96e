"""The key of this installation, and what is signed with it: nothing is loaded that was signed with another."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path

from orchestra import settings
from orchestra.errors import ConfigurationError, ResultCorrupt, SignatureInvalid

#: Bytes of an HMAC-SHA256.
_MAC = 32


def sign(kind: bytes, body: bytes) -> bytes:
    """`kind` (one byte), the HMAC-SHA256 of `body` for that kind, and `body`."""
    return b"".join((kind, hmac.digest(_key_for(kind, secret_key()), body, "sha256"), body))


def verified(data: bytes) -> memoryview:
    """The body of what `sign` made, once its signature is found right.

    Raises:
        ResultCorrupt: There is no room for a signature.
        SignatureInvalid: It was changed, or signed with another key.
    """
    if len(data) < 1 + _MAC:
        raise ResultCorrupt(f"a stored value is cut off: {len(data)} bytes do not hold a signature")
    view = memoryview(data)
    body = view[1 + _MAC :]
    expected = hmac.digest(_key_for(data[:1], secret_key()), body, "sha256")
    if not hmac.compare_digest(expected, view[1 : 1 + _MAC]):
        raise SignatureInvalid(
            "a stored value was not signed with this installation's key, or was changed since; it was not loaded. "
            "Give every process of one database the same ORCHESTRA_SECRET_KEY"
        )
    return body


def seal(kind: bytes, *parts: str) -> str:
    """What proves that these texts, in this order, come from this installation: an HMAC-SHA256, hexadecimal."""
    # Each with its length before it, so that no other texts give the same bytes.
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    body = b"".join(b"%d:" % len(part) + part for part in encoded)
    return hmac.digest(_key_for(kind, secret_key()), body, "sha256").hex()


def is_sealed(given: str, kind: bytes, *parts: str) -> bool:
    """Whether `given` is the `seal` of these texts."""
    return hmac.compare_digest(seal(kind, *parts).encode(), given.encode("utf-8", "surrogatepass"))


def secret_key() -> bytes:
    """The key that signs: of the settings, else of `secret.key` under home, which is made at first need.

    Raises:
        ConfigurationError: The key file cannot be read or made, or is empty.
    """
    current = settings.current()
    return current.secret_key.encode("utf-8", "surrogatepass") or _key_of_home(str(current.home))


def key_fingerprint() -> str:
    """What tells keys apart without giving them away (64 bits of a digest, hexadecimal)."""
    return hashlib.sha256(b"orchestra key fingerprint:" + secret_key()).hexdigest()[:16]


@lru_cache(maxsize=64)
def _key_for(kind: bytes, key: bytes) -> bytes:
    # A key of its own for each kind, so that what was signed as data is never read as a pickle.
    return hmac.digest(key, b"orchestra:" + kind, "sha256")


@lru_cache(maxsize=16)
def _key_of_home(home: str) -> bytes:
    path = settings.current().home / "secret.key"
    try:
        path = settings.current().home_path / "secret.key"
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(
            f"the secret key {str(path)!r} cannot be read or made: {error}; mend that, or set ORCHESTRA_SECRET_KEY"
        ) from error
    if not key:
        raise ConfigurationError(f"the secret key file {str(path)!r} is empty; restore it, or set ORCHESTRA_SECRET_KEY")
    return key


def _make_key(path: Path) -> None:
    """Make the key file, mode 0600; one that another process made first stays."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole or not at all, and never over another process's key.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
