"""Carries a publisher's triggers to the station until each is answered: over lost connections and restarts of both.

A trigger that was taken from a PLC is written down before the PLC is told so, and sent again until its receipt comes;
the station knows a repetition by camera, id, part and ``raised_ns`` and inspects once. What it refuses is given
back by ``answers``: its PLC is owed an answer too. The connection is a ``TriggerClient``; added here are the file, the
thread, and another try where the station could not write a trigger down.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

from runtime.client.triggers import TriggerClient
from runtime.errors import ConfigError, StationError, WireError
from runtime.publisher import TriggerAnswer
from runtime.trigger import TriggerHeader
from runtime.wire.header import is_name
from runtime.wire.messages import Receipt, encode_trigger

#: Pause before it is tried again what the station did not take or could not write down.
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
        #: Of those, what the connection does not have yet, and from which monotonic second it shall.
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
        """Write a trigger down and have it sent. ``raised_ns`` None: now, or when the one that waits was raised.

        The same one again changes nothing. Raises ``ConfigError`` for fields a trigger cannot have, ``StationError``
        for another one of a camera and id that wait, if too many wait, or the file cannot be written.
        """
        if not is_name(header.camera):
            raise ConfigError(f"expected a camera's name, found {header.camera[:40]!r}")
        try:
            encode_trigger(header)
        except WireError as error:
            raise ConfigError(f"trigger {header.trigger_id} cannot be sent: {error}") from error
        key = (header.camera, header.trigger_id)
        with self._lock:
            known = self._waiting.get(key)
            if known is not None:
                same = known if header.raised_ns is not None else replace(known, raised_ns=None)
                if header != same:
                    raise StationError(
                        f"expected a trigger_id that does not wait for its result, found {header.trigger_id}, which "
                        f"waits for part {known.part_id!r}: take that one first"
                    )
                return
            if len(self._waiting) >= MOST_WAITING:
                raise StationError(f"{MOST_WAITING} triggers wait for the station already: is `edgead run` up?")
            self._waiting[key] = replace(header, raised_ns=header.raised_ns or time.time_ns())
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
        with TriggerClient(self._address, wake=self._wake, linger_ms=0) as client:
            while not self._stop.is_set():
                self._raise_due(client)
                with contextlib.suppress(WireError):  # not for us to judge: the trigger waits on
                    receipt = client.receive(AGAIN_S)
                    if receipt is not None:
                        self._take_receipt(receipt)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)

    def _raise_due(self, client: TriggerClient) -> None:
        now = time.monotonic()
        with self._lock:
            due = [(key, self._waiting[key]) for key, since in self._due.items() if since <= now]
        for key, header in due:
            try:
                client.raise_trigger(
                    *key, part_id=header.part_id, recipe=header.recipe, deadline_ms=header.deadline_ms,
                    raised_ns=header.raised_ns, simulated=header.simulated,
                )  # fmt: skip
            except StationError:
                return  # the station takes no more: again in a moment
            with self._lock:
                self._due.pop(key, None)

    def _take_receipt(self, receipt: Receipt) -> None:
        if receipt.message != "trigger" or receipt.trigger_id is None:
            return
        key = (receipt.camera, receipt.trigger_id)
        with self._lock:
            if receipt.reason in _PASSING and key in self._waiting:
                self._due[key] = time.monotonic() + AGAIN_S
                return
            if self._waiting.pop(key, None) is None:
                return
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
