"""The answer to one frame: verdict, score, and why there is none when there is none.

Failure is a verdict. Anything that kept a detector from answering is ``NOT_DECIDABLE`` with an error word; the record
refuses to exist in any combination that a PLC could mistake for a good part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Verdict(IntEnum):
    """Result evaluation as in OPC 40001-101 ``ResultEvaluationEnum`` (same numbers)."""

    UNDEFINED = 0
    OK = 1
    NOT_OK = 2
    NOT_DECIDABLE = 3

    @property
    def label(self) -> str:
        """The OPC spelling: Undefined, OK, NotOK, NotDecidable."""
        return ("Undefined", "OK", "NotOK", "NotDecidable")[self]


class ErrorWord(StrEnum):
    """Why a frame could not be decided. ``code`` is the number a PLC reads; words and codes are never reused."""

    NONE = "none"
    CAMERA_LOST = "camera_lost"
    FRAME_BAD = "frame_bad"
    DETECTOR_TIMEOUT = "detector_timeout"
    DETECTOR_CRASH = "detector_crash"
    TEMPLATE_MISSING = "template_missing"
    ACTIVATION_REFUSED = "activation_refused"
    SINK_DOWN = "sink_down"
    DISK_FULL = "disk_full"
    CLOCK_UNSYNCED = "clock_unsynced"
    BAD_COMMAND = "bad_command"
    OVERLOAD = "overload"
    DETECTOR_ERROR = "detector_error"
    RESULT_BAD = "result_bad"
    DETECTOR_STARTING = "detector_starting"
    STOPPING = "stopping"
    THRESHOLD_MISSING = "threshold_missing"
    HOST_LOST = "host_lost"
    FRAME_EXPOSURE = "frame_exposure"
    FRAME_REPEATED = "frame_repeated"

    @property
    def code(self) -> int:
        """0 for none, then 1, 2, ... in the order above (docs/protocol.md prints the table)."""
        return _CODES[self]


_CODES = {word: code for code, word in enumerate(ErrorWord)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapInfo:
    """How the anomaly map part is encoded.

    ``encoding`` "raw": ``dtype`` "float16", little-endian, row-major [height, width]; ``scale`` 1, ``offset`` 0.
    "png16": ``dtype`` "uint16", a 16-bit grey PNG; value = offset + scale * pixel.
    The map covers the whole frame: with pixel edges on integers, the centre of map pixel (y, x) is the frame point
    ((y + 0.5) * frame height / height, (x + 0.5) * frame width / width).
    """

    encoding: str
    dtype: str
    height: int
    width: int
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The immutable record of one frame, exactly one for every frame the host took in.

    Times: ``*_ns`` of the calendar are UTC nanoseconds since 1970; ``queue_us``, ``detect_us`` and ``latency_us`` are
    microseconds on the monotonic clock (waiting, worker, taken in to published: the trigger where it came ahead, else
    the frame). ``triggered_ns``: when the trigger's source raised it, where it came ahead of the frame and says so; a
    trigger that got no frame has ``session``, ``frame_id`` and the frame's sizes 0. ``recipe``: as asked for.
    ``score`` is raw: higher = more anomalous, never rescaled by a batch; a frame is NotOK when score > threshold.
    Building one that breaks a rule of ``__post_init__`` raises ``ValueError``.
    """

    result_id: str
    seq: int
    station: str
    camera: str
    session: int
    frame_id: int
    verdict: Verdict
    error: ErrorWord = ErrorWord.NONE
    error_detail: str = ""
    score: float | None = None
    threshold: float | None = None
    pixel_threshold: float | None = None
    product: str = ""
    detector: str = ""
    detector_version: str = ""
    template: str = ""
    frame_height: int = 0
    frame_width: int = 0
    acquired_ns: int = 0
    received_ns: int = 0
    published_ns: int = 0
    queue_us: int = 0
    detect_us: int = 0
    latency_us: int = 0
    trigger_id: int | None = None
    part_id: str = ""
    source: str = ""
    simulated: bool = False
    historical: bool = False
    map: MapInfo | None = None
    preview: str | None = None
    recipe: str = ""
    triggered_ns: int | None = None

    def __post_init__(self) -> None:
        """Refuse every record that could pass a bad part: the last line of defence, whatever came before it."""
        if type(self.verdict) is not Verdict or self.verdict is Verdict.UNDEFINED:
            raise ValueError(f"an inspection is OK, NotOK or NotDecidable, found {self.verdict!r}")
        if type(self.error) is not ErrorWord:
            raise ValueError(f"expected an ErrorWord as error, found {self.error!r}")
        for name in ("score", "threshold", "pixel_threshold"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"expected a finite {name} or none, found {value}")
        if self.verdict is Verdict.NOT_DECIDABLE:
            if self.error is ErrorWord.NONE:
                raise ValueError("a NotDecidable inspection names its error word, found none")
            return
        if self.error is not ErrorWord.NONE:
            raise ValueError(f"a decided inspection has no error word, found {self.error}")
        if self.score is None or self.threshold is None:
            raise ValueError(f"a decided inspection has score and threshold, found {self.score}, {self.threshold}")
        if self.verdict is not decide(self.score, self.threshold):
            raise ValueError(
                f"verdict {self.verdict.label} contradicts score {self.score} against threshold {self.threshold}"
            )


def decide(score: float, threshold: float) -> Verdict:
    """Return NotOK when ``score > threshold``, else OK.

    Raises ``ValueError`` for a number that is not finite: every comparison with NaN is false, and false must not
    mean OK.
    """
    if not (math.isfinite(score) and math.isfinite(threshold)):
        raise ValueError(f"expected a finite score and threshold, found {score} and {threshold}")
    return Verdict.NOT_OK if score > threshold else Verdict.OK
