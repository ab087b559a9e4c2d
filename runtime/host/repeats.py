"""Whether a trigger was raised before: what its receipt must then say is the first one's answer."""

from __future__ import annotations

from runtime.inspection import ErrorWord
from runtime.ledger import Ledger
from runtime.ledger.records import Earlier
from runtime.trigger import TriggerHeader
from runtime.wire.messages import decode_inspection

#: How long a trigger that a killed host left open is taken to be sent again, rather than a counter to have begun anew.
RESENT_NS = 600 * 1_000_000_000
#: Triggers of one number looked at, newest first; a source that repeats one older than these has lost count.
MOST_LOOKED_AT = 16


def raised_before(ledger: Ledger, header: TriggerHeader, received_ns: int, repeat_ns: int) -> Earlier | None:
    """Return the answered trigger that ``header`` repeats, None if it is a new one.

    The same number for the same part is the same trigger if it was raised at the same time, or within ``repeat_ns`` (0:
    that is not asked): a counter begins again when its PLC restarts. Raises ``LedgerError``.
    """
    if repeat_ns:
        repeated = ledger.find_trigger(header.camera, header.trigger_id, header.part_id, received_ns - repeat_ns)
        if repeated is not None:
            return repeated
    for found in ledger.newest_triggers(header.camera, header.trigger_id, MOST_LOOKED_AT):
        if found.part_id != header.part_id or found.earlier.header is None:
            continue
        inspection = decode_inspection(found.earlier.header)
        if inspection.error is ErrorWord.HOST_LOST:  # of that trigger only number and part are known
            if received_ns - found.received_ns <= RESENT_NS:
                return found.earlier
        elif header.raised_ns is not None and inspection.triggered_ns == header.raised_ns:
            return found.earlier
    return None
