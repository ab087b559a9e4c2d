"""One publisher's process, as the thread beside the host sees it: started, listened to, ended, started again.

Life of a publisher::

    STARTING --first figures--> READY --ended--> DEGRADED --first figures--> READY     STOPPING from every state

Pauses between two starts double up to ``MAX_BACKOFF_S``; one that ran ``HEALTHY_S`` begins anew with the shortest. It
is never given up: a broker or port may come back at any time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from runtime.errors import ConfigError, StationError
from runtime.lifecycle import State
from runtime.worker.link import Link

log = logging.getLogger("edgead.publishers")

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
HEALTHY_S = 60.0
#: Time a publisher has to end when told so: it hands over what it can, then is killed.
STOP_S = 5.0


class Child:
    """One publisher's process. ``setup``: what it is told at its start, see ``runtime.publishing.process``."""

    def __init__(self, name: str, setup: Mapping[str, Any]) -> None:
        self.name = name
        self.state = State.STARTING
        self.restarts = 0
        self.last_error = ""
        self.figures: Mapping[str, Any] = {}
        #: Taken out of the station file; ``is_gone`` once its process has ended.
        self.is_leaving = False
        self._setup = dict(setup)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._give_up: float | None = None  # when it is killed, if it was told to end
        self._backoff_s = FIRST_BACKOFF_S

    @property
    def is_gone(self) -> bool:
        """Whether it has left."""
        return self.is_leaving and self._process is None

    def fileno(self) -> int:
        """Return the descriptor to wait on; -1 while there is no process that speaks."""
        return self._link.fileno() if self._link else -1

    def turn(self, now: float) -> None:
        """Start it if it is due, read what it says, bury it if it ended. ``now``: monotonic seconds."""
        if self._process is None:
            if now >= self._start_at and not self.is_leaving:
                self._start(now)
            return
        if self._give_up is not None:
            self._await_end(self._process, now, self._give_up)
            return
        self._listen()
        code = self._process.poll()
        if code is not None:
            self._listen()  # its last words
            self._bury(now, code)

    def change(self, setup: Mapping[str, Any], now: float) -> None:
        """Have it run with another setup: a process that runs is told to end first, for it holds its port."""
        self._setup = dict(setup)
        self.is_leaving = False
        self._start_at, self._backoff_s = 0.0, FIRST_BACKOFF_S
        self._end(now)
        self.state = State.STARTING

    def leave(self, now: float) -> None:
        """Have it end for good."""
        self.is_leaving = True
        self._end(now)
        self.state = State.STOPPING

    def tell_checksum(self, setup: Mapping[str, Any]) -> None:
        """Tell the process that the station file has another checksum; the next one starts with all of ``setup``."""
        self._setup = dict(setup)
        if self._link is not None:
            with contextlib.suppress(EOFError):
                self._link.send({"op": "checksum", "config_crc32": setup["config_crc32"]})

    def _end(self, now: float) -> None:
        if self._process is not None and self._give_up is None:
            self._give_up = now + STOP_S
            self._hang_up()

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _await_end(self, process: subprocess.Popen[bytes], now: float, give_up: float) -> None:
        if process.poll() is None:
            if now < give_up:
                return
            log.warning("publisher %s: did not end, killed", self.name)
            process.kill()
            process.wait()
        self._release()

    def _start(self, now: float) -> None:
        self._started = now
        link, theirs = Link.pair()
        try:
            # A file without a name: a station file may be larger than a packet.
            with theirs, open(os.memfd_create("setup"), "w+b") as setup:  # noqa: PTH123 - a descriptor
                setup.write(json.dumps(self._setup).encode())
                setup.flush()
                setup.seek(0)
                ends = theirs.fileno(), setup.fileno()
                # -P: a folder named runtime/ in the current directory must not be imported instead of ours.
                command = [sys.executable, "-P", "-m", "runtime.publishing.process", *map(str, ends)]
                self._process = subprocess.Popen(command, pass_fds=ends, stdin=subprocess.DEVNULL)
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
        self._hang_up()

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
        self._hang_up()
        self._process = self._give_up = None

    def status(self) -> dict[str, Any]:
        """Return what the station's status says of it."""
        return {
            "state": self.state.value,
            "pid": self._process.pid if self._process else None,
            "restarts": self.restarts,
            "last_error": self.last_error,
            "figures": dict(self.figures),
        }
