"""A station of this machine's own, in processes of its own: for the demo, the benchmarks and system tests."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from runtime.client.subscriber import ask_status
from runtime.errors import StationError
from runtime.shell import signals_held_back

#: A worker imports torch and loads a template before it is ready.
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0


def free_addresses(count: int) -> list[str]:
    """Return loopback TCP addresses nobody uses at the moment."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextlib.contextmanager
def running_host(
    command: Sequence[str],
    status_address: str,
    log: Path,
    reached: Callable[[dict[str, Any]], bool] = lambda status: bool(status["ready"]),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a host, lend it once ``reached(status)``, then drain it with SIGTERM (SIGKILL if that does not help).

    ``reached`` waits for every worker to be ready unless told otherwise. Raises ``StationError`` as ``wait_until``.
    """
    with log.open("wb") as stream, child(command, stream) as process:
        try:
            wait_until(status_address, reached, process, log)
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def child(command: Sequence[str], output: IO[bytes] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process, lend it, and kill it at the end if it still runs. ``output`` takes what it prints."""
    process = None
    try:
        with signals_held_back():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        yield process
    finally:
        if process is not None:
            process.kill()
            process.wait()


def wait_until(
    status_address: str,
    reached: Callable[[dict[str, Any]], bool],
    process: subprocess.Popen[bytes],
    log: Path,
    timeout_s: float = READY_TIMEOUT_S,
) -> dict[str, Any]:
    """Ask for the status until ``reached(status)``, and return it.

    Raises ``StationError`` with the log's end if the host ends or ``timeout_s`` pass.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StationError(f"the host ended with status {process.returncode}: {_tail(log)}")
        with contextlib.suppress(StationError):
            status = ask_status(status_address, 0.5)
            if reached(status):
                return status
        time.sleep(0.05)
    raise StationError(f"the station was not ready after {timeout_s:g} s: {_tail(log)}")


def edgead_command(*arguments: str) -> list[str]:
    """Return the command line of this installation's `edgead`, safe in a folder with modules of the same names."""
    return [sys.executable, "-P", "-m", "edgead", *arguments]


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join(lines[-5:]) or "it printed nothing"
