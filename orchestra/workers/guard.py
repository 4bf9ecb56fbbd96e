"""Stands between a worker and the process of a run, so that nothing that this starts outlives the run or the worker.

A program of its own that loads nothing of orchestra, as it stands beside each process: `python guard.py PARENT WORD…`.
It passes signals by, ends as the program of the words did, and ends what is left of that first: also what has left its
group or its parent. At `KILL` and when the worker dies it kills all of it at once. Elsewhere than on Linux it only ends
as the program does.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

#: Tells it to kill all that it guards.
KILL = signal.SIGUSR2
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ON_LINUX = sys.platform == "linux"


def main(parent: int, words: list[str]) -> NoReturn:
    """Start the program and guard it to its end.

    Args:
        parent: The process that started this one.
        words: The program and its arguments.
    """
    signal.signal(KILL, _kill)
    # A signal to the whole group is for the program. Not ignored, which the program would inherit.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _pass_by)
    _prctl(_PR_SET_PDEATHSIG, KILL)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    me = os.getpid()
    if os.getppid() != parent:
        os._exit(1)
    program = os.fork()
    if program == 0:
        _become(words, me)
    status = _wait_for(program)
    while _children():
        _kill()
        _reap()
    _end_by(status)


def _become(words: list[str], guard: int) -> NoReturn:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        os.write(2, f"{words[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _wait_for(program: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == program:
            return status


def _kill(number: int = 0, frame: FrameType | None = None) -> None:
    for pid in _children():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _reap() -> None:
    try:
        os.wait()
    except ChildProcessError:
        return


def _children() -> list[int]:
    """Its children, and those of its children that have died; dead ones not yet waited for included."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _end_by(status: int) -> NoReturn:
    """End as the program did, by a signal too."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    # Its core was written already, if it was to be.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    os._exit(1)


def _pass_by(number: int, frame: FrameType | None) -> None:
    pass


def _prctl(option: int, value: int) -> None:
    if _ON_LINUX:
        ctypes.CDLL(None).prctl(option, int(value))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
