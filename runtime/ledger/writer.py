"""The ledger's one writer: takes the records of a poll turn in memory and writes them in one transaction.

Rules:

* ``trigger``, ``frame``, ``drop``, ``inspect``, ``keep`` and ``note`` only touch memory; ``commit`` alone touches the
  disk. A result is sent after the commit that holds it, so that a killed host has sent nothing it does not know.
* When the disk is full ``commit`` raises ``LedgerFull`` and keeps what it could not write; the next commit writes it,
  in the same order with the same hashes. Only past ``MOST_UNWRITTEN`` records does ``trigger`` refuse new ones.
* ``seq`` numbers inspections in the order of publication, from 1, without a gap, over all runs of a station: a
  subscriber that holds ``seq`` n holds everything up to n. A trigger is known by its record number.
* One thread uses a ledger, one process writes it (a lock file sees to that); any number of processes read it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runtime.errors import LedgerError
from runtime.inspection import Inspection, Verdict
from runtime.ledger import lookup
from runtime.ledger.chain import Head
from runtime.ledger.checkpointer import Checkpointer
from runtime.ledger.errors import LedgerFull, told
from runtime.ledger.journal import Journal
from runtime.ledger.opening import hold
from runtime.ledger.records import Earlier, EarlierTrigger, FrameKey, Kept, OpenTrigger, inspection_columns
from runtime.ledger.schema import SCHEMA_VERSION, signed, unsigned
from runtime.ledger.totals import Event
from runtime.wire.messages import encode_result

#: Seconds between checkpoints: the most a power cut can cost.
CHECKPOINT_S = 1.0
#: Records kept in memory while the disk is full: about 20 MB, two minutes of a line at 50 parts a second.
MOST_UNWRITTEN = 20_000
#: Why a frame that was there before is dropped.
DUPLICATE = "duplicate"


class Ledger:
    """One station's ledger, open for writing. Raises ``LedgerError`` if another process holds it or it is damaged."""

    def __init__(
        self,
        path: Path,
        station: str,
        *,
        run_id: str = "",
        checkpoint_s: float = CHECKPOINT_S,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open or create the ledger at ``path``; ``clock`` gives UTC nanoseconds."""
        self.path = path
        self.station = station
        self._keys: dict[FrameKey, int] = {}  # frames and answers that are not written yet
        self._answers: dict[int, tuple[int, bytes]] = {}
        self._furthest: dict[str, tuple[int, int]] = {}  # by camera: its last session, and that one's greatest frame id
        with ExitStack() as undo:  # what is held already, should the rest fail
            self._lock = hold(path)
            undo.callback(os.close, self._lock)
            self.journal = Journal(path, station, clock)
            undo.callback(self.journal.connection.close)
            start = self.journal.start
            self._open = {each.trigger: each for each in start.open_triggers}
            if start.fresh:  # the id sets two ledgers of one station apart from their first record on
                founding = {"station": station, "version": SCHEMA_VERSION, "id": secrets.token_hex(16)}
                self.journal.note(Event.CREATED, founding)
            self.journal.note(Event.OPENED, {"run_id": run_id, "clean": start.clean, "open_triggers": len(self._open)})
            with suppress(LedgerFull):  # the next commit writes it
                self.journal.commit()
            self._checkpointer = Checkpointer(path, checkpoint_s)
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and close; raises ``LedgerFull`` if there is no room for it, but closes all the same."""
        if self._lock < 0:
            return
        self._checkpointer.close()
        try:
            self.note(Event.CLOSED, {"open_triggers": len(self._open)})
            self.commit()
        finally:
            self.journal.connection.close()  # the last connection checkpoints and removes the write-ahead log
            os.close(self._lock)
            self._lock = -1

    def commit(self) -> None:
        """Write everything taken since the last commit, whole or not at all.

        Raises ``LedgerFull`` (make room, commit again) or ``LedgerError``; nothing taken is lost by either.
        """
        if self._checkpointer.full or self._checkpointer.overdue:
            # On a full disk what room there is belongs to the checkpoint: a log that grows would take it all, for ever.
            self._checkpointer.overdue = False
            self.journal.checkpoint()
        self.journal.commit()
        self._keys.clear()
        self._answers.clear()

    # --- where it stands ----------------------------------------------------------------------------------------

    @property
    def next_seq(self) -> int:
        """The ``seq`` the next inspection must carry."""
        return self.journal.seq + 1

    @property
    def next_record(self) -> int:
        """The number of the next record, whatever it is."""
        return self.journal.head.record + 1

    @property
    def written(self) -> Head:
        """The head of the chain as committed: write it down elsewhere and it is a witness for ``check``."""
        return self.journal.written

    @property
    def written_seq(self) -> int:
        """The last ``seq`` committed: up to here results may be sent."""
        return self.journal.written_seq

    @property
    def unwritten(self) -> int:
        """Records that wait in memory for the next commit."""
        return self.journal.unwritten

    @property
    def pending(self) -> bool:
        """Whether the next commit has something to write: records, or acknowledgements of subscribers."""
        return self.journal.pending

    @property
    def has_frames(self) -> bool:
        """Whether triggers or frames wait for the next commit."""
        return bool(self.journal.rows["triggers"] or self.journal.rows["frames"])

    @property
    def short_of_room(self) -> bool:
        """Whether the last commit or the last checkpoint found the disk full: make room."""
        return self.journal.full or self._checkpointer.full

    @property
    def totals(self) -> Counter[str]:
        """Counts of everything ever recorded, by the names of ``totals``; a copy."""
        return Counter(self.journal.totals)

    def open_triggers(self) -> list[OpenTrigger]:
        """Return the triggers without inspection, oldest first.

        Right after opening these are what a killed host left: the caller answers each NotDecidable.
        """
        return list(self._open.values())

    # --- taking records -----------------------------------------------------------------------------------------

    def trigger(
        self, camera: str, *, received_ns: int, deadline_ns: int, trigger_id: int | None = None, part_id: str = ""
    ) -> int:
        """Record a demand for one inspection (UTC nanoseconds) and return its record number.

        Raises ``LedgerFull`` when the disk has been full for ``MOST_UNWRITTEN`` records: refuse it at the door.
        """
        self._expect_room()
        stored_id = None if trigger_id is None else signed(trigger_id)
        record = self.journal.append("triggers", camera, stored_id, part_id, signed(received_ns), signed(deadline_ns))
        self._open[record] = OpenTrigger(record, camera, trigger_id, part_id, received_ns, deadline_ns)
        return record

    def frame(self, key: FrameKey, *, received_ns: int, trigger: int) -> None:
        """Record the frame of an open trigger. Raises ``LedgerError`` if it has one, or if the frame is known."""
        waiting = self._open.get(trigger)
        if waiting is None or waiting.frame is not None or waiting.camera != key.camera:
            raise LedgerError(f"trigger {trigger}: expected it open and without frame for {key}, found {waiting}")
        if (earlier := self.find(key)) is not None:
            raise LedgerError(f"expected a frame not seen before, found {key} under trigger {earlier.trigger}")
        self._take(key, received_ns, waiting)

    def arrive(
        self,
        key: FrameKey,
        *,
        received_ns: int,
        deadline_ns: int,
        trigger_id: int | None = None,
        part_id: str = "",
        since_ns: int | None = None,
    ) -> int | Earlier:
        """Record a frame that is its own trigger, and return the trigger's record number; or what it repeats.

        A frame known already is recorded as dropped, ``duplicate``; so is one whose ``trigger_id`` its camera brought
        for the same part at or after ``since_ns`` (UTC; None: trigger ids are not compared). Raises ``LedgerFull`` as
        ``trigger`` does.
        """
        earlier = self.repeated(key, received_ns=received_ns, trigger_id=trigger_id, part_id=part_id, since_ns=since_ns)
        if earlier is not None:
            return earlier
        return self.take_in(
            key, received_ns=received_ns, deadline_ns=deadline_ns, trigger_id=trigger_id, part_id=part_id
        )

    def repeated(
        self,
        key: FrameKey,
        *,
        received_ns: int,
        trigger_id: int | None = None,
        part_id: str = "",
        since_ns: int | None = None,
    ) -> Earlier | None:
        """Do the first half of ``arrive``: return what a frame repeats, recording the frame then; None: it is new."""
        self._expect_room()
        earlier = self.find(key)
        if earlier is None and trigger_id is not None and since_ns is not None:
            earlier = self.find_trigger(key.camera, trigger_id, part_id, since_ns)
        if earlier is not None:
            self.drop(key, received_ns=received_ns, reason=DUPLICATE)
        return earlier

    def take_in(
        self, key: FrameKey, *, received_ns: int, deadline_ns: int, trigger_id: int | None = None, part_id: str = ""
    ) -> int:
        """Do the second half of ``arrive``, for a frame that repeats nothing: record it and return its trigger."""
        record = self.trigger(
            key.camera, received_ns=received_ns, deadline_ns=deadline_ns, trigger_id=trigger_id, part_id=part_id
        )
        self._take(key, received_ns, self._open[record])
        return record

    def _take(self, key: FrameKey, received_ns: int, waiting: OpenTrigger) -> None:
        self.journal.append("frames", *key.columns(), signed(received_ns), waiting.trigger, "")
        self._keys[key] = waiting.trigger
        self._furthest[key.camera] = key.session, max(key.frame_id, self._furthest_of(key))
        self._open[waiting.trigger] = replace(waiting, frame=key)

    def _expect_room(self) -> None:
        if self.journal.full and self.unwritten >= MOST_UNWRITTEN:
            raise LedgerFull(
                f"{self.path}: the disk is full and {self.unwritten} records wait in memory; free it to take triggers"
            )

    def drop(self, key: FrameKey, *, received_ns: int, reason: str) -> None:
        """Record a frame that belongs to no open trigger (``duplicate``, ...): it is counted and not inspected."""
        if not reason:
            raise LedgerError(f"expected the reason why {key} was dropped, found none")
        self.journal.append("frames", *key.columns(), signed(received_ns), None, reason)

    def inspect(self, trigger: int, inspection: Inspection) -> list[bytes]:
        """Record the one answer to an open trigger; return topic and header as sent (see ``wire.encode_result``).

        Raises ``LedgerError`` if the trigger has its answer already, ``inspection.seq`` is not ``next_seq``, or the
        inspection is of another frame, or decides without one.
        """
        waiting = self._open.get(trigger)
        if waiting is None:
            raise LedgerError(f"trigger {trigger}: expected it open, found it unknown or answered already")
        if (inspection.seq, inspection.camera) != (self.next_seq, waiting.camera):
            raise LedgerError(
                f"trigger {trigger}: expected seq {self.next_seq} of {waiting.camera}, "
                f"found {inspection.seq} of {inspection.camera}"
            )
        key = FrameKey(inspection.camera, inspection.session, inspection.frame_id)
        if waiting.frame is None and inspection.verdict is not Verdict.NOT_DECIDABLE:
            raise LedgerError(f"trigger {trigger}: expected NotDecidable without a frame, found {inspection.verdict!r}")
        if waiting.frame not in (None, key):
            raise LedgerError(f"trigger {trigger}: expected the inspection of {waiting.frame}, found that of {key}")
        parts = encode_result(inspection)
        self.journal.append(
            "inspections", *inspection_columns(trigger, waiting.frame is not None, inspection, parts[1])
        )
        self.journal.seq = inspection.seq
        self._answers[trigger] = (inspection.seq, parts[1])
        del self._open[trigger]
        return parts

    def keep(self, kept: Kept) -> None:
        """Record a file of evidence on the disk. Raises ``LedgerError`` for an inspection not recorded, or a second."""
        if not 0 < kept.seq <= self.journal.seq:
            raise LedgerError(f"expected evidence of an inspection 1..{self.journal.seq}, found {kept.seq}")
        known = any(row[1] == kept.seq for row in self.journal.rows["evidence"])
        with told("read", self.path):
            known = known or lookup.has_evidence(self.journal.connection, kept.seq)
        if known:
            raise LedgerError(f"expected one file of evidence for inspection {kept.seq}, found a second")
        self.journal.append("evidence", kept.seq, int(kept.verdict), kept.size, kept.sha256, self.journal.now_ns())

    def note(self, kind: Event, detail: Mapping[str, Any]) -> int:
        """Record something else that happened; ``detail`` is a JSON object. Returns its record number."""
        return self.journal.note(kind, detail)

    # --- looking up ---------------------------------------------------------------------------------------------

    def find(self, key: FrameKey) -> Earlier | None:
        """Return the trigger this very frame came with before, as long as its records are kept; None if it is new."""
        trigger = self._keys.get(key)
        if trigger is None:
            session, furthest = self._furthest.get(key.camera, (None, -1))
            if session == key.session and key.frame_id > furthest:
                return None  # as nearly all are: it need not be looked for
            with told("read", self.path):
                if key.frame_id > self._furthest_of(key):
                    return None
                trigger = lookup.trigger_of_frame(self.journal.connection, key)
        return self._answered(trigger)

    def _furthest_of(self, key: FrameKey) -> int:
        """Return the greatest frame id recorded of a frame's session, -1 if there is none."""
        session, furthest = self._furthest.get(key.camera, (None, -1))
        if session != key.session:
            waiting = [each.frame_id for each in self._keys if (each.camera, each.session) == (key.camera, key.session)]
            furthest = max(-1, *waiting, lookup.last_frame_id(self.journal.connection, key))
            self._furthest[key.camera] = key.session, furthest
        return furthest

    def find_trigger(self, camera: str, trigger_id: int, part_id: str, since_ns: int) -> Earlier | None:
        """Return the newest trigger of that id and part received at or after ``since_ns`` (UTC), or None.

        The caller chooses the window: a PLC's counter begins again when it restarts, or overflows.
        """
        for row in reversed(self.journal.rows["triggers"]):
            if row[1:4] == (camera, signed(trigger_id), part_id) and row[4] >= since_ns:
                return self._answered(row[0])
        with told("read", self.path):
            found = lookup.trigger_of_id(self.journal.connection, camera, trigger_id, part_id, since_ns)
        return self._answered(found)

    def newest_triggers(self, camera: str, trigger_id: int, most: int) -> Iterator[EarlierTrigger]:
        """Yield the ``most`` newest triggers of that camera and id, whatever their part, newest first."""
        stored = signed(trigger_id)
        rows = [row for row in reversed(self.journal.rows["triggers"]) if row[1:3] == (camera, stored)]
        found = [(row[0], row[3], unsigned(row[4])) for row in rows]
        with told("read", self.path):
            found += lookup.newest_of_id(self.journal.connection, camera, trigger_id, most)
        for record, part_id, received_ns in found[:most]:
            if (earlier := self._answered(record)) is not None:
                yield EarlierTrigger(part_id, received_ns, earlier)

    def _answered(self, trigger: int | None) -> Earlier | None:
        if trigger is None:
            return None
        if trigger in self._answers:
            return Earlier(trigger, *self._answers[trigger])
        if trigger in self._open:
            return Earlier(trigger)
        with told("read", self.path):
            return lookup.answer(self.journal.connection, trigger)
