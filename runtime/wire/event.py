"""The event message: a swap and how it went, a state, a recipe picked, as the ledger has them. No socket in this file.

A part of ``runtime.wire.messages``, whose rules hold here too. For displays and alarms: what must not be lost is in the
ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import WireError
from runtime.wire.header import Buffer, expect_parts, integer, open_header, read_fields, seal, text, topic_name

EVENT_TOPIC_PREFIX = b"ead.v1.event."
EVENT_SCHEMA = "edgead.event"
#: Longest detail, in bytes.
MAX_DETAIL_BYTES = 32_768
_FIELDS = (topic_name("station"), text("kind"), integer("at_ns"), text("detail", MAX_DETAIL_BYTES))


@dataclass(frozen=True, slots=True)
class StationEvent:
    """One event. ``kind``: a word of ``runtime.ledger.Event``; ``at_ns``: UTC; ``detail``: JSON object."""

    station: str
    kind: str
    at_ns: int
    detail: Mapping[str, Any]


def encode_event(event: StationEvent) -> list[bytes]:
    """Return the two parts of an event message; raises ``WireError`` for one that is too long."""
    fields = {"station": event.station, "kind": event.kind, "at_ns": event.at_ns, "detail": json.dumps(event.detail)}
    return [EVENT_TOPIC_PREFIX + event.station.encode(), seal(EVENT_SCHEMA, fields)]


def decode_event(parts: Sequence[Buffer]) -> StationEvent:
    """Return the event in a message; raises ``WireError`` only."""
    expect_parts(parts, 2, 2)
    fields = read_fields(open_header(parts[1], EVENT_SCHEMA), _FIELDS)
    if bytes(parts[0]) != EVENT_TOPIC_PREFIX + fields["station"].encode():
        raise WireError("topic", f"expected the topic of station {fields['station']!r}, found {bytes(parts[0][:80])!r}")
    try:
        fields["detail"] = json.loads(fields["detail"])
    except (ValueError, RecursionError) as error:
        raise WireError("field", f"detail: expected a JSON object, found {fields['detail'][:60]!r}") from error
    if not isinstance(fields["detail"], dict):
        raise WireError("field", f"detail: expected a JSON object, found {type(fields['detail']).__name__}")
    return StationEvent(**fields)
