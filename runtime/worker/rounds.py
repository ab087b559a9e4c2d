"""Whose frame is next in a worker process, and which frames go to the detector together.

One engine serves every lane that came through the door. A round takes at most one record of each lane, from the lane
that was served longest ago first: nobody waits for two frames of another lane, and a lane's own frames stay in order.
Where the engine answers several frames at once, a round takes as many.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Iterator
from typing import Any

import torch

from runtime.engines.engine import Engine
from runtime.engines.selftest import KeptFrame, check_golden
from runtime.inspection import ErrorWord
from runtime.worker.door import Door, Newcomer
from runtime.worker.inspector import FrameChecks, Inspector
from runtime.worker.lifesigns import EngineSigns
from runtime.worker.link import Link, one_line

log = logging.getLogger("edgead.worker")

#: Frames in a row a detector may raise on, or answer with what is no result, before its process ends and the host
#: starts a fresh one: a CUDA fault, for one, stays with the process for good.
MAX_FAILURES = 5
_DETECTOR_FAILED = (ErrorWord.DETECTOR_ERROR, ErrorWord.RESULT_BAD)
#: What the status says once the engine has given up answering several frames at once.
_BATCH_FAILED = "frames go one by one: several at once failed on the line, see the log; the next process tries again"


class Seat:
    """One lane in this process. ``asked``: the record of the frame this round answers."""

    def __init__(self, link: Link, inspector: Inspector) -> None:
        self.link = link
        self.fd = link.fileno()
        self.inspector = inspector
        self.asked: dict[str, Any] = {}


class Rounds:
    """The lanes of one engine. ``ready``: the record that tells a lane it is served.

    ``golden``: the frame that is answered again when the host asks for a self-test, None if the template has none.
    ``wait_ms``: how long a frame may wait for those of other lanes to go with it.
    """

    def __init__(
        self, engine: Engine, golden: KeptFrame | None, door: Door, ready: dict[str, Any], *, wait_ms: float = 0.0
    ) -> None:
        self._engine = engine
        self._golden = golden
        self._door = door
        self._ready = ready
        self._batch = engine.batch
        self._wait_ns = int(wait_ms * 1e6)
        self._signs = EngineSigns()
        self._wanted: dict[str, Any] | None = None
        #: By descriptor of the link; the one served longest ago first.
        self._seats: dict[int, Seat] = {}
        #: The only lane, once nobody else can come: to read is to wait, and nothing is polled.
        self._alone: list[Seat] | None = None
        self._poll = select.poll()
        self._poll.register(door.fileno(), select.POLLIN)
        self._failures = 0
        self._is_unfit = False

    def serve(self) -> None:
        """Answer records until nobody is served and the door is closed, ``MAX_FAILURES`` or a self-test that fails."""
        with torch.inference_mode():  # once for all frames: entering it takes as long as a small graph
            while not self._is_over and not self._is_unfit and self._failures < MAX_FAILURES:
                if round_ := self._gather():
                    self._answer(round_)
        if self._failures >= MAX_FAILURES:
            log.error(
                "the detector failed on %d frames in a row: this process may be poisoned, a fresh one is needed",
                self._failures,
            )

    # --- who is served ------------------------------------------------------------------------------------------

    def admit(self, newcomer: Newcomer) -> None:
        """Serve a lane from now on, and tell it so; one that wants another engine is told that."""
        setup, link = newcomer.setup, newcomer.link
        self._wanted = self._wanted or newcomer.engine
        try:
            if newcomer.engine != self._wanted:
                link.send({"op": "failed", "error": f"expected a lane for {self._wanted}, found {newcomer.engine}"})
                newcomer.close()
                return
            link.send(self._ready)
        except EOFError:
            newcomer.close()
            return
        checks = FrameChecks(setup["exposure"], setup["repeat_limit"], self._signs)
        name = self._engine.detector.name
        inspector = Inspector(newcomer.slots, checks, name, map_encoding=setup["map"], preview=setup["preview"])
        seat = Seat(link, inspector)
        self._seats[seat.fd] = seat
        self._poll.register(seat.fd, select.POLLIN)

    def admit_waiting(self) -> None:
        """Serve every lane that has been handed over by now."""
        try:
            while (newcomer := self._door.take(wait=False)) is not None:
                self.admit(newcomer)
        except EOFError:  # the host takes nobody in here any more
            self._poll.unregister(self._door.fileno())
            self._door.close()
        if self._door.fileno() < 0 and len(self._seats) == 1:
            self._alone = [*self._seats.values()]

    def _leave(self, seat: Seat) -> None:
        self._poll.unregister(seat.fd)
        del self._seats[seat.fd]
        self._alone = None
        seat.link.close()
        seat.inspector.close()

    @property
    def _is_over(self) -> bool:
        """Whether nobody is served and nobody can come: between two lanes a worker waits for the next."""
        return not self._seats and self._door.fileno() < 0

    # --- a round ------------------------------------------------------------------------------------------------

    def _gather(self) -> list[Seat]:
        """Wait for records; return the lanes whose frames are answered next, no more than the engine takes at once."""
        most = self._engine.batch
        round_: list[Seat] = []
        while not round_ and not self._is_over and not self._is_unfit:
            self._take(self._readable(self._poll, None), round_, most)
        if not self._wait_ns:
            return round_
        give_up_ns = time.monotonic_ns() + self._wait_ns
        while 0 < len(round_) < min(most, len(self._seats)):
            left_ms = (give_up_ns - time.monotonic_ns()) / 1e6
            if left_ms <= 0:
                break
            others = select.poll()  # those in the round may have a second frame, for the next
            for fd in [fd for fd, seat in self._seats.items() if seat not in round_]:
                others.register(fd, select.POLLIN)
            self._take(self._readable(others, left_ms), round_, most)
        return round_

    def _readable(self, poll: select.poll, timeout_ms: float | None) -> list[Seat]:
        """Return the lanes that have sent something, the one served longest ago first; lets newcomers in."""
        if self._alone is not None:
            return self._alone
        ready = {fd for fd, _ in poll.poll(timeout_ms)}
        if self._door.fileno() in ready:
            self.admit_waiting()
        return [seat for fd, seat in self._seats.items() if fd in ready]

    def _take(self, seats: list[Seat], round_: list[Seat], most: int) -> None:
        """Read one record of each of ``seats`` until the round is full; what is no frame is answered at once."""
        for seat in seats:
            if len(round_) == most:
                return
            try:
                record = seat.link.receive()
                if record is None:
                    continue
                if record["op"] == "inspect":
                    self._seats[seat.fd] = self._seats.pop(seat.fd)  # served last
                    seat.asked = record
                    round_.append(seat)
                elif record["op"] == "ping":
                    self._sign_of_life(seat, record)
                    return  # its turn is not over: a frame may lie behind
                else:
                    self._leave(seat)
            except EOFError:
                self._leave(seat)

    def _answer(self, round_: list[Seat]) -> None:
        """Answer the round's frames."""
        started = time.monotonic_ns()
        for seat in round_ if self._alone is None else ():
            seat.inspector.mark_begun(begun=True)
        begun = [seat.inspector.begin(seat.asked) for seat in round_]
        images = [image for _, image in begun if image is not None]
        outcomes = iter(self._engine.infer_many(images) if images else ())
        for seat, (answer, image) in zip(round_, begun, strict=True):
            if image is not None:
                seat.inspector.finish(seat.asked, answer, image, next(outcomes))
            answer["detect_us"] = (time.monotonic_ns() - started) // 1000
            if answer.get("error") in _DETECTOR_FAILED:
                self._failures += 1
            elif answer["op"] == "done":
                self._failures = 0
            try:
                seat.link.send(answer)
                seat.inspector.mark_begun(begun=False)
            except EOFError:
                self._leave(seat)
        if self._engine.batch != self._batch:
            self._tell_of_engine()

    def _tell_of_engine(self) -> None:
        """Tell every lane, and those that come, that the engine takes fewer frames at once than it did."""
        self._batch = self._engine.batch
        engine = dict(self._ready["engine"])
        engine["note"] = "; ".join(filter(None, (engine["note"], _BATCH_FAILED)))
        self._ready["engine"] = engine
        tell_all((seat.link for seat in self._seats.values()), {"op": "engine", "engine": engine})

    def _sign_of_life(self, seat: Seat, record: dict[str, Any]) -> None:
        """Answer a ping; where it asks for a self-test, one golden frame is answered first."""
        tests = bool(record["golden"]) and self._golden is not None
        if tests and self._golden is not None:
            try:
                check_golden(self._engine, self._golden, "asked again while idle")
            except Exception as error:  # noqa: BLE001 - the per-detector guard: the host logs it and starts another
                self._is_unfit = True
                # All of them: whichever of their lines the host looks at first says why.
                tell_all((each.link for each in self._seats.values()), {"op": "unfit", "error": one_line(error)})
                return
        seat.link.send({"op": "alive", "golden": tests})


def tell_all(links: Iterator[Link], record: dict[str, Any]) -> None:
    """Send a record to every lane that still listens."""
    for link in links:
        try:
            link.send(record)
        except EOFError:
            continue
