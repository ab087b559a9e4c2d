"""Keeps a worker that only loads out of the way of those that inspect: lowest priority, or else one core.

A process may always lower its priority; getting it back needs RLIMIT_NICE of 20 or more (``LimitNICE=+0`` of a systemd
unit) or CAP_SYS_NICE. Without either the loading worker is held to one core, and its neighbours keep the others.
"""

from __future__ import annotations

import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("edgead.host")

LOWEST = 19
#: RLIMIT_NICE is 20 minus the nice value that may be taken.
_NICE_LIMIT = 20
_CAP_SYS_NICE = 23
#: A thread made while its process is let go inherits what its maker had: looked for again this often.
_ROUNDS = 5


def hold_back(pid: int) -> None:
    """Hold a process that was just started back until ``let_go``; one that is gone already is no error."""
    with suppress(OSError):  # gone, not allowed, or held to other cores from outside: then it loads as it is
        if may_return():
            os.setpriority(os.PRIO_PROCESS, pid, LOWEST)
            return
        cores = os.sched_getaffinity(0)
        if len(cores) > 1:
            os.sched_setaffinity(pid, {max(cores)})


def let_go(pid: int) -> None:
    """Give every thread of a process the priority and the cores that this process has."""
    cores, own, done = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0), set[int]()
    for _ in range(_ROUNDS):
        fresh = _threads(pid) - done
        if not fresh:
            return
        for thread in fresh:
            _release(thread, cores, own)
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


def _release(thread: int, cores: set[int], own: int) -> None:
    try:
        if os.getpriority(os.PRIO_PROCESS, thread) == LOWEST:
            os.setpriority(os.PRIO_PROCESS, thread, own)
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
