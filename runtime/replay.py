"""Computes a stored verdict once more: stored frame, stored template, stored detector version. `edgead replay`.

The same bits on the CPU are the proof that a verdict was made from this frame by this template and nothing else. On
another processor or with another number of threads the last bits may differ; the record then says by how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.errors import ConfigError, EdgeadError, LedgerError, PluginError
from runtime.inspection import Inspection, Verdict, decide
from runtime.ledger import Reader, evidence
from runtime.ledger.reader import find
from runtime.registry import Registry
from runtime.station.config import Station
from runtime.store import Store
from runtime.wire.messages import FRAME_TOPIC, decode_frame, decode_inspection
from runtime.worker.link import one_line

if TYPE_CHECKING:
    import numpy as np

    from runtime.detector import DetectorResult
    from runtime.store.template import Template


@dataclass(frozen=True, slots=True)
class Replay:
    """What was stored of an inspection beside what the detector says now. ``difference``: empty if not a bit differs.

    ``score`` is the new image score, ``verdict`` what it means under the template's threshold.
    """

    stored: Inspection
    score: float
    verdict: Verdict
    difference: str

    def as_json(self) -> dict[str, Any]:
        """Return what `edgead replay --json` prints."""
        stored = self.stored
        return {
            "result_id": stored.result_id,
            "seq": stored.seq,
            "camera": stored.camera,
            "template": stored.template,
            "detector": f"{stored.detector} {stored.detector_version}",
            "stored_verdict": stored.verdict.label,
            "stored_error": stored.error.value,
            "stored_score": stored.score,
            "verdict": self.verdict.label,
            "score": self.score,
            "same": not self.difference,
            "difference": self.difference,
        }


def replay(station: Station, result: str, registry: Registry, *, device: str | None = None) -> Replay:
    """Compute the inspection ``result`` (a ``result_id``, or a ``seq``) again, on ``device`` (None: the station's).

    Raises ``ConfigError`` for a station without ledger, ``LedgerError`` where inspection or evidence are not there (any
    more), ``TemplateError`` for a template that is gone or of another detector version than is installed,
    ``PluginError`` for a detector that is not installed.
    """
    if station.ledger is None:
        raise ConfigError(f"station {station.station} keeps no ledger: nothing can be replayed")
    with Reader(station.ledger.file) as reader:
        found = find(reader, result)
        kept = reader.evidence(found.seq)
    stored = decode_inspection(found.header)
    if kept is None:
        raise LedgerError(
            f"inspection {found.result_id}: expected its evidence, found none: it was not kept, or has been removed; "
            "see `evidence` in the station file and `edgead ledger show --events`"
        )
    parts = evidence.read(station.ledger.evidence_folder, kept)
    if "frame" not in parts:
        raise LedgerError(f"inspection {found.result_id}: expected a frame in its evidence, found {', '.join(parts)}")
    header, pixels = decode_frame([FRAME_TOPIC, parts["header"], parts["frame"]])
    template = Store(station.store).template(stored.template)
    image = _image(header.shape, pixels, swapped=header.pixel_format == "bgr8")
    answer = _infer(station, template, registry, image, device)
    threshold = template.manifest.thresholds.image
    verdict = Verdict.NOT_DECIDABLE if threshold is None else decide(answer.score, threshold)
    return Replay(stored, answer.score, verdict, _difference(stored, parts.get("map", b""), answer, verdict))


def _image(shape: tuple[int, int, int], pixels: memoryview, *, swapped: bool) -> np.ndarray:
    """Return a frame's pixels as the worker sees them: uint8 [H, W] or [H, W, 3] RGB; ``swapped``: they are BGR."""
    import numpy as np

    height, width, channels = shape
    image = np.frombuffer(pixels, np.uint8).reshape((height, width) if channels == 1 else shape)
    return np.ascontiguousarray(image[:, :, ::-1]) if swapped else image.copy()  # torch wants memory it may write to


def _infer(
    station: Station, template: Template, registry: Registry, image: np.ndarray, device: str | None
) -> DetectorResult:
    from runtime.engines.engine import Engine
    from runtime.engines.selftest import check_version

    detector = registry.detector(template.manifest.detector.name)
    check_version(template, detector.version)
    try:
        content = template.content()
        engine = Engine(detector, content, device=device or station.worker.device, threads=station.worker.threads)
        return engine.infer(image)
    except EdgeadError:
        raise
    except Exception as error:  # the per-detector guard: whatever a plugin does is told as this plugin's fault
        raise PluginError(detector.name, f"raised over the stored frame: {one_line(error)}") from error


def _difference(stored: Inspection, stored_map: bytes, answer: DetectorResult, verdict: Verdict) -> str:
    """Say where the new answer is not the stored one, bit for bit; empty if nowhere."""
    from runtime.wire.answers import encode_map

    if stored.verdict is Verdict.NOT_DECIDABLE:
        return f"the stored inspection is NotDecidable ({stored.error}); the detector now says {verdict.label}"
    if answer.score != stored.score or verdict is not stored.verdict:
        return f"expected score {stored.score!r} ({stored.verdict.label}), found {answer.score!r} ({verdict.label})"
    if stored.map is None:
        return ""
    payload = bytes(memoryview(encode_map(answer.anomaly_map, stored.map.encoding)[1]).cast("B"))  # type: ignore[arg-type]
    if payload == stored_map:
        return ""
    return f"the score is the same; of the map's {len(stored_map)} bytes {_differing(payload, stored_map)} differ"


def _differing(one: bytes, other: bytes) -> int:
    return abs(len(one) - len(other)) + sum(a != b for a, b in zip(one, other, strict=False))
