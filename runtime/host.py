"""The station's host process: takes frames, hands them to lanes, publishes one inspection each. Never imports torch.

One thread, one poll loop; each turn takes frames and answers, writes them down (``runtime.records``), then sends
results and receipts. Its state follows from its workers' (``runtime.lifecycle``) until SIGTERM or Ctrl-C makes it
STOPPING: then it drains, frames already taken in are still inspected up to their deadlines and new ones are answered
NotDecidable, stopping. It tells systemd how it is (``runtime.notify``).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import zmq

from runtime.config import Station
from runtime.delivery.maps import stored_maps
from runtime.delivery.server import Deliveries
from runtime.errors import TemplateError, WireError
from runtime.frame import FrameHeader
from runtime.inspection import ErrorWord, Inspection
from runtime.lane import Answer, Lane
from runtime.ledger import Outbox, Reader
from runtime.ledger.records import Earlier
from runtime.ledger_records import LedgerRecords
from runtime.lifecycle import State, station_state
from runtime.notify import Notifier
from runtime.publication import Asker, inspection_of, inspection_of_lost, receipt_of, refusal_of
from runtime.records import Records
from runtime.sockets import Sockets, send
from runtime.store import Store
from runtime.template import Template
from runtime.wire import Receipt, decode_frame, decode_inspection, encode_receipt

log = logging.getLogger("edgead.host")

#: Messages taken from the frame socket before workers and deadlines are looked at again.
FRAMES_PER_TURN = 32
#: How long a drained host still answers what had been sent to it: a camera that never pauses must not keep it alive.
LAST_FRAMES_S = 1.0
#: How long a stopped host waits for libzmq to hand out its last results.
LINGER_MS = 1000


#: An inspection, its result message where it is to be published, and who gets a receipt.
_Outgoing = tuple[Inspection, list[bytes] | None, list[Asker]]


class Host:
    """One station. ``run`` returns when a signal or ``stop`` ended it and everything is answered."""

    def __init__(self, station: Station, builtins: tuple[str, ...]) -> None:
        """Open the store and check every camera's template; raises ``TemplateError`` if one is missing or damaged."""
        self.station = station
        self.run_id = secrets.token_hex(8)
        store = Store(station.store)
        self.lanes = {
            name: Lane(name, camera, station, _sound(store, camera.product, camera.detector), builtins)
            for name, camera in station.cameras.items()
        }
        self.refused: Counter[str] = Counter()
        self.subscribers = 0
        self._started_ns = time.monotonic_ns()
        self._is_stopping = False
        self._notifier = Notifier()
        self._records = Records()
        self._askers: dict[int, list[Asker]] = {}  # trigger -> who waits for a receipt
        self._outgoing: list[_Outgoing] = []
        self._deliveries: Deliveries | None = None
        self._evidence: Reader | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    @property
    def state(self) -> State:
        """Where the station is in its life."""
        if self._is_stopping:
            return State.STOPPING
        return station_state([lane.worker.state for lane in self.lanes.values()])

    def stop(self) -> None:
        """Ask ``run`` to drain and return; safe from a signal handler or another thread."""
        with suppress(OSError):  # it has ended already
            self._wake_writer.send(b"x")

    def run(self) -> None:
        """Bind, open the ledger, serve until stopped, drain, release everything.

        Raises ``StationError`` for an address that cannot be bound, ``LedgerError`` for a ledger that cannot be used.
        """
        context = zmq.Context()
        sockets: Sockets | None = None
        self._notifier = Notifier.from_environment()
        try:
            largest = max(lane.answer_bytes for lane in self.lanes.values())
            self._sockets = sockets = Sockets(context, self.station, largest)
            self._open_records()
            with _signals(self.stop):
                self._serve()
        finally:
            self._is_stopping = True
            for lane in self.lanes.values():
                lane.worker.dismiss()
            try:
                for lane in self.lanes.values():  # empty-handed after a drain; not if the loop raised
                    self._take_answers(lane, lane.stop(time.monotonic_ns()))
                self._end_turn()
            finally:
                if self._deliveries is not None:
                    self._deliveries.close()
                    self._deliveries = None  # a status asked for afterwards must not read a closed ledger
                if self._evidence is not None:
                    self._evidence.close()
                self._records.close()
                context.destroy(linger=LINGER_MS)
                if sockets:
                    sockets.unlink()
                self._wake_reader.close()
                self._wake_writer.close()
                self._notifier.close()

    def _open_records(self) -> None:
        """Take up the ledger, and answer what an earlier run that was killed left open."""
        if self.station.ledger is None:
            return
        records = LedgerRecords(self.station.ledger, self.station.station, self.run_id)
        self._records = records
        records.note_in_use(self.lanes.values())
        for waiting in records.left_open():
            inspection = inspection_of_lost(
                waiting,
                self.lanes.get(waiting.camera),
                seq=records.next_seq,
                station=self.station.station,
                run_id=self.run_id,
            )
            self._outgoing.append((inspection, records.inspect(waiting.trigger, inspection), []))
        if self._sockets.deliveries is not None:
            self._evidence = Reader(self.station.ledger.file)
            maps = stored_maps(self._evidence, self.station.ledger.evidence_folder)
            self._deliveries = Deliveries(self._sockets.deliveries, Outbox(records.ledger), evidence=maps)
        if self._outgoing:
            log.warning("%d triggers were left open by a killed run: answered NotDecidable", len(self._outgoing))
        self._end_turn()

    # --- the loop -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        poller = zmq.Poller()
        sockets = self._sockets
        for sock in sockets.bound.values():
            poller.register(sock, zmq.POLLIN)
        poller.register(self._wake_reader.fileno(), zmq.POLLIN)
        watched: dict[int, Lane] = {}
        self._advance()
        log.info("station %s: frames %s, results %s", self.station.station, self.station.frames, self.station.results)
        while not (self._is_stopping and self._idle()):
            self._watch_workers(poller, watched)
            ready = dict(poller.poll(self._timeout_ms()))
            if self._wake_reader.fileno() in ready:
                self._wake_reader.recv(64)
                self._is_stopping = True
                self._notifier.stopping()
                log.info("station %s: draining", self.station.station)
            if sockets.frames in ready:
                self._take_frames()
            for fd, lane in watched.items():
                if fd in ready:
                    self._take_answers(lane, lane.read_worker(time.monotonic_ns()))
            self._advance()
            self._end_turn()
            self._notifier.turn(time.monotonic_ns(), self._outlook)
            if sockets.results in ready:
                self._take_subscriptions()
            if sockets.status in ready:
                self._answer_status()
            self._records.clean(time.monotonic_ns(), quiet=not ready)
        give_up = time.monotonic() + LAST_FRAMES_S
        while self._take_frames() and time.monotonic() < give_up:
            self._end_turn()  # what cameras had already sent is answered too, not left in the socket

    def _idle(self) -> bool:
        return all(lane.pipeline.unanswered == 0 for lane in self.lanes.values())

    def _advance(self) -> None:
        now_ns = time.monotonic_ns()
        for lane in self.lanes.values():
            self._take_answers(lane, lane.advance(now_ns))

    def _timeout_ms(self) -> int:
        """Time until the next deadline, restart or sign of life, in milliseconds, rounded up; at most one second."""
        asked = [*(lane.next_due_ns() for lane in self.lanes.values()), self._records.next_due_ns()]
        if self._deliveries is not None:
            asked.append(self._deliveries.next_due_ns())
        due = [at for at in (*asked, self._notifier.next_due_ns()) if at is not None]
        if not due:
            return 1000
        return min(1000, max(0, -(-(min(due) - time.monotonic_ns()) // 1_000_000)))

    def _watch_workers(self, poller: zmq.Poller, watched: dict[int, Lane]) -> None:
        """Keep the poller in step with the workers that live now."""
        current = {lane.worker.link.fileno(): lane for lane in self.lanes.values() if lane.worker.link is not None}
        if current == watched:  # lanes too: two workers that died together may come back with their numbers swapped
            return
        for fd in watched.keys() - current.keys():
            poller.unregister(fd)
        for fd in current.keys() - watched.keys():
            poller.register(fd, zmq.POLLIN)
        watched.clear()
        watched.update(current)

    # --- frames in ----------------------------------------------------------------------------------------------

    def _take_frames(self) -> bool:
        """Take what has arrived, at most ``FRAMES_PER_TURN`` messages; False when nothing is left."""
        for _ in range(FRAMES_PER_TURN):
            message = self._sockets.frame_messages.receive()
            if message is None:
                return False
            identity, *parts = message
            self._take_frame(identity.bytes, [part.buffer for part in parts])
        return True

    def _take_frame(self, identity: bytes, parts: list[memoryview]) -> None:
        """Decode one message; refuse it with a receipt, answer it as before, or hand it to its lane."""
        header: FrameHeader | None = None
        received_ns = time.time_ns()
        try:
            header, pixels = decode_frame(parts, max_payload_bytes=self.station.max_frame_bytes)
            lane = self._lane_of(header)
            number = self._records.admit(header, received_ns, lane.camera.deadline_ms)
            asker = Asker(identity, header.session, header.frame_id, header.acquired_ns)
            if isinstance(number, Earlier):
                self._answer_again(number, asker)
                return
        except WireError as refusal:
            self._refuse(identity, header, refusal)
            return
        self._askers[number] = [asker]
        now_ns = time.monotonic_ns()
        if self._is_stopping:
            at_once: Answer | None = lane.refuse(header, number, now_ns, received_ns)
        else:
            at_once = lane.take(header, pixels, number, now_ns, received_ns)
        if at_once is not None:
            self._take_answer(lane, at_once, pixels)
        else:
            lane.dispatch(now_ns)  # now: the worker can begin while the host looks for more messages

    def _answer_again(self, earlier: Earlier, asker: Asker) -> None:
        """Give a frame that repeats an earlier one the first one's answer, now or when there is one.

        Raises ``WireError`` for another frame under a name used before: the old answer is not about this part.
        """
        if earlier.header is None:
            first = self._askers[earlier.trigger][0]
            _expect_same(asker, first.session, first.frame_id, first.acquired_ns)
            self._askers[earlier.trigger].append(asker)
            return
        inspection = decode_inspection(earlier.header)
        if inspection.error is not ErrorWord.HOST_LOST:  # of that frame nothing is known but its name
            _expect_same(asker, inspection.session, inspection.frame_id, inspection.acquired_ns)
        self._outgoing.append((inspection, None, [asker]))

    def _lane_of(self, header: FrameHeader) -> Lane:
        lane = self.lanes.get(header.camera)
        if lane is None:
            known = ", ".join(self.lanes)
            raise WireError("unknown_camera", f"the station knows {known}, found {header.camera!r}")
        return lane

    def _refuse(self, identity: bytes, header: FrameHeader | None, refusal: WireError) -> None:
        self.refused[refusal.reason] += 1
        self._records.refuse(refusal.reason)
        log.debug("refused a message: %s", refusal)
        self._send_receipt(identity, refusal_of(header, refusal.reason))

    # --- answers out --------------------------------------------------------------------------------------------

    def _take_answers(self, lane: Lane, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self._take_answer(lane, answer)

    def _take_answer(self, lane: Lane, answer: Answer, pixels: memoryview | None = None) -> None:
        """Give an answer its number and record it; it is sent at the turn's end, or now if nothing is written down."""
        records = self._records
        inspection = inspection_of(lane, answer, seq=records.next_seq, station=self.station.station, run_id=self.run_id)
        parts = records.inspect(answer.number, inspection)
        if records.keeps(inspection):
            frame = lane.pixels(answer) if pixels is None else pixels
            evidence = {"frame": frame, "map": answer.map_payload}
            records.keep(inspection, answer.header, {name: part for name, part in evidence.items() if part})
        payloads = [part for part in (answer.map_payload, answer.preview) if part]
        self._outgoing.append((inspection, [*parts, *payloads], self._askers.pop(answer.number)))
        if not records.durable:
            self._send_outgoing()

    def _end_turn(self) -> None:
        """Write down what the turn brought, then send it: a killed host has sent nothing it does not know."""
        now_ns = time.monotonic_ns()
        if self._deliveries is not None:
            self._deliveries.take()  # what is acknowledged is committed with the rest
        self._records.end_turn(now_ns, self.lanes.values(), results=bool(self._outgoing))
        made = list(self._outgoing) if self._deliveries is not None else []
        self._send_outgoing()
        if self._deliveries is not None:
            self._offer(self._deliveries, made)
            self._deliveries.turn(now_ns)

    def _offer(self, deliveries: Deliveries, made: list[_Outgoing]) -> None:
        """Hand what was just committed to the subscribers that have all before it."""
        for inspection, message, _ in made:
            # On a full disk a result goes out live and unwritten; who is owed it gets it from the ledger, later.
            if message is not None and inspection.seq <= self._records.written_seq:
                deliveries.offer(inspection.seq, message[1], message[2] if inspection.map else None)

    def _send_outgoing(self) -> None:
        for inspection, message, askers in self._outgoing:
            if message is not None:
                send(self._sockets.results, message)
            for asker in askers:
                self._send_receipt(asker.identity, receipt_of(inspection, asker))
        self._outgoing.clear()

    def _send_receipt(self, identity: bytes, receipt: Receipt) -> None:
        """Tell the camera. A camera that has gone, or does not read, loses its receipts and nothing else."""
        try:
            send(self._sockets.frames, [identity, *encode_receipt(receipt)])
        except zmq.ZMQError as error:
            log.debug("receipt for frame %d of %s not sent: %s", receipt.frame_id, receipt.camera, error)

    # --- status -------------------------------------------------------------------------------------------------

    def _take_subscriptions(self) -> None:
        while True:
            try:
                message = self._sockets.results.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if message[:1] == b"\x01":
                self.subscribers += 1
            elif message[:1] == b"\x00":
                self.subscribers = max(0, self.subscribers - 1)

    def _answer_status(self) -> None:
        message = self._sockets.status_messages.receive()
        if message is None:
            return
        identity, *request = (part.bytes for part in message)
        if request and request[0] == b"":  # what a REQ puts before its question
            send(self._sockets.status, [identity, b"", json.dumps(self.status()).encode()])

    def _outlook(self) -> tuple[State, str]:
        """Return state and one line for the service manager: which cameras are not inspected, and why."""
        state, workers = self.state, {name: lane.worker for name, lane in self.lanes.items()}
        trouble = [
            f"{name} {worker.state} ({worker.last_error or 'loading'})"
            for name, worker in workers.items()
            if worker.state is not State.READY
        ]
        return state, f"{state}: {'; '.join(trouble) or f'{len(workers)} of {len(workers)} cameras are inspected'}"

    def status(self) -> dict[str, Any]:
        """Return what `edgead status --json` prints."""
        lanes = {name: lane.status() for name, lane in self.lanes.items()}
        state = self.state
        return {
            "station": self.station.station,
            "state": state.value,
            "ready": state is State.READY,
            "run_id": self.run_id,
            "pid": os.getpid(),
            "uptime_s": round((time.monotonic_ns() - self._started_ns) / 1e9, 3),
            "frames_address": self.station.frames,
            "results_address": self.station.results,
            "subscriptions": self.subscribers,
            "frames": sum(lane["frames"] for lane in lanes.values()),
            "inspections": sum(lane["inspections"] for lane in lanes.values()),
            "refused": dict(self.refused),
            "ledger": self._records.status(),
            "deliveries": self._deliveries.status() if self._deliveries is not None else None,
            "cameras": lanes,
        }


def _expect_same(asker: Asker, session: int, frame_id: int, acquired_ns: int) -> None:
    """Refuse a frame that has an earlier one's name but was acquired at another time; a repeated trigger may differ."""
    same_name = (asker.session, asker.frame_id) == (session, frame_id)
    if same_name and asker.acquired_ns != acquired_ns:
        raise WireError(
            "frame_reused",
            f"frame {frame_id} of session {session} was acquired at {acquired_ns}, expected it sent again, found "
            f"another one of {asker.acquired_ns}: a camera that starts anew needs a new session",
        )


def _sound(store: Store, product: str, detector: str) -> Template:
    """Return the active template, every byte a station reads proven: a worker could only fail on a damaged one."""
    template = store.active(product, detector)
    if problems := store.verify(template.digest, pool=False):
        raise TemplateError(f"{'; '.join(map(str, problems))}; roll back with `edgead templates rollback {product}`")
    return template


@contextmanager
def _signals(stop: Any) -> Iterator[None]:
    """Let SIGTERM and SIGINT drain the host, where this is the main thread (elsewhere signals are not ours)."""
    try:
        before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
