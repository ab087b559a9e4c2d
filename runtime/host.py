"""The station's host process: takes frames, hands them to lanes, publishes one inspection each. Never imports torch.

One thread, one poll loop. Sockets: frames (ROUTER, bound; cameras are DEALER), results (XPUB, bound; subscribers are
SUB), status (ROUTER, bound; who asks is REQ). Life: STARTING -> RUNNING -> DRAINING (SIGTERM, Ctrl-C) -> STOPPED. While
draining, frames already taken in are still inspected up to their deadlines and new ones are answered NotDecidable,
stopping.
"""

from __future__ import annotations

import errno
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
from enum import StrEnum
from pathlib import Path
from typing import Any

import zmq

from runtime.config import Station
from runtime.errors import StationError, TemplateError, WireError
from runtime.frame import FrameHeader
from runtime.header import MAX_HEADER_BYTES
from runtime.inspection import Inspection, Verdict
from runtime.lane import Answer, Lane
from runtime.receiver import BoundedReceiver
from runtime.store import Store
from runtime.template import Template
from runtime.wire import Receipt, decode_frame, encode_receipt, encode_result

log = logging.getLogger("edgead.host")

#: Memory for results a subscriber has not read; beyond it libzmq drops for that one only (live view, no archive).
RESULT_BUDGET_BYTES = 64 * 1024 * 1024
LEAST_RESULTS = 16
#: Receipts kept per camera that does not read.
RECEIPT_HIGH_WATER = 1000
#: Parts of a frame message (identity, topic, header, pixels) and of a status request (identity, empty, question).
FRAME_PARTS, STATUS_PARTS = 4, 3
#: Frame messages libzmq may hold for us per camera before the camera's own queue fills.
FRAME_HIGH_WATER = 16
#: Messages taken from the frame socket before workers and deadlines are looked at again.
FRAMES_PER_TURN = 32
#: How long a drained host still answers what had been sent to it: a camera that never pauses must not keep it alive.
LAST_FRAMES_S = 1.0
#: How long a stopped host waits for libzmq to hand out its last results.
LINGER_MS = 1000
_IPC = "ipc://"
#: Flags of a part that others follow and of the last one, as plain integers: zmq's own are slow to combine.
_MORE, _LAST = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)


