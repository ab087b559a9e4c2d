"""Maps of results that are no longer live: read from the evidence the ledger keeps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from runtime.errors import LedgerError
from runtime.ledger import evidence
from runtime.ledger.reader import Reader

log = logging.getLogger("edgead.deliveries")


def stored_maps(reader: Reader, folder: Path) -> Callable[[int], bytes | None]:
    """Return what ``Deliveries`` asks for maps: inspection ``seq`` in, its map payload out, None where none is kept.

    ``folder``: of the evidence. A call reads one file whole and proves it (some milliseconds for a large frame);
    evidence that cannot be read is logged and counts as not kept: the result itself must still be delivered.
    """

    def map_of(seq: int) -> bytes | None:
        try:
            kept = reader.evidence(seq)
            return None if kept is None else evidence.read(folder, kept).get("map")
        except LedgerError as error:
            log.warning("the map of result %d is not delivered: %s", seq, error)
            return None

    return map_of
