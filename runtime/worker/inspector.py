"""What is done with one lane's frames inside the worker process, before the detector and after it: slot in, slot out.

Every check that keeps a broken camera or a dead engine from looking like a good part is made here, where pixels and
map are at hand: exposure and repetition before the detector; shape, numbers and signs of life after it.
Apart from ``runtime.worker.process`` because it imports torch: the process must heed signals and its host before that.
Whose frame is next, and which go to the detector together, ``runtime.worker.rounds`` says.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np

from runtime.detector import DetectorResult
from runtime.engines.engine import ResultError
from runtime.errors import EdgeadError
from runtime.inspection import ErrorWord
from runtime.wire.answers import encode_map, encode_preview
from runtime.worker.exposure import find_fault, sample_frame
from runtime.worker.half import to_float16
from runtime.worker.lifesigns import CameraSigns, EngineSigns, Fingerprint, fingerprint
from runtime.worker.link import one_line
from runtime.worker.slots import Slots

log = logging.getLogger("edgead.worker")


class FrameChecks:
    """What a frame of one camera must pass before the detector sees it, and a map before it counts.

    ``exposure``: limits as ``runtime.worker.exposure.find_fault`` takes them, None: any; ``repeat_limit`` as in
    ``CameraSigns``; ``engine``: signs of the engine that answers, for all cameras together.
    """

    def __init__(self, exposure: dict[str, Any] | None, repeat_limit: int | None, engine: EngineSigns) -> None:
        self._exposure = exposure
        self._camera = CameraSigns(repeat_limit)
        self._engine = engine
        self._mark: Fingerprint = ((), b"")

    def refuse(self, image: np.ndarray, record: dict[str, Any]) -> tuple[ErrorWord, str] | None:
        """Return error word and sentence for an image, uint8 [H, W] or [H, W, 3], no detector should see, or None.

        ``record``: the host's, with ``live`` and ``frame`` (session, frame_id).
        """
        sample = sample_frame(image)
        self._mark = fingerprint(sample)
        # A replayed or simulated picture may well come twice.
        frozen = self._camera.frozen(self._mark, tuple(record["frame"])) if record["live"] else None
        fault = find_fault(sample, **self._exposure) if self._exposure is not None else None
        if fault is not None:
            return ErrorWord.FRAME_EXPOSURE, fault
        return None if frozen is None else (ErrorWord.FRAME_REPEATED, frozen)

    def check_map(self, result: DetectorResult, detector: str) -> None:
        """Raise ``ResultError`` for a map no living engine gives for the image that ``refuse`` let pass last."""
        dead = self._engine.dead(self._mark, result.anomaly_map)
        if dead is not None:
            raise ResultError(detector, dead)


class Inspector:
    """One lane's frames: the slots they lie in, their checks, and how their answers are written.

    ``detector``: its name, for messages. ``map_encoding`` as in ``encode_map``; ``preview``: send one too.
    """

    def __init__(self, slots: Slots, checks: FrameChecks, detector: str, *, map_encoding: str, preview: bool) -> None:
        self._slots = slots
        self._checks = checks
        self._detector = detector
        self._map_encoding = map_encoding
        self._preview = preview
        self._complaints: Counter[str] = Counter()

    def begin(self, record: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        """Return the answer to a frame as far as it is known, and what the detector is to see of it: uint8 [H, W(, 3)].

        None: it is to see nothing, the answer stands.
        """
        answer: dict[str, Any] = {"op": "done", "ticket": record["ticket"]}
        try:
            image = self._image(record)
            refusal = self._checks.refuse(image, record)
        except Exception as error:  # noqa: BLE001 - the per-detector guard: logged by _complain, answered, counted
            self._fail(answer, error)
            return answer, None
        if refusal is None:
            return answer, image
        answer.update(op="undecided", error=refusal[0].value, detail=refusal[1])
        return answer, None

    def finish(
        self, record: dict[str, Any], answer: dict[str, Any], image: np.ndarray, outcome: DetectorResult | Exception
    ) -> None:
        """Complete what ``begin`` gave with what the detector returned or raised; nothing it did is a verdict."""
        if isinstance(outcome, Exception):
            self._fail(answer, outcome)
            return
        try:
            self._checks.check_map(outcome, self._detector)
            answer["score"] = outcome.score
            self._write(record["slot"], image, outcome.anomaly_map, answer)
        except Exception as error:  # noqa: BLE001 - the per-detector guard: logged by _complain, answered, counted
            self._fail(answer, error)

    def mark_begun(self, *, begun: bool) -> None:
        """Leave word for the host, should this process die: whether it was at a frame of this lane."""
        self._slots.begun = begun

    def close(self) -> None:
        """Give the slots back; what lies there is no longer used."""
        self._slots.close()

    def _fail(self, answer: dict[str, Any], error: Exception) -> None:
        if isinstance(error, ResultError):
            answer.update(op="undecided", error=ErrorWord.RESULT_BAD.value, detail=one_line(error))
        else:
            self._complain(error)
            answer.update(op="undecided", error=ErrorWord.DETECTOR_ERROR.value, detail=one_line(error))

    def _image(self, record: dict[str, Any]) -> np.ndarray:
        """Return the slot's frame as uint8 [H, W] or [H, W, 3] RGB, uncopied unless the channels must be swapped."""
        height, width, channels = record["shape"]
        room = self._slots.frame(record["slot"], height * width * channels)
        image = np.ndarray((height, width) if channels == 1 else (height, width, channels), np.uint8, room)
        return np.ascontiguousarray(image[:, :, ::-1]) if record["format"] == "bgr8" else image

    def _write(self, slot: int, image: np.ndarray, anomaly_map: np.ndarray, answer: dict[str, Any]) -> None:
        """Put the encoded map and preview into the slot and describe them in ``answer``."""
        info, payload = encode_map(anomaly_map, self._map_encoding, to_float16)
        map_bytes = memoryview(payload).cast("B")  # type: ignore[arg-type]
        preview = encode_preview(image) if self._preview else b""
        total = map_bytes.nbytes + len(preview)
        if total > self._slots.answer_bytes:
            raise EdgeadError(f"expected an answer of at most {self._slots.answer_bytes} bytes, found {total}")
        room = self._slots.answer(slot, total)
        room[: map_bytes.nbytes] = map_bytes
        room[map_bytes.nbytes :] = preview
        answer["map_bytes"], answer["preview_bytes"] = map_bytes.nbytes, len(preview)
        if info:
            answer["map"] = {
                "encoding": info.encoding,
                "dtype": info.dtype,
                "height": info.height,
                "width": info.width,
                "scale": info.scale,
                "offset": info.offset,
            }

    def _complain(self, error: Exception) -> None:
        """Log an error with its traceback the first time, then every thousandth: a log must not fill the disk."""
        text = one_line(error)[:80]
        if len(self._complaints) >= 1000:  # noqa: PLR2004 - texts that differ every time
            self._complaints.clear()
        self._complaints[text] += 1
        if self._complaints[text] % 1000 == 1:
            log.error("the detector raised (%d times so far)", self._complaints[text], exc_info=error)
