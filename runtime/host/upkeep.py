"""Keeping a ledger within its disk while its station runs: room on a full disk, old records and evidence away.

In small steps, because the thread that answers triggers takes them.
"""

from __future__ import annotations

import logging
import time

from runtime.errors import LedgerError
from runtime.ledger import EvidencePolicy, Ledger, Retention, make_room, prune, reconcile, retire
from runtime.ledger.errors import told
from runtime.ledger.removal import DAY_NS, kept_bytes
from runtime.station.config import Ledger as LedgerSettings

log = logging.getLogger("edgead.host")

#: Evidence removed at a time on a full disk: three frames of five megapixels, seconds of records.
ROOM_BYTES = 16 * 1024 * 1024
#: Pause between two removals of evidence on a full disk: the checkpointer must have had a turn to see the room.
ROOM_NS = 1_500_000_000
#: How often retention looks, how soon it goes on while it finds something, and how many records it removes at a time: a
#: step takes the thread about ten milliseconds on a loaded machine of two cores.
CLEAN_NS, CLEAN_ON_NS, CLEAN_RECORDS = 10 * 10**9, 20_000_000, 200
#: How soon it looks again once it found something: a busy line writes megabytes in ``CLEAN_NS``.
CLEAN_AGAIN_NS = 10**9
#: A line that is never quiet is cleaned all the same after so long; while something is found, so soon that 500 parts a
#: second cannot outgrow the limit (three records each).
NEVER_QUIET_NS, NEVER_QUIET_ON_NS = 60 * 10**9, 100_000_000
_MB = 1024 * 1024


class Upkeep:
    """The size of one ledger and its evidence. Every method may raise ``LedgerError``; ``now_ns`` is monotonic."""

    def __init__(self, ledger: Ledger, settings: LedgerSettings) -> None:
        kept = settings.evidence
        self.folder = settings.evidence_folder
        self.policy = EvidencePolicy(
            ok_every=kept.ok_every,
            ok_ns=int(kept.ok_days * DAY_NS),
            other_ns=int(kept.other_days * DAY_NS),
            most_bytes=kept.most_mb * _MB,
        )
        #: Size of all evidence kept.
        self.evidence_bytes = 0
        #: When ``clean`` has something to look at.
        self.due_ns = 0
        self._ledger = ledger
        self._retention = Retention(most_ns=int(settings.most_days * DAY_NS), most_bytes=settings.most_mb * _MB)
        self._room_ns = 0
        self._finding = False

    def reconcile(self) -> None:
        """Bring files and records together after a crash; before evidence is written."""
        with told("reconcile", self._ledger.path):
            orphans, lost = reconcile(self._ledger, self.folder)
        if orphans or lost:
            log.warning("evidence: %d files without record removed, %d recorded as lost", orphans, lost)
        self.weigh()

    def make_room(self, now_ns: int) -> bool:
        """Remove the oldest evidence and commit; False if it was done a moment ago."""
        if now_ns < self._room_ns:
            return False
        self._room_ns = now_ns + ROOM_NS
        try:
            with told("make room for", self._ledger.path):
                freed = make_room(self._ledger, self.folder, ROOM_BYTES)
        finally:
            self.weigh()
        log.warning("the disk is full: %d bytes of the oldest evidence removed", freed)
        return True

    def clean(self, now_ns: int, *, quiet: bool) -> None:
        """Prune records and retire evidence, one step, if it is time to and the turn is ``quiet``."""
        late_ns = now_ns - self.due_ns
        patience_ns = NEVER_QUIET_ON_NS if self._finding else NEVER_QUIET_NS
        if late_ns < 0 or not (quiet or late_ns > patience_ns):
            return
        self.due_ns = now_ns + (CLEAN_AGAIN_NS if self._finding else CLEAN_NS)
        today_ns = time.time_ns()
        with told("clean", self._ledger.path):
            removed = prune(self._ledger, self.folder, self._retention, today_ns, limit=CLEAN_RECORDS)
            removed += retire(self._ledger, self.folder, self.policy, today_ns)
        if removed:
            self.due_ns = now_ns + CLEAN_ON_NS
        self._finding = removed > 0
        self.weigh()

    def weigh(self) -> None:
        """Add up the evidence again."""
        try:
            with told("read", self._ledger.path):
                self.evidence_bytes = kept_bytes(self._ledger.journal.connection)
        except LedgerError as error:  # a figure of the status, no more
            log.debug("%s", error)
