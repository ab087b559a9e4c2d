"""Runs a job in a process of its own and hands over what it reports, so that whatever happens there is a record here.

The job travels as one JSON line on standard input; records come back as JSON lines through a pipe of their own, because
a plugin may print what it likes. The process leads a session of its own and is killed with all it has started.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from runtime.shell import signals_held_back

#: Characters of what the process printed last that go into the reason of its end.
_TAIL = 300
#: Bytes of it that are looked at: a plugin may print for hours.
_READ = 1 << 16
_HANGS = "no end within {:g} s: it hangs, and was ended"


class EndedError(Exception):
    """The process ended, or was ended, before it said that it was done. The text is the reason, a clause."""


def records(
    module: str, job: Mapping[str, Any], *, silence_s: float | None = None, paths: Sequence[Path] = ()
) -> Generator[dict[str, Any], None, None]:
    """Run ``python -m module`` with a job, and yield its records until it has ended with status 0.

    ``silence_s``: longest time between two records before it is killed; None: no limit. ``paths``: folders its imports
    are looked for in first. Raises ``EndedError`` where it ends otherwise. Leaving the loop early kills the process.
    """
    receiving, sending = os.pipe()
    with tempfile.TemporaryFile() as printed:
        process = None
        try:
            with signals_held_back():
                process = _start(module, sending, printed, paths)
            os.close(sending)
            sending = -1
            _hand_over(process, job)
            yield from _read(receiving, silence_s)
            _await_end(process, silence_s)
            if process.returncode:
                raise EndedError(f"the process {_ending(process.returncode)}{_tail(printed)}")
        finally:
            os.close(receiving)
            if sending >= 0:
                os.close(sending)
            if process is not None:
                _end(process)


def serve(run: Callable[[dict[str, Any], Callable[[Mapping[str, Any]], None]], None]) -> None:
    """Be the process: read the job, call ``run(job, report)``. For the ``__main__`` of the module that is run."""
    job = json.loads(sys.stdin.readline())
    with os.fdopen(int(os.environ[_PIPE]), "w", encoding="utf-8") as pipe:

        def report(record: Mapping[str, Any]) -> None:
            pipe.write(json.dumps(record) + "\n")
            pipe.flush()

        run(job, report)


_PIPE = "EDGEAD_REPORT_TO"


def _start(module: str, sending: int, printed: IO[bytes], paths: Sequence[Path]) -> subprocess.Popen[bytes]:
    inherited = os.environ.get("PYTHONPATH")
    found_in = os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])])
    environment = os.environ | {_PIPE: str(sending)} | ({"PYTHONPATH": found_in} if found_in else {})
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module], stdin=subprocess.PIPE, stdout=printed, stderr=printed,
        env=environment, pass_fds=(sending,), start_new_session=True,
    )  # fmt: skip


def _hand_over(process: subprocess.Popen[bytes], job: Mapping[str, Any]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin:  # one that has died already is found by its status
            process.stdin.write(json.dumps(job).encode() + b"\n")


def _read(receiving: int, silence_s: float | None) -> Iterator[dict[str, Any]]:
    """Yield records until the other end is closed."""
    held = b""
    last = time.monotonic()
    while True:
        left = None if silence_s is None else max(0.0, last + silence_s - time.monotonic())
        if not select.select([receiving], [], [], left)[0]:
            raise EndedError(_HANGS.format(silence_s))
        part = os.read(receiving, 1 << 16)
        if not part:
            return
        *lines, held = (held + part).split(b"\n")
        for line in lines:
            last = time.monotonic()
            yield json.loads(line)


def _await_end(process: subprocess.Popen[bytes], silence_s: float | None) -> None:
    """Wait for the end of a process that will say no more: a thread it left behind may keep it for ever."""
    try:
        process.wait(silence_s)
    except subprocess.TimeoutExpired:
        raise EndedError(_HANGS.format(silence_s)) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _ending(status: int) -> str:
    if status > 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


def _tail(printed: IO[bytes]) -> str:
    length = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, length - _READ))
    words = " ".join(printed.read().decode(errors="replace").split())
    return f"; it printed last: {words[-_TAIL:]}" if words else ""
