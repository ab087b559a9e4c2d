"""Processes of a trial: started and killed under one name, and what one holds, read from /proc."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from runtime.errors import StationError
from runtime.shell import signals_held_back

_MIB = 1024 * 1024


def resident_mib(pid: int) -> float:
    """Return the memory of a process that lies in RAM, in MiB, pages it shares included; 0 if it has ended."""
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MIB
    return 0.0


def open_files(pid: int) -> int:
    """Return how many file descriptors a process holds; 0 if it has ended."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def folder_mib(folder: Path, prefix: str = "") -> float:
    """Return the size of the files below a folder whose names begin so, in MiB; what goes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):  # leaves out folders that go meanwhile; a glob would raise
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size if name.startswith(prefix) else 0
    return total / _MIB


class Child:
    """One process of the run, started again under the same name."""

    def __init__(self, command: Sequence[str], log: IO[bytes], output: int | None = None) -> None:
        """Prepare it; what it prints goes to ``log``, or where ``output`` says (``subprocess.PIPE``: to ``output``)."""
        self._command, self._log, self._stdout = list(command), log, output
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with signals_held_back():
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._log if self._stdout is None else self._stdout,
                stderr=self._log,
            )

    def signal(self, number: int) -> None:
        """Send a signal, if it lives."""
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it and wait for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()

    @property
    def output(self) -> IO[bytes]:
        """What it prints, where that is a pipe; ``StationError`` before it is started."""
        if self.process is None or self.process.stdout is None:
            raise StationError(f"expected {self._command[:4]} to be started with a pipe, found none")
        return self.process.stdout

    @property
    def status(self) -> int | None:
        """Exit status, None while it runs."""
        return None if self.process is None else self.process.poll()


@contextlib.contextmanager
def stall_meter() -> Iterator[list[float]]:
    """Measure how long this machine keeps a process waiting that wants to run: its longest wait, in milliseconds."""
    worst, stop = [0.0], threading.Event()

    def watch() -> None:
        step_s = 0.005
        while not stop.is_set():
            begun = time.monotonic()
            time.sleep(step_s)
            worst[0] = max(worst[0], (time.monotonic() - begun - step_s) * 1000)

    thread = threading.Thread(target=watch, name="stall-meter", daemon=True)
    thread.start()
    try:
        yield worst
    finally:
        stop.set()
        thread.join()
