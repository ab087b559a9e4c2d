"""The host's side of durable delivery: the outbox's cursors, the connections that read them, one ROUTER. No thread.

The host's turn is: ``take`` what subscribers sent, commit the ledger, ``offer`` each result committed, ``turn``. Rules:

* What is sent is committed; what is acknowledged is forgotten only by the ledger, which commits that first.
* A result goes at once to every subscriber that has all before it; one that is behind reads the ledger, a few rows a
  turn. Whoever does not acknowledge holds its window (``window.py``) and nothing else: no result waits in memory here.
* Acknowledgements reach the ledger once a second: each would cost a commit of its own. What a killed host had not
  written is sent again, and the subscriber tells it by its ``result_id``.
* Maps that are no longer live are read beside this thread (``maps.py``): who wants them waits, and nobody else.
* Trouble with the ledger is kept in the status and tried again with the next heartbeat; it never stops the host.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import zmq

from runtime.delivery.figures import figures
from runtime.delivery.maps import MapOf, MapReads
from runtime.delivery.messages import (
    MAX_CREDIT,
    REASONS,
    REQUEST_PARTS,
    Ack,
    Closed,
    Delivery,
    Gap,
    Heartbeat,
    Notice,
    Refused,
    Start,
    Subscribe,
    Subscribed,
    decode_request,
    encode,
    encode_delivery,
)
from runtime.delivery.router import route
from runtime.delivery.window import MOST_UNANSWERED, Window
from runtime.errors import LedgerError, WireError
from runtime.ledger.outbox import Backlog, Outbox
from runtime.wire.header import Buffer
from runtime.wire.receiver import BoundedReceiver

log = logging.getLogger("edgead.deliveries")

#: Names a host keeps: each may hold ``WINDOW_BYTES`` on its way, 64 MB together, as much as the live view.
MOST_SUBSCRIBERS = 16
#: Time between two heartbeats, and between two hand-overs of acknowledgements to the ledger.
BEAT_NS = 10**9
#: Messages read, and rows sent from the ledger, before the host looks after its cameras again: half a millisecond.
MESSAGES_PER_TURN = 32
ROWS_PER_TURN = 16
#: How soon it is looked again whether maps have been read: a file's time on a quick disk.
MAPS_NS = 2_000_000


class Deliveries:
    """What named subscribers are owed, on its way to them. Used by the ledger's thread; raises nothing of its own."""

    def __init__(self, sock: zmq.Socket[bytes], outbox: Outbox, *, evidence: MapOf | None = None) -> None:
        """Serve ``sock`` (see ``router.open_router``); ``evidence`` gives the maps of results no longer live."""
        self.refused: Counter[str] = Counter()
        self.trouble = ""
        self._logged = ""  # the trouble told last: it comes again with every heartbeat
        self._socket = sock
        self._outbox = outbox
        self._map_reads = None if evidence is None else MapReads(evidence)
        self._messages = BoundedReceiver(sock, 1 + REQUEST_PARTS)
        self._by_name: dict[str, Window] = {}
        self._by_identity: dict[bytes, Window] = {}
        self._behind: dict[str, Window] = {}  # has room, and rows in the ledger; who comes first is served next
        self._unwritten: dict[str, int] = {}  # acknowledgements the ledger has not been given yet
        self._last_seq = 0
        self._beat_ns = self._resume_ns = 0

    # --- the host's turn ----------------------------------------------------------------------------------------

    def take(self) -> None:
        """Take what subscribers have sent, at most ``MESSAGES_PER_TURN`` messages. Never blocks."""
        for _ in range(MESSAGES_PER_TURN):
            message = self._messages.receive()
            if message is None:
                return
            identity, *parts = message
            self._take(identity.bytes, [part.buffer for part in parts])

    def offer(self, seq: int, header: bytes, map_payload: Buffer | None = None) -> None:
        """Send a result just committed to every subscriber that has all before it.

        ``header``: its header part as ``Ledger.inspect`` returned it; ``map_payload``: as published, None without map.
        Results not offered are found in the ledger, within a second.
        """
        self._last_seq = max(self._last_seq, seq)
        messages: dict[bool, list[Buffer]] = {}  # by whether the map is wanted: encoded once for all who do
        for window in tuple(self._by_name.values()):
            if not window.has_room:
                continue  # its next acknowledgement brings it back
            if window.sent != seq - 1 or window.name in self._behind:
                self._behind.setdefault(window.name, window)
                continue
            if window.maps not in messages:
                payload = map_payload if window.maps else None
                messages[window.maps] = encode_delivery(Delivery(seq=seq, historical=False, result=header,
                                                                 map_payload=payload))  # fmt: skip
            self._deliver(window, seq, messages[window.maps], historical=False)

    def turn(self, now_ns: int) -> None:
        """Send what is due, a bounded part of it; ``now_ns``: monotonic nanoseconds. Cheap when nothing is."""
        if self._behind:
            self._catch_up(now_ns)
        if now_ns >= self._beat_ns:
            self._beat_ns = now_ns + BEAT_NS
            self._beat()

    def next_due_ns(self) -> int | None:
        """Return when ``turn`` has something to do (monotonic nanoseconds, 0: now), None: not before ``take``."""
        if self._behind:
            return min(self._resume_ns, self._beat_ns)
        return self._beat_ns if self._by_name or self._unwritten else None

    def close(self) -> None:
        """Give the ledger the last acknowledgements and tell subscribers; to be called before the ledger's close."""
        self._write_acks()
        for window in tuple(self._by_name.values()):
            self._end(window, "stopping")
        if self._map_reads is not None:
            self._map_reads.close()

    def status(self) -> dict[str, Any]:
        """Return ``figures`` by subscriber, connected or not, messages refused by word, and the last trouble."""
        self._write_acks()
        subscribers: dict[str, Any] = {}
        try:
            for name in self._outbox.names():
                subscribers[name] = figures(self._outbox.lag(name), self._by_name.get(name), time.time_ns())
        except LedgerError as error:
            self._note(error)
        return {"subscribers": subscribers, "refused": dict(self.refused), "trouble": self.trouble}

    # --- what subscribers send ----------------------------------------------------------------------------------

    def _take(self, identity: bytes, parts: list[memoryview]) -> None:
        try:
            request = decode_request(parts)
        except WireError as refusal:
            self._refuse(identity, refusal.reason, str(refusal))
            return
        if isinstance(request, Subscribe):
            self._subscribe(identity, request)
            return
        window = self._by_identity.get(identity)
        if window is None:
            self._refuse(identity, "not_subscribed")
            return
        window.unanswered = 0
        if isinstance(request, Ack):
            self._acknowledge(window, request.seq)
        elif not request.forget:
            self._end(window, "left")
        else:
            self._forget(window)

    def _subscribe(self, identity: bytes, request: Subscribe) -> None:
        name, holder = request.name, self._by_name.get(request.name)
        if holder is not None and holder.session == request.session and request.attempt <= holder.attempt:
            return  # from a connection its subscriber has given up already
        self._write_acks()
        try:
            names = self._outbox.names()
            if name not in names and len(names) >= MOST_SUBSCRIBERS:
                self._refuse(identity, "too_many", f"{REASONS['too_many']} ({', '.join(names)})")
                return
            fresh = self._outbox.register(name, from_oldest=request.start is Start.OLDEST)
            lag = self._outbox.lag(name)
        except LedgerError as error:
            self._note(error)
            self._refuse(identity, "unavailable", str(error))
            return
        if holder is not None and holder.identity != identity:
            self._end(holder, "replaced")
        if (former := self._by_identity.get(identity)) is not None:
            self._end(former, "")
        credit = min(request.credit, MAX_CREDIT)
        window = Window(name, identity, request.session, request.attempt, credit, request.maps, lag.acked)
        self._by_name[name] = self._by_identity[identity] = window
        self._last_seq = max(self._last_seq, lag.acked + lag.results)
        answer = Subscribed(name=name, acked=lag.acked, last_seq=self._last_seq, credit=credit, fresh=fresh,
                            heartbeat_ms=BEAT_NS // 10**6)  # fmt: skip
        if self._tell(window, answer) and (lag.gap is not None or lag.results):
            self._behind[name] = window

    def _acknowledge(self, window: Window, seq: int) -> None:
        if seq > window.sent:
            self._refuse(window.identity, "ahead", f"expected an acknowledgement of 0..{window.sent}, found {seq}")
            return
        if window.ack(seq):
            self._unwritten[window.name] = window.acked
        if window.sent < self._last_seq and window.has_room:
            self._behind.setdefault(window.name, window)

    def _forget(self, window: Window) -> None:
        self._unwritten.pop(window.name, None)
        try:
            self._outbox.unregister(window.name)
        except LedgerError as error:
            self._note(error)
            self._refuse(window.identity, "unavailable", str(error))
            return
        self._end(window, "forgotten")

    # --- what they are sent -------------------------------------------------------------------------------------

    def _catch_up(self, now_ns: int) -> None:
        """Send the next subscriber that is behind a few rows from the ledger; then it is the turn of another one."""
        self._resume_ns = 0
        name, window = next(iter(self._behind.items()))
        del self._behind[name]
        try:
            backlog = self._outbox.pending(name, ROWS_PER_TURN, after=window.sent)
        except LedgerError as error:
            self._note(error)
            return
        maps: Mapping[int, bytes | None] = {}
        if window.maps and self._map_reads is not None and backlog.deliveries:
            found = self._map_reads.batch(window, [row.seq for row in backlog.deliveries])
            if found is None:  # they are being read, or another's are
                self._behind[name], self._resume_ns = window, now_ns + MAPS_NS
                return
            maps = found
        before = window.sent
        took = self._send_backlog(window, backlog, maps)
        if took and (maps or before < window.sent) and window.sent < self._last_seq and window.has_room:
            self._behind[name] = window

    def _send_backlog(self, window: Window, backlog: Backlog, maps: Mapping[int, bytes | None]) -> bool:
        """Send a gap and rows while there is room, and maps where they are wanted; False if no more was taken."""
        gap = backlog.gap
        if gap is not None and gap.to_seq > window.gap_to:
            if not self._tell(window, Gap(from_seq=gap.from_seq, to_seq=gap.to_seq)):
                return False
            window.tell_gap(gap.to_seq)
        for row in backlog.deliveries:
            if not window.has_room:
                break
            if row.seq <= window.sent:
                continue
            if maps and row.seq not in maps:
                break  # enough for one batch: the next one has it
            delivery = Delivery(seq=row.seq, historical=True, result=row.header, map_payload=maps.get(row.seq))
            if not self._deliver(window, row.seq, encode_delivery(delivery), historical=True):
                return False
        return True

    def _beat(self) -> None:
        """Hand acknowledgements to the ledger, look there for results not offered and for gaps, and say so."""
        self.trouble = ""
        self._write_acks()
        for name, window in tuple(self._by_name.items()):
            try:
                lag = self._outbox.lag(name)
            except LedgerError as error:
                self._note(error)
                continue
            self._last_seq = max(self._last_seq, lag.acked + lag.results)
            gap = lag.gap is not None and lag.gap.to_seq > window.gap_to
            if (gap or window.sent < self._last_seq) and window.has_room:
                self._behind.setdefault(name, window)
            if window.unanswered < MOST_UNANSWERED:
                window.unanswered += 1
                self._tell(window, Heartbeat(last_seq=self._last_seq, acked=lag.acked))
        self._logged = self.trouble

    def _write_acks(self) -> None:
        """Hand every new acknowledgement to the ledger, whose next commit makes it durable."""
        for name, seq in tuple(self._unwritten.items()):
            try:
                self._outbox.ack(name, seq)
            except LedgerError as error:  # one name's trouble must not keep the others' acknowledgements
                self._note(error)
                continue
            del self._unwritten[name]

    # --- sending ------------------------------------------------------------------------------------------------

    def _deliver(self, window: Window, seq: int, parts: Sequence[Buffer], *, historical: bool) -> bool:
        if not self._send(window.identity, parts):
            return False
        window.send(seq, sum(memoryview(part).nbytes for part in parts), historical=historical)
        return True

    def _tell(self, window: Window, notice: Notice) -> bool:
        return self._send(window.identity, encode(notice))

    def _refuse(self, identity: bytes, reason: str, detail: str = "") -> None:
        self.refused[reason] += 1
        self._send(identity, encode(Refused(reason=reason, detail=detail or REASONS[reason])))

    def _end(self, window: Window, reason: str) -> None:
        """Take a connection's subscription from it; ``reason`` empty: without a word, it has gone or begins anew."""
        for table, key in ((self._by_name, window.name), (self._behind, window.name)):
            if table.get(key) is window:
                del table[key]
        if self._by_identity.get(window.identity) is window:
            del self._by_identity[window.identity]
        if self._map_reads is not None:
            self._map_reads.drop(window)
        if reason:
            self._tell(window, Closed(reason=reason))

    def _send(self, identity: bytes, parts: Sequence[Buffer]) -> bool:
        """Send one message without waiting; False where it went nowhere. A connection that is gone is ended."""
        try:
            route(self._socket, identity, parts)
        except zmq.Again:
            return False  # full, though its window is not: the next heartbeat tries again
        except zmq.ZMQError as error:
            log.debug("a subscriber has gone: %s", error)
            if (window := self._by_identity.get(identity)) is not None:
                self._end(window, "")
            return False
        return True

    def _note(self, error: LedgerError) -> None:
        self.trouble = str(error)
        if self.trouble != self._logged:
            log.warning("deliveries: %s", error)
            self._logged = self.trouble
