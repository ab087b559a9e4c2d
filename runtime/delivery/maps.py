"""Maps of results that are no longer live: read from the evidence the ledger keeps, in a thread of their own.

Evidence is read whole and proven, frame and all: some milliseconds for a large frame on a quick disk, far more on a
worn one. The host's thread answers triggers, so it only asks, and asks again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from runtime.delivery.window import WINDOW_BYTES
from runtime.errors import LedgerError
from runtime.ledger import evidence
from runtime.ledger.reader import Reader

log = logging.getLogger("edgead.deliveries")

#: Returns the stored map of inspection ``seq``, or None where none is kept; called in a thread of its own.
MapOf: TypeAlias = Callable[[int], bytes | None]


def stored_maps(ledger: Path, folder: Path) -> MapOf:
    """Return what ``Deliveries`` asks for maps; ``ledger``: its file, ``folder``: of the evidence.

    Evidence that cannot be read is logged and counts as not kept: the result itself must still be delivered.
    """

    def map_of(seq: int) -> bytes | None:
        try:
            with Reader(ledger) as reader:  # a connection belongs to one thread, and one left open keeps the log
                kept = reader.evidence(seq)
            return None if kept is None else evidence.read(folder, kept).get("map")
        except LedgerError as error:
            log.warning("the map of result %d is not delivered: %s", seq, error)
            return None

    return map_of


class MapReads:
    """Reads one batch of maps at a time, for one owner, in a thread that ends with the batch.

    At most ``WINDOW_BYTES`` and one map are held, whoever is slow to fetch them.
    """

    def __init__(self, map_of: MapOf) -> None:
        self._map_of = map_of
        self._owner: object | None = None
        self._maps: dict[int, bytes | None] = {}
        self._thread: threading.Thread | None = None

    def batch(self, owner: object, seqs: Sequence[int]) -> dict[int, bytes | None] | None:
        """Return an owner's maps by ``seq``, as many of the first as were read; None while there is none: ask again.

        ``seqs``: what to read for an owner who waits for nothing. Never blocks.
        """
        if self._thread is not None and self._thread.is_alive():
            return None
        if self._owner is owner:
            self._owner = None
            return self._maps
        if self._owner is None:
            self._owner, self._maps = owner, {}
            self._thread = threading.Thread(
                target=self._read, args=(self._maps, tuple(seqs)), name="delivery-maps", daemon=True
            )
            self._thread.start()
        return None

    def drop(self, owner: object) -> None:
        """Forget what was read for an owner that has gone."""
        if self._owner is owner:
            self._owner = None

    def close(self) -> None:
        """Wait for the batch that is being read."""
        if self._thread is not None:
            self._thread.join()

    def _read(self, maps: dict[int, bytes | None], seqs: Sequence[int]) -> None:
        size = 0
        for seq in seqs:
            try:
                payload = self._map_of(seq)
            except Exception:  # the top of a thread: logged, and the result goes without its map
                log.exception("the map of result %d is not delivered", seq)
                payload = None
            maps[seq] = payload
            size += 0 if payload is None else len(payload)
            if size >= WINDOW_BYTES:
                return
