"""What the ledger takes and gives: names of frames, triggers that wait, answers given earlier. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.inspection import Inspection, Verdict
from runtime.ledger.schema import signed


@dataclass(frozen=True, slots=True)
class FrameKey:
    """What names a frame for ever: camera, the random session (u64) of its process, and its number there (u64)."""

    camera: str
    session: int
    frame_id: int

    def columns(self) -> tuple[str, int, int]:
        """Return the key as it is stored."""
        return (self.camera, signed(self.session), signed(self.frame_id))


@dataclass(frozen=True, slots=True)
class OpenTrigger:
    """A trigger without inspection. ``trigger``: its record number. Times are UTC nanoseconds.

    ``frame`` is None while a trigger that came ahead of its frame still waits for it.
    """

    trigger: int
    camera: str
    trigger_id: int | None
    part_id: str
    received_ns: int
    deadline_ns: int
    frame: FrameKey | None = None


@dataclass(frozen=True, slots=True)
class Earlier:
    """A trigger already known, found again. ``seq`` and ``header`` (the result as sent) are None while it is open."""

    trigger: int
    seq: int | None = None
    header: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """A trigger recorded without knowing whether it came before: it must not be inspected, only answered.

    Its frame, if there was one, is recorded as dropped.
    """

    trigger: int


@dataclass(frozen=True, slots=True)
class EarlierTrigger:
    """A trigger raised before: its part, when it was received (UTC nanoseconds), and its answer."""

    part_id: str
    received_ns: int
    earlier: Earlier


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of evidence on the disk: what ``seq`` was decided from. ``size``: bytes; ``sha256``: 32 bytes, of all."""

    seq: int
    verdict: Verdict
    size: int
    sha256: bytes


def inspection_columns(trigger: int, framed: bool, inspection: Inspection, header: bytes) -> tuple[object, ...]:
    """Return the chained columns of an inspection, in the order of ``schema.COLUMNS``."""
    return (
        inspection.seq,
        trigger,
        int(framed),
        inspection.result_id,
        inspection.camera,
        inspection.part_id,
        int(inspection.verdict),
        inspection.error.value,
        # SQLite does not keep the sign of zero, and the hash would notice.
        None if inspection.score is None else inspection.score + 0.0,
        inspection.product,
        inspection.detector,
        inspection.detector_version,
        inspection.template,
        signed(inspection.received_ns),
        signed(inspection.published_ns),
        inspection.latency_us,
        header,
    )
