"""The way out of a station: an answer gets its number, is written down, and only then goes to whoever waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import zmq

from runtime.delivery.server import Deliveries
from runtime.errors import WireError
from runtime.frame import FrameHeader
from runtime.host.ledger_records import LedgerRecords
from runtime.host.publication import Asker, Demand, inspection_of, inspection_of_lost, receipt_of
from runtime.host.records import News, Records
from runtime.host.sockets import Sockets, send
from runtime.inspection import Inspection
from runtime.lane.lane import Answer, Lane
from runtime.wire.event import StationEvent, encode_event
from runtime.wire.header import Buffer
from runtime.wire.messages import Receipt, encode_receipt

log = logging.getLogger("edgead.host")

#: Subscriptions taken before frames and workers are looked at again: a peer may send them without end.
SUBSCRIPTIONS_PER_TURN = 1000
#: An inspection, its result message where it is to be published, and who gets a receipt.
_Outgoing = tuple[Inspection, list[bytes] | None, list[Asker]]
#: An inspection whose evidence is kept, its frame's header, and what is kept, by name.
_Evidence = tuple[Inspection, FrameHeader, dict[str, Buffer]]


class Outlet:
    """One station's. ``answered``: returns who waits for the answer to a trigger, and forgets the trigger."""

    def __init__(self, station: str, run_id: str) -> None:
        #: Whether what comes in now is only answered, not inspected.
        self.is_stopping = False
        self.records = Records()
        self.deliveries: Deliveries | None = None
        self.answered: Callable[[int], Demand]
        self.subscribers = 0
        self._station = station
        self._run_id = run_id
        self._sockets: Sockets
        self._outgoing: list[_Outgoing] = []
        self._evidence: list[_Evidence] = []

    @property
    def waits(self) -> bool:
        """Whether there is something to send at the turn's end."""
        return bool(self._outgoing)

    def open(self, sockets: Sockets) -> None:
        """Send by these sockets from now on."""
        self._sockets = sockets

    def answer_lost(self, records: LedgerRecords, lanes: dict[str, Lane]) -> None:
        """Answer what an earlier run that was killed left open; ``lanes``: by camera, as far as there still are."""
        for waiting in records.left_open():
            inspection = inspection_of_lost(
                waiting, lanes.get(waiting.camera), seq=records.next_seq, station=self._station, run_id=self._run_id
            )
            self._outgoing.append((inspection, records.inspect(waiting.trigger, inspection), []))
        if self._outgoing:
            log.warning("%d triggers were left open by a killed run: answered NotDecidable", len(self._outgoing))

    def take_answers(self, lane: Lane, answers: Iterable[Answer]) -> None:
        """Publish answers as they come."""
        for answer in answers:
            self.take_answer(lane, answer)

    def take_answer(self, lane: Lane, answer: Answer, pixels: memoryview | None = None) -> None:
        """Give an answer its number and record it; it is sent at the turn's end, or now if nothing is written down.

        ``pixels``: the frame's, where the lane has not taken them in.
        """
        records, demand = self.records, self.answered(answer.number)
        inspection = inspection_of(
            lane, answer, seq=records.next_seq, station=self._station, run_id=self._run_id, ahead=demand.ahead
        )
        lane.track.add(inspection)
        parts = records.inspect(answer.number, inspection)
        if records.keeps(inspection):
            frame = lane.pixels(answer) if pixels is None else pixels
            evidence = {"frame": frame, "map": answer.map_payload}
            self._evidence.append((inspection, answer.header, {name: part for name, part in evidence.items() if part}))
        payloads = [part for part in (answer.map_payload, answer.preview) if part]
        self._outgoing.append((inspection, [*parts, *payloads], demand.askers))
        if not records.durable:
            self._send_outgoing()

    def repeat(self, inspection: Inspection, asker: Asker) -> None:
        """Send one more receipt of an inspection published earlier."""
        self._outgoing.append((inspection, None, [asker]))

    def end_turn(self, news: News) -> None:
        """Write down what the turn brought, then send it: a killed host has sent nothing it does not know.

        Evidence comes last, before another frame can take its place in a slot: copying it, and the thread that writes
        it, held up the very results somebody waits for, by half a millisecond.
        """
        now_ns = time.monotonic_ns()
        self.records.note(news)
        if self._outgoing:
            self.records.write(now_ns)
        self._tell(news)
        made = list(self._outgoing) if self.deliveries is not None else []
        self._send_outgoing()
        if self.deliveries is not None:
            self.deliveries.take()
            self._offer(self.deliveries, made)
            self.deliveries.turn(now_ns)
        for inspection, header, payloads in self._evidence:
            self.records.keep(inspection, header, payloads)
        self._evidence.clear()
        self.records.end_turn(now_ns)

    def _tell(self, news: News) -> None:
        """Publish what happened besides, for displays and alarms; the ledger has it too."""
        for kind, detail in news:
            try:
                send(self._sockets.results, encode_event(StationEvent(self._station, kind, time.time_ns(), detail)))
            except WireError as error:
                log.warning("event %s not published: %s", kind, error)

    def _offer(self, deliveries: Deliveries, made: list[_Outgoing]) -> None:
        """Hand what was just committed to the subscribers that have all before it."""
        for inspection, message, _ in made:
            # On a full disk a result goes out live and unwritten; who is owed it gets it from the ledger, later.
            if message is not None and inspection.seq <= self.records.written_seq:
                deliveries.offer(inspection.seq, message[1], message[2] if inspection.map else None)

    def _send_outgoing(self) -> None:
        for inspection, message, askers in self._outgoing:
            if message is not None:
                send(self._sockets.results, message)
            for asker in askers:
                self.send_receipt(asker.identity, receipt_of(inspection, asker))
        self._outgoing.clear()

    def send_receipt(self, identity: bytes, receipt: Receipt) -> None:
        """Tell the camera. A camera that has gone, or does not read, loses its receipts and nothing else."""
        try:
            send(self._sockets.frames, [identity, *encode_receipt(receipt)])
        except zmq.ZMQError as error:
            log.debug("receipt for frame %d of %s not sent: %s", receipt.frame_id, receipt.camera, error)

    def take_subscriptions(self) -> None:
        """Count who subscribes to the live results and who leaves, ``SUBSCRIPTIONS_PER_TURN`` at most."""
        for _ in range(SUBSCRIPTIONS_PER_TURN):
            try:
                message = self._sockets.results.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if message[:1] == b"\x01":
                self.subscribers += 1
            elif message[:1] == b"\x00":
                self.subscribers = max(0, self.subscribers - 1)
