"""The camera of a run through chaos: it stalls, sends garbage, repeats and reorders, and loses nothing.

``python -P -m runtime.sim.camera ADDRESS SEED TRIGGERS KILLS FILE``. At most ``WINDOW`` parts are on their way: the
rate is the highest the station holds. A part without a receipt for ``RESEND_S`` is sent again, byte for byte, so none
is lost with a killed host. For each part a line goes into FILE as its first receipt comes (``read`` gives them back);
at the end a last one says what else was sent. On stdout it prints how many parts are answered. Parts whose triggers
come ahead are those of ``runtime.sim.announced``, with camera and trigger source of their own.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from runtime.client.triggers import TriggerClient
from runtime.errors import StationError
from runtime.sim import announced
from runtime.sim.announced import AnnouncedParts
from runtime.sim.follower import die_with_parent
from runtime.sim.plan import Plan, draw_plan
from runtime.testing.station import HandCamera
from runtime.wire.messages import Receipt

CAMERA = "top"
WINDOW = 16
RESEND_S = 1.0
#: A station that answers nothing for so long has failed the run.
SILENCE_S = 90.0
#: Another frame of a trigger sent before: its number is the part's beyond this one.
TWICE = 1 << 40
#: How often one sent part comes with garbage, is sent twice, is sent again after later ones, has a second frame of its
#: trigger behind it; and how often, and for how long in seconds, the camera stalls.
_GARBAGE, _TWICE, _AGAIN, _SECOND_FRAME, _STALL, _STALL_S = 0.02, 0.02, 0.02, 0.01, 0.001, 0.6
#: Parts answered that may be sent again.
_KEPT = 64
_TELL_EVERY = 20


@dataclass(frozen=True, slots=True)
class Answered:
    """One part as its camera saw it; times are UTC nanoseconds. ``attempts``: how often it was sent for want of one."""

    number: int
    sent_ns: int
    answered_ns: int
    seq: int
    verdict: int
    error: str
    attempts: int


@dataclass(slots=True)
class _Waiting:
    parts: list[bytes]
    sent_ns: int
    again_at: float
    attempts: int = 1


class ChaosCamera:
    """The camera's side of one plan."""

    def __init__(self, camera: HandCamera, side: HandCamera, triggers: TriggerClient, plan: Plan, out: IO[str]) -> None:
        self.counts: Counter[str] = Counter()
        self._camera, self._plan, self._out = camera, plan, out
        self._announced = AnnouncedParts(triggers, side, plan, self.counts)
        self._rng = np.random.default_rng((plan.seed, 1))
        self._waiting: dict[int, _Waiting] = {}
        self._answers: dict[int, tuple[int, int, str]] = {}
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()
        self._stalls_until = 0.0

    def run(self) -> None:
        """Send every part and wait for every receipt. Raises ``StationError`` after ``SILENCE_S`` without one."""
        heard, told = time.monotonic(), 0
        todo = list(reversed(self._plan.order))
        while todo or self._on_their_way:
            while todo and self._on_their_way < WINDOW and time.monotonic() >= self._stalls_until:
                self._send(todo.pop())
            if self._receive():
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_S:
                lacking = sorted(self._waiting)[:10] + self._announced.named()
                raise StationError(f"no receipt for {SILENCE_S:g} s; parts without one begin with {lacking}")
            self._send_again()
            if len(self._answers) - told >= _TELL_EVERY or not (todo or self._on_their_way):
                told = len(self._answers)
                sys.stdout.write(f"{told}\n")
                sys.stdout.flush()
        self._out.write(" ".join(f"{name}={number}" for name, number in sorted(self.counts.items())) + "\n")

    @property
    def _on_their_way(self) -> int:
        return len(self._waiting) + self._announced.waiting

    # --- sending ------------------------------------------------------------------------------------------------

    def _send(self, number: int) -> None:
        if self._rng.random() < _GARBAGE:
            self._send_garbage(int(self._rng.integers(1, 4)))
        if self._rng.random() < _STALL:
            self.counts["stalls"] += 1
            self._stalls_until = time.monotonic() + self._rng.uniform(0.05, _STALL_S)
        coming = self._plan.parts[number].coming
        if coming is not None:
            self._announced.begin(number, coming)
            return
        parts = self._camera.message(self._plan.image(number), frame_id=number, trigger_id=number)
        self._waiting[number] = _Waiting(parts, time.time_ns(), time.monotonic() + RESEND_S)
        self._camera.send_parts(parts)
        self._misbehave(number, parts)

    def _misbehave(self, number: int, parts: list[bytes]) -> None:
        chance = self._rng.random()
        if chance < _TWICE:
            self.counts["twice"] += 1
            self._camera.send_parts(parts)
        elif chance < _TWICE + _AGAIN and self._kept:
            self.counts["again"] += 1
            self._camera.send_parts(next(iter(self._kept.values())))
        elif chance < _TWICE + _AGAIN + _SECOND_FRAME:
            self.counts["second_frame"] += 1
            image = self._plan.image(number)
            self._camera.send_parts(self._camera.message(image, frame_id=number + TWICE, trigger_id=number))

    def _send_garbage(self, count: int) -> None:
        for _ in range(count):
            self.counts["garbage"] += 1
            self._camera.send_parts(self._garbage())

    def _garbage(self) -> list[bytes]:
        """Return a message no host may take for a frame: cut, flipped, or no message of ours at all."""
        rng, image = self._rng, self._plan.image(0)
        good = self._camera.message(
            image, frame_id=2 * TWICE, trigger_id=2 * TWICE, payload_crc32=zlib.crc32(image.data)
        )
        at = int(rng.integers(len(good)))
        part = bytearray(good[at])
        choice = int(rng.integers(4))
        if choice == 0:
            return [rng.bytes(int(rng.integers(1, 2000))) for _ in range(int(rng.integers(1, 6)))]
        if choice == 1:
            return good[:2] if at == 0 else good[:at]
        if choice == 2:  # noqa: PLR2004 -- one of four
            del part[int(rng.integers(len(part))) :]
        else:
            part[int(rng.integers(len(part)))] ^= 1 << int(rng.integers(8))
        return [*good[:at], bytes(part), *good[at + 1 :]]

    def _send_again(self) -> None:
        now = time.monotonic()
        for waiting in self._waiting.values():
            if now >= waiting.again_at:
                self.counts["resent"] += 1
                waiting.attempts += 1
                waiting.again_at = now + RESEND_S
                self._camera.send_parts(waiting.parts)

    # --- receiving ----------------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Take the receipts that are there; tell whether there was any."""
        heard, wait_s = False, 0.02
        while self._camera.has_receipt(wait_s):
            self._take(self._camera.receipt())
            heard, wait_s = True, 0.0
        for receipt, raised_ns in self._announced.turn():
            self._take_announced(receipt, raised_ns)
            heard = True
        return heard

    def _take(self, receipt: Receipt) -> None:
        number = receipt.frame_id % TWICE
        if not self._compare(number, receipt):
            return
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            self.counts["answered_again"] += 1
            return
        self._write(number, waiting.sent_ns, waiting.attempts)
        self._kept[number] = waiting.parts
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _take_announced(self, receipt: Receipt, raised_ns: int | None) -> None:
        """Take a receipt of the other camera: its part is answered by that of the trigger."""
        number = receipt.frame_id if receipt.trigger_id is None else receipt.trigger_id
        if self._compare(number, receipt) and raised_ns is not None:
            self._write(number, raised_ns, 1)

    def _compare(self, number: int, receipt: Receipt) -> bool:
        """Count a refusal; note an answer that is another than the part's first. Tell whether it is an answer."""
        if not receipt.accepted:
            self.counts[f"refused.{receipt.reason}"] += 1
            return False
        answer = (receipt.seq, int(receipt.verdict), receipt.error.value)
        first = self._answers.setdefault(number, answer)
        if first != answer:
            self.counts["conflicts"] += 1
            self._out.write(f"conflict {number} {first} {answer}\n")
        return True

    def _write(self, number: int, sent_ns: int, attempts: int) -> None:
        line = (number, sent_ns, time.time_ns(), *self._answers[number], attempts)
        self._out.write(" ".join(map(str, line)) + "\n")


def read(path: Path) -> tuple[list[Answered], list[str], Counter[str]]:
    """Return what a camera wrote: answers in order, conflicts between two answers to one part, and its counts."""
    answers, conflicts, counts = [], [], Counter[str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[0] == "conflict":
            conflicts.append(line)
        elif "=" in words[0]:
            counts.update({name: int(number) for name, _, number in (word.partition("=") for word in words)})
        else:
            number, sent_ns, answered_ns, seq, verdict = map(int, words[:5])
            answers.append(Answered(number, sent_ns, answered_ns, seq, verdict, words[5], int(words[6])))
    return answers, conflicts, counts


def main(arguments: Sequence[str]) -> None:
    """Be the camera of a plan until every part is answered."""
    die_with_parent()
    address, seed, triggers, kills, file = arguments
    plan = draw_plan(int(seed), int(triggers), int(kills))
    with (
        Path(file).open("w", encoding="utf-8", buffering=1) as out,
        HandCamera(address, CAMERA) as camera,
        HandCamera(address, announced.CAMERA) as side,
        TriggerClient(address) as triggers_ahead,
    ):
        ChaosCamera(camera, side, triggers_ahead, plan, out).run()


if __name__ == "__main__":
    main(sys.argv[1:])
