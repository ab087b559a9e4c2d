"""Removing evidence: by policy, for room on a full disk, and after a crash. The chained records of it stay.

By policy the ledger says it first and the file goes after: a crash in between leaves a file too many, which
``reconcile`` removes. On a full disk the file must go first, or nothing could be said: a crash in between leaves a file
too few, which ``reconcile`` records as lost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.inspection import Verdict
from runtime.ledger import evidence
from runtime.ledger.errors import LedgerFull
from runtime.ledger.totals import Event
from runtime.ledger.writer import Ledger

#: Files named in one event, and removed in one turn: an event stays a few KB, a turn a few milliseconds.
FILES_PER_EVENT = 200
DAY_NS = 86_400 * 10**9
_VERDICTS = (Verdict.OK, Verdict.NOT_OK, Verdict.NOT_DECIDABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidencePolicy:
    """Which inspections keep evidence, and how long. All NotOK and NotDecidable ones do."""

    ok_every: int = 100
    """Keep the evidence of every n-th OK inspection; 0: of none."""
    ok_ns: int = 7 * DAY_NS
    """How long evidence of OK inspections is kept, in nanoseconds."""
    other_ns: int = 90 * DAY_NS
    """How long evidence of NotOK and NotDecidable inspections is kept, in nanoseconds."""
    most_bytes: int = 20 * 1024**3
    """Size of all evidence together beyond which the oldest goes, whatever its verdict."""

    def keeps(self, verdict: Verdict, seq: int) -> bool:
        """Tell whether the evidence of inspection ``seq`` is worth a file."""
        return verdict is not Verdict.OK or (self.ok_every > 0 and seq % self.ok_every == 0)


def retire(ledger: Ledger, folder: Path, policy: EvidencePolicy, now_ns: int) -> int:
    """Remove evidence that is too old for its verdict, or the oldest where all is too much; return how many files.

    At most ``FILES_PER_EVENT`` a reason and call: call again at the next quiet moment while it returns any. Commits;
    raises ``LedgerFull`` or ``LedgerError``.
    """
    ledger.commit()
    aged: list[int] = []
    for verdict in _VERDICTS:
        age_ns = policy.ok_ns if verdict is Verdict.OK else policy.other_ns
        for seq, kept_ns, _ in _kept(ledger.journal.connection, verdict):
            if kept_ns >= now_ns - age_ns:
                break
            aged.append(seq)
    removed = forget(ledger, folder, sorted(aged)[:FILES_PER_EVENT], "age")
    excess = kept_bytes(ledger.journal.connection) - policy.most_bytes
    too_much: list[int] = []
    for seq, _, size in _oldest(ledger.journal.connection):
        if excess <= 0 or len(too_much) == FILES_PER_EVENT:
            break
        excess -= size
        too_much.append(seq)
    return removed + forget(ledger, folder, too_much, "size")


def make_room(ledger: Ledger, folder: Path, want_bytes: int) -> int:
    """Remove the oldest evidence until ``want_bytes`` are free, record it, and commit; return the bytes freed.

    What the answer to ``LedgerFull`` is. Goes on while the log finds no room to be moved into the ledger, but takes at
    most ``FILES_PER_EVENT`` files a call: call again. Fewer bytes than asked: that was it, or there is no more. Raises
    ``LedgerFull`` if even so there was no room for the records: they go on waiting in memory.
    """
    freed = 0
    gone: list[int] = []
    try:
        for seq, _, _ in _oldest(ledger.journal.connection):
            if len(gone) == FILES_PER_EVENT or (freed >= want_bytes and _room_for_log(ledger)):
                break
            if size := evidence.unlink(folder, seq):  # 0: went in an earlier call whose commit found no room
                freed += size
                gone.append(seq)
    finally:
        for some in _batches(gone):
            _record(ledger, some, "disk_full")
    ledger.commit()
    return freed


def _room_for_log(ledger: Ledger) -> bool:
    try:
        ledger.journal.checkpoint()
    except LedgerFull:
        return False
    return True


def reconcile(ledger: Ledger, folder: Path) -> tuple[int, int]:
    """Bring files and records together after a crash; return how many files were orphans, how many were lost.

    An orphan has no record, or one that says it was removed: its file goes. A lost file is recorded as removed, reason
    ``lost``. To be called after opening, before evidence is written.
    """
    ledger.commit()
    recorded = {seq for seq, _, _ in _oldest(ledger.journal.connection)}
    there = set(evidence.listed(folder))
    for seq in sorted(there - recorded):
        evidence.unlink(folder, seq)
    lost = sorted(recorded - there)
    forget(ledger, folder, lost, "lost")
    return len(there - recorded), len(lost)


def forget(ledger: Ledger, folder: Path, seqs: Sequence[int], reason: str) -> int:
    """Record the removal of the evidence of ``seqs``, commit, remove the files; return how many there were."""
    for some in _batches(seqs):
        _record(ledger, some, reason)
        ledger.commit()
        for seq in some:
            evidence.unlink(folder, seq)
    return len(seqs)


def kept_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of all evidence recorded and not removed, in bytes."""
    row = connection.execute("SELECT coalesce(sum(bytes), 0) FROM evidence WHERE removed_by IS NULL").fetchone()
    return int(row[0])


def _record(ledger: Ledger, seqs: Sequence[int], reason: str) -> None:
    record = ledger.note(Event.EVIDENCE_REMOVED, {"reason": reason, "seqs": list(seqs)})
    for seq in seqs:
        ledger.journal.change("UPDATE evidence SET removed_by = ? WHERE seq = ?", record, seq)


def _batches(seqs: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(seqs), FILES_PER_EVENT):
        yield seqs[start : start + FILES_PER_EVENT]


def _kept(connection: sqlite3.Connection, verdict: Verdict, after: int = 0) -> list[tuple[int, int, int]]:
    """Return (seq, kept_ns, bytes) of some evidence kept of one verdict, after ``seq`` = ``after``, oldest first."""
    return connection.execute(
        "SELECT seq, kept_ns, bytes FROM evidence WHERE removed_by IS NULL AND verdict = ? AND seq > ? "
        "ORDER BY seq LIMIT ?",
        (int(verdict), after, FILES_PER_EVENT),
    ).fetchall()


def _oldest(connection: sqlite3.Connection) -> Iterator[tuple[int, int, int]]:
    """Yield (seq, kept_ns, bytes) of all evidence kept, oldest first.

    In pages: a query left open would keep the log from being moved into the file.
    """
    after = 0
    while page := sorted(row for each in _VERDICTS for row in _kept(connection, each, after))[:FILES_PER_EVENT]:
        yield from page
        after = page[-1][0]
