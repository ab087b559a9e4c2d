"""Keeps a worker that only loads out of the way of those that inspect: idle scheduling, or else one core.

Under SCHED_IDLE a process has what nobody else wants: a part that comes displaces it at once, where one of nice 19
keeps its core for the rest of its slice, some milliseconds. Any process may go there; coming back needs RLIMIT_NICE of
20 or more (``LimitNICE=+0`` of a systemd unit) or CAP_SYS_NICE. Without either the loading worker is held to one core,
and its neighbours keep the others.
"""

from __future__ import annotations

import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("edgead.host")

#: RLIMIT_NICE is 20 minus the nice value that may be taken.
_NICE_LIMIT = 20
_CAP_SYS_NICE = 23
#: A thread made while its process is let go inherits what its maker had: looked for again this often.
_ROUNDS = 5


def hold_back(pid: int) -> None:
    """Hold a process that was just started back until ``let_go``; one that is gone already is no error."""
    with suppress(OSError):  # gone, not allowed, or held to other cores from outside: then it loads as it is
        if may_return():
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
            return
        cores = os.sched_getaffinity(0)
        if len(cores) > 1:
            os.sched_setaffinity(pid, {max(cores)})


def let_go(pid: int) -> None:
    """Give every thread of a process normal scheduling and the cores that this process has."""
    cores, done = os.sched_getaffinity(0), set[int]()
    for _ in range(_ROUNDS):
        fresh = _threads(pid) - done
        if not fresh:
            return
        for thread in fresh:
            _release(thread, cores)
        done |= fresh


def may_return() -> bool:
    """Tell whether a lowered priority can be raised again to that of this process."""
    if resource.getrlimit(resource.RLIMIT_NICE)[0] >= _NICE_LIMIT - os.getpriority(os.PRIO_PROCESS, 0):
        return True
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        effective = next(line for line in lines if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) >> _CAP_SYS_NICE & 1)
    return False


def _release(thread: int, cores: set[int]) -> None:
    try:
        if os.sched_getscheduler(thread) == os.SCHED_IDLE:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        if os.sched_getaffinity(thread) != cores:
            os.sched_setaffinity(thread, cores)
    except ProcessLookupError:
        return
    except OSError as error:  # not allowed, or its cores were taken away from outside
        log.warning("worker %d stays held back: %s; allow LimitNICE=+0 (docs/operations.md)", thread, error)


def _threads(pid: int) -> set[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}  # noqa: PTH208 -- /proc, not files
    return set()
