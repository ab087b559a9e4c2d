"""A thread that writes files of evidence, so that the thread that answers triggers never waits for a disk.

What it is given it copies at once and keeps within ``budget_bytes``; beyond that evidence is turned away and counted,
never waited for. What it has written it hands back as ``Kept``: only the ledger's own thread may record it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue

from runtime.errors import LedgerError
from runtime.inspection import Verdict
from runtime.ledger import evidence
from runtime.ledger.errors import LedgerFull
from runtime.ledger.records import Kept
from runtime.wire.header import Buffer

log = logging.getLogger("edgead.ledger")

#: Memory for evidence on its way to the disk: a dozen frames of five megapixels, half a second of a slow card.
BUDGET_BYTES = 64 * 1024 * 1024
#: Files on their way, whatever their size: small frames must not make a queue that takes minutes to write.
MOST_WAITING = 256
#: Why evidence was not kept.
QUEUE_FULL, DISK_FULL, DISK_ERROR = "queue_full", "disk_full", "disk_error"


class EvidenceWriter:
    """Runs from construction to ``close``. ``offer``, ``taken`` and ``skipped`` are for one thread, the ledger's."""

    def __init__(self, folder: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self.folder = folder
        #: Files on their way, and their size in bytes.
        self.waiting = 0
        self.waiting_bytes = 0
        self._budget_bytes = budget_bytes
        self._skipped: Counter[str] = Counter()
        self._jobs: SimpleQueue[tuple[int, Verdict, dict[str, bytes]] | None] = SimpleQueue()
        self._done: deque[tuple[int, Kept | str]] = deque()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="evidence-writer", daemon=True)
        self._thread.start()

    def offer(self, seq: int, verdict: Verdict, parts: Mapping[str, Buffer]) -> bool:
        """Copy the evidence of inspection ``seq`` and queue it; False, and counted, if there is no room to."""
        size = sum(memoryview(part).nbytes for part in parts.values())
        crowded = self.waiting_bytes + size > self._budget_bytes or self.waiting >= MOST_WAITING
        if self.waiting and crowded:  # one frame alone is taken however large it is
            self._skipped[QUEUE_FULL] += 1
            return False
        self.waiting += 1
        self.waiting_bytes += size
        self._jobs.put((seq, verdict, {name: bytes(part) for name, part in parts.items()}))
        return True

    def taken(self) -> list[Kept]:
        """Return what has been written since the last call, for ``Ledger.keep``."""
        kept = []
        while self._done:
            size, outcome = self._done.popleft()
            self.waiting -= 1
            self.waiting_bytes -= size
            if isinstance(outcome, Kept):
                kept.append(outcome)
            else:
                self._skipped[outcome] += 1
        return kept

    def skipped(self) -> Counter[str]:
        """Return how much evidence was not kept since the last call, by reason."""
        skipped, self._skipped = self._skipped, Counter()
        return skipped

    def close(self) -> None:
        """Write what is queued, then end the thread; ``taken`` still tells what it wrote."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            seq, verdict, parts = job
            size = sum(map(len, parts.values()))
            try:
                outcome: Kept | str = evidence.write(self.folder, seq, verdict, parts)
                self._trouble = ""
            except Exception as error:  # noqa: BLE001 -- the top of a thread: counted, recorded as skipped, logged once
                outcome = DISK_FULL if isinstance(error, LedgerFull) else DISK_ERROR
                self._complain(outcome, error)
            self._done.append((size, outcome))

    def _complain(self, trouble: str, error: Exception) -> None:
        """Log an error once until a file was written: a log must not fill the disk that is full already."""
        if trouble != self._trouble:
            expected = isinstance(error, LedgerError)
            log.warning("evidence is not kept: %s", error, exc_info=None if expected else error)
        self._trouble = trouble
