"""What a subscriber's state looks like in the station's status."""

from __future__ import annotations

from typing import Any

from runtime.delivery.window import Window
from runtime.ledger.outbox import Lag


def figures(lag: Lag, window: Window | None, now_ns: int) -> dict[str, Any]:
    """Return one subscriber's figures by name; ``window`` is None while it is not connected, ``now_ns`` is UTC.

    ``lag``: results unacknowledged; ``oldest_unacked_s``: seconds since the first of them was published, or None;
    ``gap``: [first, last] of results removed unacknowledged, or None; ``in_flight``: deliveries sent, unacknowledged;
    ``delivered`` and ``historical`` (of these) count since this connection subscribed.
    """
    return {
        "connected": window is not None,
        "responds": window is not None and window.responds,
        "acked": lag.acked,
        "lag": lag.results,
        "oldest_unacked_s": None if lag.oldest_ns is None else max(0, now_ns - lag.oldest_ns) / 1e9,
        "gap": None if lag.gap is None else [lag.gap.from_seq, lag.gap.to_seq],
        "in_flight": window.in_flight if window else 0,
        "in_flight_bytes": window.in_flight_bytes if window else 0,
        "delivered": window.delivered if window else 0,
        "historical": window.historical if window else 0,
    }
