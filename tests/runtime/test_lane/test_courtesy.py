"""A worker that loads stays out of the others' way, and has its priority and cores back when it inspects."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.lane import courtesy

#: Holds two threads, says so, and waits to be killed.
_THREADS = """
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process of two threads."""
    with subprocess.Popen([sys.executable, "-c", _THREADS], stdout=subprocess.PIPE) as started:
        yield started
        started.kill()


def threads(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the threads of a process, once both are there."""
    assert process.stdout is not None
    process.stdout.readline()
    return [int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()]


@pytest.mark.skipif(not courtesy.may_return(), reason="this user may not raise a priority again")
def test_idle_scheduling_and_back(process):
    """Where a way back is open, every thread runs only when nobody else wants to, and then as we do again."""
    courtesy.hold_back(process.pid)
    assert {os.sched_getscheduler(thread) for thread in threads(process)} == {os.SCHED_IDLE}
    courtesy.let_go(process.pid)
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    assert {os.sched_getscheduler(int(task.name)) for task in tasks} == {os.SCHED_OTHER}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
def test_one_core_and_all_of_them(process, monkeypatch):
    """Where it cannot, every thread is held to one core and gets all of ours back."""
    monkeypatch.setattr(courtesy, "may_return", lambda: False)
    courtesy.hold_back(process.pid)
    tasks = threads(process)
    assert {len(os.sched_getaffinity(thread)) for thread in tasks} == {1}
    courtesy.let_go(process.pid)
    assert all(os.sched_getaffinity(thread) == os.sched_getaffinity(0) for thread in tasks)


def test_a_process_that_is_gone():
    """A worker that died as it was started, or before it was let go, is nobody's trouble."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    courtesy.hold_back(gone.pid)
    courtesy.let_go(gone.pid)


def test_cores_that_were_taken_away(process, monkeypatch):
    """A kernel that does not give the cores asked for costs the worker some speed, and the host nothing."""

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(courtesy, "may_return", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1} if pid == 0 else {0})
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    courtesy.hold_back(process.pid)
    courtesy.let_go(process.pid)
    assert process.poll() is None


def test_the_limit_counts(monkeypatch):
    """RLIMIT_NICE of 20 less our own nice value is enough; less is not, without the capability."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    monkeypatch.setattr(courtesy.Path, "read_text", lambda *_, **__: "CapEff:\t0000000000000000\n")
    for limit, enough in ((20 - own, True), (19 - own, False)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert courtesy.may_return() is enough
    monkeypatch.setattr(courtesy.Path, "read_text", lambda *_, **__: "CapEff:\t0000000000800000\n")
    assert courtesy.may_return()
