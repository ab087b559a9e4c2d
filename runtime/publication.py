"""What is said of one frame to the outside: its inspection and its receipts, as values. No socket here."""

from __future__ import annotations

import time
from dataclasses import dataclass

from runtime.frame import FrameHeader
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.lane import Answer, Lane
from runtime.ledger import FrameKey
from runtime.ledger.records import OpenTrigger
from runtime.wire import Receipt


@dataclass(frozen=True, slots=True)
class Asker:
    """Who waits for a receipt: the identity of a camera's connection, and the frame it sent there."""

    identity: bytes
    session: int
    frame_id: int
    acquired_ns: int = 0


def inspection_of(lane: Lane, answer: Answer, *, seq: int, station: str, run_id: str) -> Inspection:
    """Return the inspection ``seq`` of an answered frame, published now."""
    header, manifest = answer.header, lane.template.manifest
    decided = answer.verdict is not Verdict.NOT_DECIDABLE
    return Inspection(
        result_id=f"{run_id}-{seq}",
        seq=seq,
        station=station,
        camera=header.camera,
        session=header.session,
        frame_id=header.frame_id,
        verdict=answer.verdict,
        error=answer.error,
        error_detail=answer.detail[:300],
        score=answer.score,
        threshold=lane.thresholds.image if decided else None,
        pixel_threshold=lane.thresholds.pixel if decided else None,
        product=manifest.product,
        detector=manifest.detector.name,
        detector_version=manifest.detector.version,
        template=lane.template.digest,
        frame_height=header.height,
        frame_width=header.width,
        acquired_ns=header.acquired_ns,
        received_ns=answer.received_ns,
        published_ns=time.time_ns(),
        queue_us=answer.queue_us,
        detect_us=answer.detect_us,
        latency_us=(time.monotonic_ns() - answer.admitted_ns) // 1000,
        trigger_id=header.trigger_id,
        part_id=header.part_id,
        source=header.source,
        simulated=header.simulated,
        map=answer.map,
        preview="jpeg" if answer.preview else None,
    )


def inspection_of_lost(waiting: OpenTrigger, lane: Lane | None, *, seq: int, station: str, run_id: str) -> Inspection:
    """Return the inspection ``seq`` of a trigger that an earlier, killed run of the host left open.

    ``lane``: of its camera, None if the station has it no longer. What only the frame's header knew is gone with it.
    """
    now_ns = time.time_ns()
    frame = waiting.frame or FrameKey(waiting.camera, 0, 0)
    manifest = lane.template.manifest if lane else None
    return Inspection(
        result_id=f"{run_id}-{seq}",
        seq=seq,
        station=station,
        camera=waiting.camera,
        session=frame.session,
        frame_id=frame.frame_id,
        verdict=Verdict.NOT_DECIDABLE,
        error=ErrorWord.HOST_LOST,
        error_detail="the host was killed before this trigger was answered",
        product=manifest.product if manifest else "",
        detector=manifest.detector.name if manifest else "",
        received_ns=waiting.received_ns,
        published_ns=now_ns,
        latency_us=max(0, now_ns - waiting.received_ns) // 1000,  # over two runs only the calendar's clock goes on
        trigger_id=waiting.trigger_id,
        part_id=waiting.part_id,
    )


def receipt_of(inspection: Inspection, asker: Asker) -> Receipt:
    """Return the receipt for a frame that ``inspection`` answers: its own, or one that repeats it."""
    return Receipt(
        camera=inspection.camera,
        session=asker.session,
        frame_id=asker.frame_id,
        accepted=True,
        seq=inspection.seq,
        verdict=inspection.verdict,
        error=inspection.error,
    )


def refusal_of(header: FrameHeader | None, reason: str) -> Receipt:
    """Return the receipt for a message refused for ``reason``; ``header`` is None if it could not be read."""
    camera, session, frame_id = (header.camera, header.session, header.frame_id) if header else ("", 0, 0)
    return Receipt(camera=camera, session=session, frame_id=frame_id, accepted=False, reason=reason)
