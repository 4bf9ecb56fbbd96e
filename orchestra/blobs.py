"""Files of results in a storage: a folder, or whatever else fsspec has a URL for. Loaded with the first of them.

A file is there whole or not at all: it is written aside and renamed, or, in stores of objects, put in one piece.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import secrets
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from orchestra.errors import ConfigurationError, ResultStorageUnavailable

#: Stores of objects: a put shows all or nothing there, and a rename would be a copy.
_PUTS_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2"})
#: What must be installed besides fsspec, where that is not told by fsspec itself.
_EXTRAS = {"s3": "celery-orchestra[s3]", "s3a": "celery-orchestra[s3]"}


def write(storage: str, path: str, data: bytes) -> None:
    """Write a file, in place of what may be there. Safe to repeat.

    Args:
        storage: A folder, or a URL of fsspec.
        path: Within it, with `/`; folders are made.

    Raises:
        ResultStorageUnavailable: The storage did not take it; there is no part of it.
        ConfigurationError: There is no such kind of storage, or what it needs is not installed.
    """
    fs, place = _opened(storage, path)
    with _told(storage, f"a result of {len(data):,} bytes cannot be written"):
        if isinstance(fs, LocalFileSystem):
            _write_local(place, data)
        elif not _PUTS_WHOLE.isdisjoint([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
            fs.pipe_file(place, data)
        else:
            _write_aside(fs, place, data)


def read(storage: str, path: str) -> bytes | None:
    """The bytes of a file; None where there is none.

    Raises:
        ResultStorageUnavailable: The storage did not answer.
        ConfigurationError: As of `write`.
    """
    fs, place = _opened(storage, path)
    with _told(storage, "a result cannot be read"):
        try:
            data: bytes = fs.cat_file(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return data


def delete(storage: str, path: str) -> None:
    """Delete a file. Safe to repeat.

    Raises:
        ResultStorageUnavailable: The storage did not do so.
        ConfigurationError: As of `write`.
    """
    fs, place = _opened(storage, path)
    with _told(storage, "a result cannot be deleted"), contextlib.suppress(FileNotFoundError):
        fs.rm_file(place)


def resolved(storage: str) -> str:
    """The storage as every process on this host finds it: a folder by its whole path."""
    return storage if "://" in storage else os.path.abspath(os.path.expanduser(storage))


def _opened(storage: str, path: str) -> tuple[Any, str]:
    # Asked for each time: fsspec keeps those of this process, and makes new ones after a fork.
    try:
        fs, root = fsspec.url_to_fs(resolved(storage))
    except (ValueError, ImportError) as error:
        protocol = storage.partition("://")[0]
        extra = _EXTRAS.get(protocol)
        hint = f"`pip install '{extra}'`" if extra else "install what it names, or set a folder or another URL"
        raise ConfigurationError(f"the result storage {shown(storage)!r} cannot be used: {error}; {hint}") from error
    return fs, posixpath.join(root, path)


@contextlib.contextmanager
def _told(storage: str, doing: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, ResultStorageUnavailable):
        raise
    except Exception as error:
        # Whatever it is: each kind of storage has exceptions of its own.
        raise ResultStorageUnavailable(shown(storage), doing, error) from error


def shown(storage: str) -> str:
    """The storage without the password that its URL may have."""
    return re.sub(r"(://[^/@:]*:)[^/@]*@", r"\1***@", storage)


def _write_local(place: str, data: bytes) -> None:
    folder = os.path.dirname(place)
    os.makedirs(folder, exist_ok=True)
    aside = _aside(place)
    try:
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            # The row that refers to it may survive a loss of power: so must it.
            os.fsync(file.fileno())
        os.replace(aside, place)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_aside(fs: Any, place: str, data: bytes) -> None:
    fs.makedirs(posixpath.dirname(place), exist_ok=True)
    aside = _aside(place)
    try:
        fs.pipe_file(aside, data)
        fs.mv(aside, place)
    except BaseException:
        with contextlib.suppress(Exception):
            fs.rm_file(aside)
        raise


def _aside(place: str) -> str:
    # Not made of the file's own name, which may be as long as names may be.
    return posixpath.join(posixpath.dirname(place), f".{secrets.token_hex(8)}.part")
