"""Records of a ledger as plain values, for tables, JSON and files: what `edgead ledger show|export` prints."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from runtime.inspection import Verdict
from runtime.ledger.reader import Reader, StoredEvent, StoredInspection, find
from runtime.wire.messages import decode_inspection

#: Columns of the table of inspections and of that of events, with their headings.
HEADINGS = {
    "seq": "seq",
    "published": "published (UTC)",
    "camera": "camera",
    "verdict": "verdict",
    "error": "error",
    "score": "score",
    "latency_ms": "ms",
    "part_id": "part",
}
EVENT_HEADINGS = {"record": "record", "at": "at (UTC)", "kind": "kind", "detail": "detail"}


def inspection_rows(reader: Reader, after: int, verdict: Verdict | None) -> Iterator[dict[str, Any]]:
    """Yield the inspections after ``seq`` = ``after``, oldest first, of one verdict if one is given."""
    return map(_inspection, reader.inspections(after=after, verdict=verdict))


def event_rows(reader: Reader, after: int) -> Iterator[dict[str, Any]]:
    """Yield the events after record ``after``, oldest first."""
    return map(_event, reader.events(after=after))


def newest_inspections(reader: Reader, count: int, verdict: Verdict | None) -> list[dict[str, Any]]:
    """Return the newest inspections, oldest of them first. Those of one verdict are looked for in the whole ledger."""
    _, _, seq, _ = reader.head()
    after = max(0, seq - count) if verdict is None else 0
    return list(deque(inspection_rows(reader, after, verdict), maxlen=count))


def newest_events(reader: Reader, count: int) -> list[dict[str, Any]]:
    """Return the newest events, oldest of them first."""
    return list(deque(event_rows(reader, 0), maxlen=count))


def whole(reader: Reader, result: str) -> dict[str, Any]:
    """Return one inspection, by ``result_id`` or ``seq``, with every field of its result. Raises ``LedgerError``."""
    found = find(reader, result)
    inspection = decode_inspection(found.header)
    fields = asdict(inspection) | {"verdict": inspection.verdict.label, "error": inspection.error.value}
    kept = reader.evidence(found.seq)
    return fields | {"record": found.record, "evidence_bytes": kept.size if kept else None}


def _inspection(stored: StoredInspection) -> dict[str, Any]:
    return {
        "seq": stored.seq,
        "result_id": stored.result_id,
        "published": utc(stored.published_ns),
        "received_ns": stored.received_ns,
        "published_ns": stored.published_ns,
        "latency_ms": stored.latency_us / 1000,
        "camera": stored.camera,
        "session": stored.frame.session if stored.frame else None,
        "frame_id": stored.frame.frame_id if stored.frame else None,
        "part_id": stored.part_id,
        "verdict": stored.verdict.label,
        "error": stored.error.value,
        "score": stored.score,
        "product": stored.product,
        "detector": stored.detector,
        "detector_version": stored.detector_version,
        "template": stored.template,
        "record": stored.record,
    }


def _event(stored: StoredEvent) -> dict[str, Any]:
    return {
        "record": stored.record,
        "at": utc(stored.at_ns),
        "at_ns": stored.at_ns,
        "kind": stored.kind,
        "detail": stored.detail,
    }


def utc(at_ns: int) -> str:
    """Return UTC nanoseconds as ISO 8601, to the millisecond; empty for a time no calendar holds."""
    try:
        return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return ""