class HostState(StrEnum):
    """Where the host is in its life; see the module docstring."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Host:
    """One station. ``run`` returns when a signal or ``stop`` ended it and everything is answered."""

    def __init__(self, station: Station, builtins: tuple[str, ...]) -> None:
        """Open the store and check every camera's template; raises ``TemplateError`` if one is missing or damaged."""
        self.station = station
        self.state = HostState.STARTING
        self.run_id = secrets.token_hex(8)
        store = Store(station.store)
        self.lanes = {
            name: Lane(name, camera, station, _sound(store, camera.product, camera.detector), builtins)
            for name, camera in station.cameras.items()
        }
        self.refused: Counter[str] = Counter()
        self.subscribers = 0
        self._seq = 0
        self._started_ns = time.monotonic_ns()
        self._route: dict[int, bytes] = {}  # seq -> identity of the camera connection that waits for the receipt
        self._ipc_files: list[Path] = []
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    def stop(self) -> None:
        """Ask ``run`` to drain and return; safe from a signal handler or another thread."""
        with suppress(OSError):  # it has ended already
            self._wake_writer.send(b"x")

    def run(self) -> None:
        """Bind, serve until stopped, drain, release everything."""
        context = zmq.Context()
        try:
            self._bind(context)
            with _signals(self.stop):
                self._serve()
        finally:
            for lane in self.lanes.values():
                lane.worker.dismiss()
            try:
                for lane in self.lanes.values():  # empty-handed after a drain; not if the loop raised
                    self._publish_all(lane, lane.stop(time.monotonic_ns()))
            finally:
                context.destroy(linger=LINGER_MS)
                for path in self._ipc_files:
                    path.unlink(missing_ok=True)  # libzmq leaves them
                self._wake_reader.close()
                self._wake_writer.close()
                self.state = HostState.STOPPED

    # --- sockets ------------------------------------------------------------------------------------------------

    def _bind(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._frames = context.socket(zmq.ROUTER)
        self._frames.setsockopt(zmq.MAXMSGSIZE, max(self.station.max_frame_bytes, MAX_HEADER_BYTES))
        self._frames.setsockopt(zmq.RCVHWM, FRAME_HIGH_WATER)
        self._frames.setsockopt(zmq.SNDHWM, RECEIPT_HIGH_WATER)
        self._frame_messages = BoundedReceiver(self._frames, FRAME_PARTS)
        self._results = context.socket(zmq.XPUB)
        largest = max(lane.answer_bytes for lane in self.lanes.values())
        self._results.setsockopt(zmq.SNDHWM, min(1000, max(LEAST_RESULTS, RESULT_BUDGET_BYTES // largest)))
        self._results.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._results.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
        # Not REP: libzmq's gets out of step, and blocks its reader, when a peer sends anything but a REQ's message.
        self._status = context.socket(zmq.ROUTER)
        self._status.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
        self._status_messages = BoundedReceiver(self._status, STATUS_PARTS)
        for sock, key in ((self._frames, "frames"), (self._results, "results"), (self._status, "status")):
            address = getattr(self.station, key)
            try:
                _claim_ipc(address)
                sock.bind(address)
                if address.startswith(_IPC):
                    self._ipc_files.append(Path(address.removeprefix(_IPC)))
            except (OSError, zmq.ZMQError) as error:
                raise StationError(
                    f"cannot bind {key}: {address}: {error.strerror}; is another station running? "
                    f"Change `{key}` in the station file"
                ) from error

    # --- the loop -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        poller = zmq.Poller()
        for sock in (self._frames, self._results, self._status):
            poller.register(sock, zmq.POLLIN)
        poller.register(self._wake_reader.fileno(), zmq.POLLIN)
        watched: dict[int, Lane] = {}
        self._advance()
        self.state = HostState.RUNNING
        log.info("station %s: frames %s, results %s", self.station.station, self.station.frames, self.station.results)
        while not (self.state is HostState.DRAINING and self._idle()):
            self._watch_workers(poller, watched)
            ready = dict(poller.poll(self._timeout_ms()))
            if self._wake_reader.fileno() in ready:
                self._wake_reader.recv(64)
                self.state = HostState.DRAINING
                log.info("station %s: draining", self.station.station)
            if self._frames in ready:
                self._take_frames()
            for fd, lane in watched.items():
                if fd in ready:
                    self._publish_all(lane, lane.read_worker(time.monotonic_ns()))
            self._advance()
            if self._results in ready:
                self._take_subscriptions()
            if self._status in ready:
                self._answer_status()
        give_up = time.monotonic() + LAST_FRAMES_S
        while self._take_frames() and time.monotonic() < give_up:
            pass  # what cameras had already sent is answered too, not left in the socket

    def _idle(self) -> bool:
        return all(lane.pipeline.unanswered == 0 for lane in self.lanes.values())

    def _advance(self) -> None:
        now_ns = time.monotonic_ns()
        for lane in self.lanes.values():
            self._publish_all(lane, lane.advance(now_ns))

    def _timeout_ms(self) -> int:
        """Time until the next deadline or restart, in milliseconds, rounded up; at most one second."""
        due = [at for lane in self.lanes.values() if (at := lane.next_due_ns()) is not None]
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
            message = self._frame_messages.receive()
            if message is None:
                return False
            identity, *parts = message
            self._take_frame(identity.bytes, [part.buffer for part in parts])
        return True

    def _take_frame(self, identity: bytes, parts: list[memoryview]) -> None:
        """Decode one message; refuse it with a receipt, or hand it to its lane."""
        header: FrameHeader | None = None
        try:
            header, pixels = decode_frame(parts, max_payload_bytes=self.station.max_frame_bytes)
            lane = self._lane_of(header)
        except WireError as refusal:
            self._refuse(identity, header, refusal)
            return
        self._seq += 1
        now_ns = time.monotonic_ns()
        if self.state is HostState.DRAINING:
            at_once: Answer | None = lane.refuse(header, self._seq, now_ns, time.time_ns())
        else:
            at_once = lane.take(header, pixels, self._seq, now_ns, time.time_ns())
        self._route[self._seq] = identity
        if at_once is not None:
            self._publish_all(lane, [at_once])
        else:
            lane.dispatch(now_ns)  # now: the worker can begin while the host looks for more messages

    def _lane_of(self, header: FrameHeader) -> Lane:
        lane = self.lanes.get(header.camera)
        if lane is None:
            known = ", ".join(self.lanes)
            raise WireError("unknown_camera", f"the station knows {known}, found {header.camera!r}")
        return lane

    def _refuse(self, identity: bytes, header: FrameHeader | None, refusal: WireError) -> None:
        self.refused[refusal.reason] += 1
        log.debug("refused a message: %s", refusal)
        camera, session, frame_id = (header.camera, header.session, header.frame_id) if header else ("", 0, 0)
        self._send_receipt(
            identity, Receipt(camera=camera, session=session, frame_id=frame_id, accepted=False, reason=refusal.reason)
        )

    # --- answers out --------------------------------------------------------------------------------------------

    def _publish_all(self, lane: Lane, answers: Iterable[Answer]) -> None:
        for answer in answers:
            inspection = self._inspection(lane, answer)
            payloads = [part for part in (answer.map_payload, answer.preview) if part]
            _send(self._results, [*encode_result(inspection), *payloads])
            header = answer.header
            receipt = Receipt(
                camera=header.camera,
                session=header.session,
                frame_id=header.frame_id,
                accepted=True,
                seq=answer.number,
                verdict=answer.verdict,
                error=answer.error,
            )
            self._send_receipt(self._route.pop(answer.number), receipt)

    def _inspection(self, lane: Lane, answer: Answer) -> Inspection:
        header, manifest = answer.header, lane.template.manifest
        decided = answer.verdict is not Verdict.NOT_DECIDABLE
        return Inspection(
            result_id=f"{self.run_id}-{answer.number}",
            seq=answer.number,
            station=self.station.station,
            camera=header.camera,
            session=header.session,
            frame_id=header.frame_id,
            verdict=answer.verdict,
            error=answer.error,
            error_detail=answer.detail[:300],
            score=answer.score,
            threshold=lane.thresholds.image if decided else None,
            pixel_threshold=lane.thresholds.pixel if decided else None,
            product=manifest.product,
            detector=manifest.detector.name,
            detector_version=manifest.detector.version,
            template=lane.template.digest,
            frame_height=header.height,
            frame_width=header.width,
            acquired_ns=header.acquired_ns,
            received_ns=answer.received_ns,
            published_ns=time.time_ns(),
            queue_us=answer.queue_us,
            detect_us=answer.detect_us,
            latency_us=(time.monotonic_ns() - answer.admitted_ns) // 1000,
            trigger_id=header.trigger_id,
            part_id=header.part_id,
            source=header.source,
            simulated=header.simulated,
            map=answer.map,
            preview="jpeg" if answer.preview else None,
        )

    def _send_receipt(self, identity: bytes, receipt: Receipt) -> None:
        """Tell the camera. A camera that has gone, or does not read, loses its receipts and nothing else."""
        try:
            _send(self._frames, [identity, *encode_receipt(receipt)])
        except zmq.ZMQError as error:
            log.debug("receipt for frame %d of %s not sent: %s", receipt.frame_id, receipt.camera, error)

    # --- status -------------------------------------------------------------------------------------------------

    def _take_subscriptions(self) -> None:
        while True:
            try:
                message = self._results.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if message[:1] == b"\x01":
                self.subscribers += 1
            elif message[:1] == b"\x00":
                self.subscribers = max(0, self.subscribers - 1)

    def _answer_status(self) -> None:
        message = self._status_messages.receive()
        if message is None:
            return
        identity, *request = (part.bytes for part in message)
        if request and request[0] == b"":  # what a REQ puts before its question
            _send(self._status, [identity, b"", json.dumps(self.status()).encode()])

    def status(self) -> dict[str, Any]:
        """Return what `edgead status --json` prints."""
        lanes = {name: lane.status() for name, lane in self.lanes.items()}
        ready = self.state is HostState.RUNNING and all(lane["worker"] == "ready" for lane in lanes.values())
        return {
            "station": self.station.station,
            "state": self.state.value,
            "ready": ready,
            "run_id": self.run_id,
            "pid": os.getpid(),
            "uptime_s": round((time.monotonic_ns() - self._started_ns) / 1e9, 3),
            "frames_address": self.station.frames,
            "results_address": self.station.results,
            "subscriptions": self.subscribers,
            "frames": sum(lane["frames"] for lane in lanes.values()),
            "inspections": sum(lane["inspections"] for lane in lanes.values()),
            "refused": dict(self.refused),
            "cameras": lanes,
        }


def _send(sock: zmq.Socket[bytes], parts: list[bytes]) -> None:
    """Send one message without waiting. Not ``send_multipart``: it takes three times as long for small parts."""
    for part in parts[:-1]:
        sock.send(part, _MORE)
    sock.send(parts[-1], _LAST)


def _sound(store: Store, product: str, detector: str) -> Template:
    """Return the active template, every byte a station reads proven: a worker could only fail on a damaged one."""
    template = store.active(product, detector)
    if problems := store.verify(template.digest, pool=False):
        raise TemplateError(f"{'; '.join(map(str, problems))}; roll back with `edgead templates rollback {product}`")
    return template


def _claim_ipc(address: str) -> None:
    """Make sure that nobody listens on an ipc address; ``OSError`` if somebody does, or if it cannot be found out.

    libzmq removes whatever is at the path before it binds: it would cut a running station off without a word.
    """
    path = Path(address.removeprefix(_IPC))
    if not address.startswith(_IPC) or not path.exists():
        return
    if not path.is_socket():
        raise OSError(errno.EEXIST, "there is a file of that name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left behind by a killed host
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


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
