"""Starts a station's publishers, each in a process of its own, and starts again what ends: a thread beside the host.

Nothing of it touches the inspection loop: it starts processes, reads their figures, and is read by ``status``. Life of
a publisher::

    STARTING --first figures--> READY --ended--> DEGRADED --first figures--> READY     STOPPING from every state

Pauses between two starts double up to ``MAX_BACKOFF_S``; one that ran ``HEALTHY_S`` begins anew with the shortest. It
is never given up: a broker or port may come back at any time.
"""

from __future__ import annotations

import logging
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from runtime.errors import ConfigError, StationError
from runtime.lifecycle import State
from runtime.station.config import Station
from runtime.worker.link import Link

log = logging.getLogger("edgead.publishers")

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
HEALTHY_S = 60.0
#: Time a publisher has to end when told so: it hands over what it can, then is killed.
STOP_S = 5.0
_LOOK_S = 0.2


class Child:
    """One publisher's process. ``setup``: what it is told at its start, see ``runtime.publishing.process``."""

    def __init__(self, name: str, setup: Mapping[str, Any]) -> None:
        self.name = name
        self.state = State.STARTING
        self.restarts = 0
        self.last_error = ""
        self.figures: Mapping[str, Any] = {}
        self._setup = dict(setup)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S

    def fileno(self) -> int:
        """Return the descriptor to wait on; -1 while there is no process."""
        return self._link.fileno() if self._link else -1

    def turn(self, now: float) -> None:
        """Start it if it is due, read what it says, bury it if it ended. ``now``: monotonic seconds."""
        if self._process is None:
            if now >= self._start_at:
                self._start(now)
            return
        self._listen()
        code = self._process.poll()
        if code is not None:
            self._listen()  # its last words
            self._bury(now, code)

    def _start(self, now: float) -> None:
        self._started = now
        link, theirs = Link.pair()
        try:
            with theirs:
                link.send(self._setup)
                # -P: a folder named runtime/ in the current directory must not be imported instead of ours.
                command = [sys.executable, "-P", "-m", "runtime.publishing.process", str(theirs.fileno())]
                self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        except OSError as error:  # out of memory, processes or descriptors: the machine may recover
            link.close()
            self.last_error = f"could not be started: {error}"
            self._plan(now)
            return
        self._link = link
        self.last_error, said = "", self.last_error
        log.info("publisher %s: started, pid %d%s", self.name, self._process.pid, f" after {said}" if said else "")

    def _listen(self) -> None:
        try:
            while self._link is not None and (record := self._link.receive()) is not None:
                if record.get("op") == "figures":
                    self.figures, self.state = dict(record["figures"]), State.READY
                elif record.get("op") == "ended":
                    self.last_error = str(record["why"])
        except (EOFError, StationError):
            return  # it ends, or speaks nonsense and will be told apart by its exit

    def _bury(self, now: float, code: int) -> None:
        self.last_error = self.last_error or f"ended with status {code}"
        self._release()
        if code == ConfigError.exit_code:  # it will not heal by itself
            self._backoff_s = MAX_BACKOFF_S
        self._plan(now)
        log.warning("publisher %s: %s; again in %.1f s", self.name, self.last_error, self._start_at - now)

    def _plan(self, now: float) -> None:
        if now - self._started >= HEALTHY_S:
            self._backoff_s = FIRST_BACKOFF_S
        self.state = State.DEGRADED
        self._start_at = now + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        self.restarts += 1

    def dismiss(self) -> None:
        """Ask it to end, without waiting."""
        self.state = State.STOPPING
        if self._link is not None:
            self._link.close()

    def reap(self, give_up: float) -> None:
        """Wait until monotonic second ``give_up``, then kill it."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("publisher %s: did not end, killed", self.name)
                self._process.kill()
                self._process.wait()
        self._release()

    def _release(self) -> None:
        if self._link is not None:
            self._link.close()
        self._process = self._link = None

    def status(self) -> dict[str, Any]:
        """Return what the station's status says of it."""
        return {
            "state": self.state.value,
            "pid": self._process.pid if self._process else None,
            "restarts": self.restarts,
            "last_error": self.last_error,
            "figures": dict(self.figures),
        }


class Publishers:
    """The publishers of one station; use as a context manager. ``base``: folder of the station file."""

    def __init__(self, station: Station, base: Path, builtins: Sequence[str]) -> None:
        setup = {"station": station.model_dump_json(by_alias=True), "base": str(base), "builtins": list(builtins)}
        self._children = [Child(name, {**setup, "name": name}) for name in station.publishers]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publishers", daemon=True)

    def __enter__(self) -> Self:
        if self._children:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End them all together."""
        self._stop.set()
        if self._children:
            self._thread.join()
        for child in self._children:
            child.dismiss()
        give_up = time.monotonic() + STOP_S
        for child in self._children:
            child.reap(give_up)

    def _run(self) -> None:
        while not self._stop.is_set():
            for child in self._children:
                child.turn(time.monotonic())
            watched = [child for child in self._children if child.fileno() >= 0]
            select.select(watched, [], [], _LOOK_S)
            if any(child.state is State.DEGRADED for child in self._children):
                self._stop.wait(_LOOK_S)  # a link at its end is readable for ever

    def status(self) -> dict[str, Any]:
        """Return each publisher's state and figures by name, as `edgead status` shows them."""
        return {child.name: child.status() for child in self._children}
