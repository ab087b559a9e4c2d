"""Answers one frame after another inside the worker process: slot in, detector, map and preview back into the slot.

Every check that keeps a broken camera or a dead engine from looking like a good part is made here, where pixels and
map are at hand: exposure and repetition before the detector; shape, numbers and signs of life after it.
Apart from ``runtime.worker.process`` because it imports torch: the process must heed signals and its host before that.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

import numpy as np
import torch

from runtime.detector import DetectorResult
from runtime.engines.engine import Engine, ResultError
from runtime.engines.selftest import KeptFrame, check_golden
from runtime.errors import EdgeadError
from runtime.inspection import ErrorWord
from runtime.wire.answers import encode_map, encode_preview
from runtime.worker.exposure import find_fault, sample_frame
from runtime.worker.lifesigns import Fingerprint, LifeSigns, fingerprint
from runtime.worker.link import Link, one_line
from runtime.worker.slots import Slots

log = logging.getLogger("edgead.worker")

#: Frames in a row a detector may raise on, or answer with what is no result, before its process ends and the host
#: starts a fresh one: a CUDA fault, for one, stays with the process for good.
MAX_FAILURES = 5
_DETECTOR_FAILED = (ErrorWord.DETECTOR_ERROR, ErrorWord.RESULT_BAD)


class FrameChecks:
    """What a frame must pass before the detector sees it, and a map before it counts.

    ``exposure``: limits as ``runtime.worker.exposure.find_fault`` takes them, None: any; ``repeat_limit`` as in
    ``LifeSigns``.
    """

    def __init__(self, exposure: dict[str, Any] | None, repeat_limit: int | None) -> None:
        self._exposure = exposure
        self._signs = LifeSigns(repeat_limit)
        self._mark: Fingerprint = ((), b"")

    def refuse(self, image: np.ndarray, record: dict[str, Any]) -> tuple[ErrorWord, str] | None:
        """Return error word and sentence for an image, uint8 [H, W] or [H, W, 3], no detector should see, or None.

        ``record``: the host's, with ``live`` and ``frame`` (session, frame_id).
        """
        sample = sample_frame(image)
        self._mark = fingerprint(sample)
        # A replayed or simulated picture may well come twice.
        frozen = self._signs.frozen(self._mark, tuple(record["frame"])) if record["live"] else None
        fault = find_fault(sample, **self._exposure) if self._exposure is not None else None
        if fault is not None:
            return ErrorWord.FRAME_EXPOSURE, fault
        return None if frozen is None else (ErrorWord.FRAME_REPEATED, frozen)

    def check_map(self, result: DetectorResult, detector: str) -> None:
        """Raise ``ResultError`` for a map no living engine gives for the image that ``refuse`` let pass last."""
        dead = self._signs.dead(self._mark, result.anomaly_map)
        if dead is not None:
            raise ResultError(detector, dead)


class Inspector:
    """One engine and the slots its frames lie in. ``map_encoding`` as in ``encode_map``; ``preview``: send one too.

    ``golden``: the frame that is answered again when the host asks for a self-test, None if the template has none.
    """

    def __init__(
        self,
        engine: Engine,
        slots: Slots,
        checks: FrameChecks,
        golden: KeptFrame | None = None,
        *,
        map_encoding: str,
        preview: bool,
    ) -> None:
        self._engine = engine
        self._slots = slots
        self._checks = checks
        self._golden = golden
        self._map_encoding = map_encoding
        self._preview = preview
        self._complaints: Counter[str] = Counter()

    def serve(self, link: Link) -> None:
        """Answer records until the host says stop, ``MAX_FAILURES`` or a self-test that fails.

        Raises ``EOFError`` when the host is gone.
        """
        failures = 0
        with torch.inference_mode():  # once for all frames: entering it takes as long as a small graph
            while failures < MAX_FAILURES:
                record = link.receive()
                if record is None or record["op"] == "stop":
                    return
                if record["op"] == "ping":
                    answer = self.sign_of_life(record)
                    link.send(answer)
                    if answer["op"] == "unfit":
                        return
                    continue
                answer = self.inspect(record)
                link.send(answer)
                if answer.get("error") in _DETECTOR_FAILED:
                    failures += 1
                elif answer["op"] == "done":
                    failures = 0
        log.error(
            "the detector failed on %d frames in a row: this process may be poisoned, a fresh one is needed", failures
        )

    def sign_of_life(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record that answers a ping; where it asks for a self-test, one golden frame is answered first."""
        tests = bool(record["golden"]) and self._golden is not None
        if tests and self._golden is not None:
            try:
                check_golden(self._engine, self._golden, "asked again while idle")
            except Exception as error:  # noqa: BLE001 - the per-detector guard: the host logs it and starts another
                return {"op": "unfit", "error": one_line(error)}
        return {"op": "alive", "golden": tests}

    def inspect(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record that answers one frame.

        The per-detector guard: anything the detector raises becomes an error word, never a verdict.
        """
        started = time.monotonic_ns()
        answer: dict[str, Any] = {"op": "done", "ticket": record["ticket"]}
        try:
            image = self._image(record)
            refusal = self._checks.refuse(image, record)
            if refusal is None:
                result = self._engine.infer(image)
                self._checks.check_map(result, self._engine.detector.name)
                answer["score"] = result.score
                self._write(record["slot"], image, result.anomaly_map, answer)
            else:
                answer.update(op="undecided", error=refusal[0].value, detail=refusal[1])
        except ResultError as error:
            answer.update(op="undecided", error=ErrorWord.RESULT_BAD.value, detail=one_line(error))
        except Exception as error:  # noqa: BLE001 - the per-detector guard: logged by _complain, answered, counted
            self._complain(error)
            answer.update(op="undecided", error=ErrorWord.DETECTOR_ERROR.value, detail=one_line(error))
        answer["detect_us"] = (time.monotonic_ns() - started) // 1000
        return answer

    def _image(self, record: dict[str, Any]) -> np.ndarray:
        """Return the slot's frame as uint8 [H, W] or [H, W, 3] RGB, uncopied unless the channels must be swapped."""
        height, width, channels = record["shape"]
        room = self._slots.frame(record["slot"], height * width * channels)
        image = np.ndarray((height, width) if channels == 1 else (height, width, channels), np.uint8, room)
        return np.ascontiguousarray(image[:, :, ::-1]) if record["format"] == "bgr8" else image

    def _write(self, slot: int, image: np.ndarray, anomaly_map: np.ndarray, answer: dict[str, Any]) -> None:
        """Put the encoded map and preview into the slot and describe them in ``answer``."""
        info, payload = encode_map(anomaly_map, self._map_encoding)
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
