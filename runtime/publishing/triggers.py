"""Carries a publisher's triggers to the station until each is answered: over lost connections and restarts of both.

A trigger that was taken from a PLC is written down before the PLC is told so, and sent again until its receipt comes;
the station knows a repetition by camera, id, part and ``raised_ns`` and inspects once. What it refuses is given
back by ``answers``: its PLC is owed an answer too.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Self

import zmq

from runtime.errors import ConfigError, StationError, WireError
from runtime.publisher import TriggerAnswer
from runtime.trigger import TriggerHeader
from runtime.wire.header import is_name
from runtime.wire.messages import decode_receipt, encode_trigger

#: Pause before a trigger without receipt is sent again. Its receipt comes with its result, so this is no hurry.
AGAIN_S = 1.0
#: Triggers that may wait for receipts: more than any PLC raises ahead of its parts.
MOST_WAITING = 256
#: Refusals that pass: the station could not write the trigger down, or is not the one it will be.
_PASSING = frozenset({"unrecorded"})


class TriggerSender:
    """A thread that sends to ``address``; its methods may be called from any. Use as a context manager."""

    def __init__(self, address: str, memory: Path) -> None:
        """Read the triggers an earlier process left unanswered in the file ``memory``."""
        self._address = address
        self._memory = memory
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, int], TriggerHeader] = _read(memory)
        self._due: dict[tuple[str, int], float] = dict.fromkeys(self._waiting, 0.0)
        self._answers: list[TriggerAnswer] = []
        self._stop = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="triggers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    @property
    def waiting(self) -> int:
        """Triggers without a receipt."""
        with self._lock:
            return len(self._waiting)

    def take(self, header: TriggerHeader) -> None:
        """Write a trigger down and have it sent.

        One whose camera and id wait already is that one. Raises ``ConfigError`` for fields a trigger cannot have,
        ``StationError`` if too many wait or the file cannot be written.
        """
        if not is_name(header.camera):
            raise ConfigError(f"expected a camera's name, found {header.camera[:40]!r}")
        try:
            encode_trigger(header)
        except WireError as error:
            raise ConfigError(f"trigger {header.trigger_id} cannot be sent: {error}") from error
        key = (header.camera, header.trigger_id)
        with self._lock:
            if key in self._waiting:
                return
            if len(self._waiting) >= MOST_WAITING:
                raise StationError(f"{MOST_WAITING} triggers wait for the station already: is `edgead run` up?")
            self._waiting[key] = header
            try:
                self._remember()
            except OSError as error:
                del self._waiting[key]
                raise StationError(f"{self._memory}: a trigger cannot be written down: {error}") from error
            self._due[key] = 0.0
        os.eventfd_write(self._wake, 1)

    def answers(self) -> list[TriggerAnswer]:
        """Return what the station said since the last call."""
        with self._lock:
            answers, self._answers = self._answers, []
            return answers

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
            sock.setsockopt(zmq.LINGER, 0)
            sock.setsockopt(zmq.IMMEDIATE, 1)  # to a host that is there, or not at all
            sock.connect(self._address)
            poller = zmq.Poller()
            poller.register(sock, zmq.POLLIN)
            poller.register(self._wake, zmq.POLLIN)
            while not self._stop.is_set():
                self._send_due(sock)
                poller.poll(100 if self.waiting else 1000)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                with contextlib.suppress(zmq.Again):
                    while True:
                        self._take_receipt(sock.recv_multipart(zmq.NOBLOCK))

    def _send_due(self, sock: zmq.Socket[bytes]) -> None:
        now = time.monotonic()
        with self._lock:
            due = [(key, header) for key, header in self._waiting.items() if self._due[key] <= now]
        for key, header in due:
            try:
                sock.send_multipart(encode_trigger(header), zmq.NOBLOCK)
            except zmq.Again:
                return  # nobody is there: again in a moment
            with self._lock:
                self._due[key] = now + AGAIN_S

    def _take_receipt(self, parts: list[bytes]) -> None:
        try:
            receipt = decode_receipt(parts)
        except WireError:
            return  # not for us to judge: the trigger is sent again
        if receipt.message != "trigger" or receipt.trigger_id is None or receipt.reason in _PASSING:
            return
        with self._lock:
            key = (receipt.camera, receipt.trigger_id)
            if self._waiting.pop(key, None) is None:
                return
            self._due.pop(key)
            self._answers.append(TriggerAnswer(*key, receipt.seq, receipt.reason))
            del self._answers[:-MOST_WAITING]  # of a publisher that never asks
            with contextlib.suppress(OSError):  # an answered trigger in the file is answered once more, alike
                self._remember()

    def _remember(self) -> None:
        """Write what waits: not synced, for SIGKILL takes nothing that was written."""
        unfinished = self._memory.with_suffix(".unfinished")
        unfinished.write_text(json.dumps([asdict(header) for header in self._waiting.values()]), encoding="utf-8")
        unfinished.replace(self._memory)


def _read(memory: Path) -> dict[tuple[str, int], TriggerHeader]:
    try:
        found = [TriggerHeader(**each) for each in json.loads(memory.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{memory}: expected triggers an earlier process left, cannot be read: {error}") from error
    return {(header.camera, header.trigger_id): header for header in found}
