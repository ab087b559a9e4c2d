"""A thread that moves what was committed from the write-ahead log into the ledger file, and syncs the disk.

The writer never syncs: a sync on an eMMC card takes milliseconds, and the writer is the thread that answers triggers.
This thread runs a passive checkpoint at an interval, which takes no lock the writer needs. The interval therefore
bounds what a power cut can lose (the newest records, never the middle of the chain); killing the process loses nothing.

The log is begun anew by the first write that finds all of it moved. On a busy line no write does: one always comes
while the thread is at work, and the log would grow for ever. So a thread that leaves a long log behind asks the writer
(``overdue``) to move the little that is left itself, before its next write: a sync every few seconds at most.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from runtime.ledger.errors import LedgerFull, told
from runtime.ledger.schema import PAGE_BYTES, WAL_BYTES

log = logging.getLogger("edgead.ledger")


class Checkpointer:
    """Runs from construction to ``close``. ``trouble`` is why the last turn failed, empty after one that did not."""

    def __init__(self, path: Path, interval_s: float) -> None:
        self.trouble = ""
        #: Whether ``trouble`` is a full disk: the log then grows until there is room.
        self.full = False
        #: Whether the log is long, and all but its end has just been moved.
        self.overdue = False
        self._path = path
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-checkpointer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; it finishes the turn it is in."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._turn()
                self.trouble, self.full = "", False
            except Exception as error:  # noqa: BLE001 -- the top of a thread: recorded, shown by the status, tried again
                if not self.trouble:
                    log.warning("%s", error)
                self.trouble, self.full = str(error), isinstance(error, LedgerFull)

    def _turn(self) -> None:
        # A connection per turn: one kept open would leave the file's last reader to this thread when the writer closes.
        with told("checkpoint", self._path):
            connection = sqlite3.connect(self._path, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous=NORMAL")
                _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self.overdue = pages * PAGE_BYTES > WAL_BYTES
            finally:
                connection.close()
