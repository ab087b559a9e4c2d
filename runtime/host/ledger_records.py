"""Writes the host's work to the ledger: what ``runtime.host.records`` numbers, and more.

Rules:

* What a turn brought is committed at its end if results wait to be sent, else within ``pace.COMMIT_NS``: a worker that
  answers at once costs one transaction, and a killed host never forgets a frame older than that.
* Trouble with the disk never stops inspection. It is logged once, shown by ``status``, and tried again; on a full disk
  the oldest evidence makes room. Only when ``writer.MOST_UNWRITTEN`` records wait is a frame refused at the door.
* Old records and evidence go in small steps, in turns in which nothing else was to be done.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from runtime.errors import LedgerError, WireError
from runtime.frame import FrameHeader
from runtime.host.pace import Pace
from runtime.host.records import News, Records
from runtime.host.repeats import raised_before
from runtime.host.upkeep import Upkeep
from runtime.inspection import Inspection
from runtime.lane.lane import Lane
from runtime.ledger import Event, FrameKey, Ledger, LedgerFull
from runtime.ledger.evidence_writer import DISK_ERROR, DISK_FULL, EvidenceWriter
from runtime.ledger.records import Earlier, OpenTrigger, Unread
from runtime.ledger.writer import DUPLICATE, MOST_UNWRITTEN
from runtime.station.config import Ledger as LedgerSettings
from runtime.trigger import TriggerHeader
from runtime.wire.header import Buffer
from runtime.wire.messages import encode_frame

log = logging.getLogger("edgead.host")

#: Pause after a commit that failed, and least time between two events that sum up refusals or evidence not kept.
RETRY_NS, SUMMARY_NS = 500_000_000, 1_000_000_000
#: How soon it is looked whether evidence has reached the disk, on a line where nothing else happens.
EVIDENCE_NS = 50_000_000
#: Why a frame is dropped of which it cannot be found out whether it came before.
UNREAD = "unread"


def key_of(header: FrameHeader) -> FrameKey:
    """Return what names a frame in the ledger."""
    return FrameKey(header.camera, header.session, header.frame_id)


def _fields(header: FrameHeader | TriggerHeader, received_ns: int, deadline_ms: int) -> dict[str, Any]:
    """Return what the ledger records of a trigger, beside its camera."""
    return {
        "received_ns": received_ns,
        "deadline_ns": received_ns + deadline_ms * 1_000_000,
        "trigger_id": header.trigger_id,
        "part_id": header.part_id,
    }


class LedgerRecords(Records):
    """The records of a station with a ledger, which is held until ``close``. Raises ``LedgerError``."""

    durable = True

    def __init__(self, settings: LedgerSettings, station: str, run_id: str) -> None:
        super().__init__()
        self.ledger = Ledger(settings.file, station, run_id=run_id)
        self._upkeep = Upkeep(self.ledger, settings)
        self._repeat_ns = int(settings.trigger_repeat_s * 1e9)
        self._trouble = ""
        self._retry_ns = self._summary_ns = 0
        self._pace = Pace()
        self._refused: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()  # evidence; not told yet
        self._all_skipped: Counter[str] = Counter()
        try:
            self._upkeep.reconcile()
        except LedgerFull as error:  # a station must start on a full disk too
            self._note_trouble(error)
        except BaseException:
            self.ledger.close()
            raise
        self._writer = EvidenceWriter(settings.evidence_folder)

    @property
    def next_seq(self) -> int:
        """The ``seq`` the next inspection must carry; it goes on over restarts."""
        return self.ledger.next_seq

    @property
    def written_seq(self) -> int:
        """The last ``seq`` committed."""
        return self.ledger.written_seq

    def left_open(self) -> list[OpenTrigger]:
        """Return the triggers without inspection; right after opening, those of a killed run."""
        return self.ledger.open_triggers()

    # --- a turn -------------------------------------------------------------------------------------------------

    def admit(self, header: FrameHeader, received_ns: int, deadline_ms: int) -> int | Earlier | Unread:
        """Look whether a frame repeats another and number it; see ``Records.admit``."""
        since_ns = received_ns - self._repeat_ns if self._repeat_ns else None
        try:
            self._expect_memory()
            earlier = self.ledger.repeated(
                key_of(header),
                received_ns=received_ns,
                trigger_id=header.trigger_id,
                part_id=header.part_id,
                since_ns=since_ns,
            )
        except LedgerError as error:
            return self._admit_unread(error, header, received_ns, deadline_ms)
        return self.ledger.next_record if earlier is None else earlier

    def _admit_unread(self, error: LedgerError, header: FrameHeader, received_ns: int, deadline_ms: int) -> Unread:
        """Record a frame of which nothing can be found out as such; one that finds no room is refused."""
        with self._recording():
            if isinstance(error, LedgerFull):
                raise error
            self._expect_memory()
            self._note_trouble(error)
            number = self.ledger.trigger(header.camera, **_fields(header, received_ns, deadline_ms))
            self.ledger.drop(key_of(header), received_ns=received_ns, reason=UNREAD)
            return Unread(number)

    def enter(self, number: int, header: FrameHeader, received_ns: int, deadline_ms: int) -> None:
        """Record a frame and its trigger, for which there is room: ``admit`` has just looked."""
        recorded = self.ledger.take_in(key_of(header), **_fields(header, received_ns, deadline_ms))
        if recorded != number:
            raise LedgerError(f"expected frame {header.frame_id} of {header.camera} to be record {number}, found "
                              f"{recorded}: something else was recorded in between")  # fmt: skip

    def _expect_memory(self) -> None:
        # A full disk the ledger refuses itself; it does not know of one that fails.
        if self._trouble and self.ledger.unwritten >= MOST_UNWRITTEN:
            raise LedgerError(f"{self.ledger.unwritten} records wait to be written: {self._trouble}")

    def raise_trigger(self, header: TriggerHeader, received_ns: int, deadline_ms: int) -> int | Earlier | Unread:
        """Record a trigger ahead of its frame; see ``Records.raise_trigger``."""
        fields = _fields(header, received_ns, deadline_ms)
        with self._recording():
            self._expect_memory()
            try:
                earlier = raised_before(self.ledger, header, received_ns, self._repeat_ns)
            except LedgerError as error:
                self._note_trouble(error)
                return Unread(self.ledger.trigger(header.camera, **fields))
            return self.ledger.trigger(header.camera, **fields) if earlier is None else earlier

    def earlier_frame(self, header: FrameHeader, received_ns: int) -> Earlier | None:
        """Look for the same frame; see ``Records.earlier_frame``."""
        with self._recording():
            earlier = self.ledger.find(key_of(header))
            if earlier is not None:
                self.ledger.drop(key_of(header), received_ns=received_ns, reason=DUPLICATE)
            return earlier

    def join(self, number: int, header: FrameHeader, received_ns: int) -> None:
        """Record the frame of an open trigger; see ``Records.join``."""
        with self._recording():
            self.ledger.frame(key_of(header), received_ns=received_ns, trigger=number)

    def drop(self, header: FrameHeader, received_ns: int, reason: str) -> None:
        """Record a frame that answers no trigger; one more than the memory holds goes unrecorded."""
        with suppress(WireError), self._recording():
            self._expect_memory()
            self.ledger.drop(key_of(header), received_ns=received_ns, reason=reason)

    def knows_trigger(self, camera: str, trigger_id: int) -> bool:
        """Tell whether a trigger of that id is in the records."""
        with suppress(WireError), self._recording():
            return any(self.ledger.newest_triggers(camera, trigger_id, 1))
        return False

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Turn trouble with the ledger into a refusal of the message."""
        try:
            yield
        except LedgerError as error:  # full for too long, or it cannot be read whether it came before
            self._note_trouble(error)
            raise WireError("unrecorded", str(error)) from error

    def inspect(self, number: int, inspection: Inspection) -> list[bytes]:
        """Record the one answer to a trigger; see ``Ledger.inspect``."""
        return self.ledger.inspect(number, inspection)

    def keeps(self, inspection: Inspection) -> bool:
        """Tell whether the policy keeps the evidence of an inspection."""
        return self._upkeep.policy.keeps(inspection.verdict, inspection.seq)

    def keep(self, inspection: Inspection, header: FrameHeader, payloads: Mapping[str, Buffer]) -> None:
        """Queue the evidence: the frame's header part, and ``payloads`` (frame, map) as they are.

        A trigger that got no frame leaves none.
        """
        if not header.payload_bytes:
            return
        parts = {"header": encode_frame(header)[1], **payloads}
        self._writer.offer(inspection.seq, inspection.verdict, parts)

    def refuse(self, reason: str) -> None:
        """Count a refused message; the count becomes an event within a second."""
        self._refused[reason] += 1

    def note(self, news: News) -> None:
        """Record what happened besides."""
        for kind, detail in news:
            self.ledger.note(kind, detail)

    def write(self, now_ns: int) -> None:
        """Commit, as results wait for it; not while a disk that failed a moment ago is given time."""
        self._write_if(now_ns, results=True)

    def end_turn(self, now_ns: int) -> None:
        """Record evidence and refusals, and commit if it is time to."""
        if self._writer.waiting:
            self._take_evidence()
        self._summarise(now_ns)
        self._write_if(now_ns, results=False)

    def _write_if(self, now_ns: int, *, results: bool) -> None:
        if not self.ledger.pending:  # ``clean`` commits too: a time that stays would have the loop never sleep
            self._pace.due_ns = None
            return
        if self._pace.writes(now_ns, results=results, frames=self.ledger.has_frames) and now_ns >= self._retry_ns:
            self._commit(now_ns)

    def note_in_use(self, lanes: Iterable[Lane]) -> None:
        """Record which template each camera begins with, for each of its recipes."""
        for lane in lanes:
            recipe = {"recipe": lane.assignment.recipe} if lane.assignment.recipe else {}
            self.ledger.note(Event.IN_USE, {"camera": lane.name, **recipe, **lane.assignment.described()})

    def _take_evidence(self) -> None:
        for kept in self._writer.taken():
            try:
                self.ledger.keep(kept)
            except LedgerError as error:  # the file lies there without a record: the next start removes it
                self._note_trouble(error)
                self._skipped[DISK_ERROR] += 1
                continue
            self._upkeep.evidence_bytes += kept.size

    def _summarise(self, now_ns: int) -> None:
        """Record refusals and evidence not kept: one event a second each, however many there were."""
        self._skipped += self._writer.skipped()
        if now_ns < self._summary_ns or not (self._refused or self._skipped):
            return
        self._summary_ns = now_ns + SUMMARY_NS
        if self.ledger.unwritten >= MOST_UNWRITTEN:
            return  # they add up: an event a second would fill the memory, however few frames are taken
        if self._refused:
            self.ledger.note(Event.REFUSED, self._refused)
            self._refused = Counter()
        if self._skipped:
            self.ledger.note(Event.EVIDENCE_SKIPPED, self._skipped)
            self._all_skipped += self._skipped
            wanting, self._skipped = self._skipped[DISK_FULL], Counter()
            if wanting:
                self._make_room(now_ns)

    # --- the disk -----------------------------------------------------------------------------------------------

    def _commit(self, now_ns: int) -> None:
        self._pace.due_ns = None
        try:
            self.ledger.commit()
        except LedgerError as error:
            self._note_trouble(error)
            self._retry_ns = now_ns + RETRY_NS  # until then results go out first: inspection goes on
        if self.ledger.short_of_room:
            self._make_room(now_ns)
        if self._trouble and self.ledger.unwritten == 0:
            self._trouble = ""
            self._upkeep.weigh()  # what made room in the meantime is written only now
            log.info("the ledger is written again")

    def _make_room(self, now_ns: int) -> None:
        try:
            if self._upkeep.make_room(now_ns):
                self._retry_ns = 0
        except LedgerError as error:
            self._note_trouble(error)

    def _note_trouble(self, error: LedgerError) -> None:
        if not self._trouble:
            log.error("the ledger is in trouble; inspection goes on and records wait in memory: %s", error)
        self._trouble = str(error)

    def clean(self, now_ns: int, *, quiet: bool) -> None:
        """Prune records and retire evidence, a step at a time."""
        if self._trouble:
            return
        try:
            self._upkeep.clean(now_ns, quiet=quiet)
        except LedgerError as error:
            self._note_trouble(error)

    def next_due_ns(self) -> int | None:
        """Return when there is something to commit, to sum up or to clean."""
        due = [] if self._trouble else [self._upkeep.due_ns]
        if self._pace.due_ns is not None:
            due.append(max(self._pace.due_ns, self._retry_ns))
        elif self.ledger.pending:
            due.append(self._retry_ns)
        if self._refused or self._skipped:
            due.append(self._summary_ns)
        if self._writer.waiting:
            due.append(time.monotonic_ns() + EVIDENCE_NS)
        return min(due, default=None)

    def status(self) -> dict[str, Any]:
        """Return the ledger's part of the status; see docs/protocol.md."""
        ledger, totals = self.ledger, self.ledger.totals
        return {
            "path": str(ledger.path),
            "seq": ledger.written_seq,
            "head": str(ledger.written),
            "open_triggers": totals["triggers"] - totals["inspections"],
            "duplicates": totals[f"frames.dropped.{DUPLICATE}"],
            "unwritten": ledger.unwritten,
            "short_of_room": ledger.short_of_room,
            "trouble": self._trouble,
            "evidence_bytes": self._upkeep.evidence_bytes,
            "evidence_waiting": self._writer.waiting,
            "evidence_skipped": dict(self._all_skipped + self._skipped),
        }

    def close(self) -> None:
        """Write the evidence and the records that are left, and let go of the ledger."""
        self._writer.close()
        self._take_evidence()
        self._summary_ns = 0
        self._summarise(0)
        try:
            self.ledger.close()
        except LedgerError as error:
            log.error("the last %d records are lost: %s", self.ledger.unwritten, error)  # noqa: TRY400 -- one line
