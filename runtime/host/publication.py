"""What is said of one frame or trigger to the outside: its inspection and receipts, as values. No socket here."""

from __future__ import annotations

import time
from dataclasses import dataclass

from runtime.frame import FrameHeader
from runtime.host.matcher import Open
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.lane.lane import Answer, Lane
from runtime.ledger import FrameKey
from runtime.ledger.records import OpenTrigger
from runtime.trigger import TriggerHeader
from runtime.wire.messages import Receipt


@dataclass(frozen=True, slots=True)
class Asker:
    """Who waits for a receipt: the identity of a connection, and the frame or the trigger that was sent there.

    ``trigger_id`` is None for a frame.
    """

    identity: bytes
    session: int = 0
    frame_id: int = 0
    acquired_ns: int = 0
    trigger_id: int | None = None


#: Receipts owed for one trigger, and as many for its frame, to who sends them again and again without waiting.
MOST_ASKERS = 64


@dataclass(frozen=True, slots=True)
class Demand:
    """A trigger without answer: who gets a receipt, and the trigger where it came ahead of its frame."""

    askers: list[Asker]
    ahead: Open | None = None


def add_asker(askers: list[Asker], asker: Asker) -> None:
    """Owe one more receipt; of more than ``MOST_ASKERS`` of its kind the oldest is left out, but for the first frame's.

    That one says which frame it was: by it another frame under its name is told apart.
    """
    askers.append(asker)
    is_frame = asker.trigger_id is None
    alike = [place for place, each in enumerate(askers) if (each.trigger_id is None) == is_frame]
    if len(alike) > MOST_ASKERS:
        del askers[alike[is_frame]]


def inspection_of(
    lane: Lane, answer: Answer, *, seq: int, station: str, run_id: str, ahead: Open | None = None
) -> Inspection:
    """Return the inspection ``seq`` of a frame, published now. ``ahead``: its trigger, where that came ahead of it."""
    header, manifest = answer.header, lane.template.manifest
    demanded_ns = answer.admitted_ns if ahead is None else ahead.admitted_ns
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
        latency_us=(time.monotonic_ns() - demanded_ns) // 1000,
        trigger_id=header.trigger_id,
        part_id=header.part_id,
        source=header.source,
        simulated=header.simulated,
        map=answer.map,
        preview="jpeg" if answer.preview else None,
        recipe=header.recipe,
        triggered_ns=None if ahead is None else ahead.header.raised_ns,
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
    """Return the receipt for a frame or trigger that ``inspection`` answers: its own, or one that repeats it."""
    is_frame = asker.trigger_id is None
    return Receipt(
        camera=inspection.camera,
        session=asker.session if is_frame else inspection.session,
        frame_id=asker.frame_id if is_frame else inspection.frame_id,
        accepted=True,
        seq=inspection.seq,
        verdict=inspection.verdict,
        error=inspection.error,
        message="frame" if is_frame else "trigger",
        trigger_id=inspection.trigger_id if is_frame else asker.trigger_id,
    )


def refusal_of(header: FrameHeader | TriggerHeader | None, reason: str, *, is_trigger: bool = False) -> Receipt:
    """Return the receipt for a message refused for ``reason``; ``header`` is None if it could not be read."""
    frame = header if isinstance(header, FrameHeader) else None
    return Receipt(
        camera=header.camera if header else "",
        session=frame.session if frame else 0,
        frame_id=frame.frame_id if frame else 0,
        accepted=False,
        reason=reason,
        message="trigger" if is_trigger else "frame",
        trigger_id=header.trigger_id if header else None,
    )
