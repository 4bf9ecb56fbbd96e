"""Where the code of a deployed flow comes from: a folder that is there, or a git repository that workers clone.

A clone is kept under ORCHESTRA_HOME by its commit and never changed, so that runs at work keep their code while the
branch moves on.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestra import clock, settings
from orchestra.errors import ConfigurationError, SourceUnavailable

#: How long git may take, in seconds.
_GIT_TIMEOUT = 300.0
#: For how long this process takes a branch to stand where it was seen last, in seconds.
_SEEN_FOR = 30.0
#: Addresses that git is handed; nothing that begins with `-`, and no `ext::` that would run a command.
_ADDRESS = re.compile(r"(https?|ssh|git|file)://[^\s]+|[\w.-]+@[\w.-]+:[^\s]+")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """Code that is here now, and how a worker gets it."""

    #: `file.py:qualname`: with its whole path here.
    path: str
    #: As a deployment records it: relative to what the pull steps bring, where there are any.
    entrypoint: str
    #: None: the code is there.
    pull_steps: list[Any] | None = None


_seen: dict[tuple[str, str], tuple[float, str]] = {}


def source_of(source: str | os.PathLike[str], entrypoint: str, branch: str | None = None) -> Source:
    """The code at a local folder or in a git repository, which is cloned.

    Args:
        entrypoint: `file.py:qualname`, relative to it.
        branch: Of a repository, or a tag; None: its default one.

    Raises:
        ConfigurationError: It is neither, or the entrypoint has not that form.
        SourceUnavailable: git is not there, or cannot have it.
    """
    file, _, qualname = entrypoint.rpartition(":")
    if not file.endswith(".py") or not qualname or Path(file).is_absolute() or ".." in Path(file).parts:
        raise ConfigurationError(f"entrypoint={entrypoint!r} must read file.py:flow, relative to the source")
    if (folder := Path(source)).is_dir():
        found = f"{folder.resolve() / file}:{qualname}"
        return Source(found, found)
    steps = [{"git_clone": {"repository": str(source), "branch": branch}}]
    return Source(f"{pull(steps) / file}:{qualname}", entrypoint, steps)


def pull(steps: Sequence[Mapping[str, Any]]) -> Path:
    """Carry out the pull steps of a deployment; gives the folder to which its entrypoint is relative.

    `git_clone` (repository, branch) and `set_working_directory` (directory) are known; Prefect's full names are, too.

    Raises:
        ConfigurationError: A step is unknown.
        SourceUnavailable: The code cannot be had.
    """
    folder = Path.cwd()
    for step in steps:
        for name, given in step.items():
            verb = name.rpartition(".")[2]
            if verb == "git_clone":
                folder = _clone(str(given["repository"]), given.get("branch") or "HEAD")
            elif verb == "set_working_directory":
                folder = folder / str(given["directory"])
                if not folder.is_dir():
                    raise SourceUnavailable(str(folder), "there is no such folder on this host")
            else:
                raise ConfigurationError(
                    f"there is no pull step {name!r}: there are git_clone and set_working_directory"
                )
    return folder


def _clone(url: str, branch: str) -> Path:
    if not _ADDRESS.fullmatch(url):
        raise ConfigurationError(
            f"{url!r} is neither a folder here nor the address of a git repository (https://…, ssh://…, user@host:path)"
        )
    if not _REVISION.fullmatch(branch):
        raise ConfigurationError(f"{branch!r} cannot be the name of a branch or tag")
    commit = _commit(url, branch)
    home = settings.current().home_path / "sources"
    target = home / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{commit[:12]}"
    if target.is_dir():
        return target
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=home))
    try:
        _git("init", "--quiet", str(fresh), about=url)
        _git("-C", str(fresh), "fetch", "--quiet", "--depth", "1", "--", url, commit, about=url)
        _git("-C", str(fresh), "checkout", "--quiet", "--detach", "FETCH_HEAD", about=url)
        # Of two processes the second finds it there; a crash before leaves a folder that nobody uses.
        if not target.is_dir():
            fresh.rename(target)
    except OSError as error:
        if not target.is_dir():
            raise SourceUnavailable(url, str(error)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _commit(url: str, branch: str) -> str:
    """The commit at which the branch stands, asked for now and then only."""
    seen_at, commit = _seen.get((url, branch), (0.0, ""))
    if commit and clock.monotonic() - seen_at < _SEEN_FOR:
        return commit
    listed = _git("ls-remote", "--exit-code", "--", url, branch, about=url).split()
    if not listed:
        raise SourceUnavailable(url, f"it has no branch or tag {branch!r}")
    _seen[url, branch] = clock.monotonic(), listed[0]
    return listed[0]


def _git(*arguments: str, about: str) -> str:
    command = ["git", "-c", "protocol.ext.allow=never", *arguments]
    surrounding = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, env=surrounding, capture_output=True, text=True, timeout=_GIT_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceUnavailable(about, str(error)) from error
    if done.returncode:
        raise SourceUnavailable(about, done.stderr.strip() or f"git ended with {done.returncode}")
    return done.stdout
