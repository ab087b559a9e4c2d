"""Answers one frame after another inside the worker process: slot in, detector, map and preview back into the slot.

Apart from ``runtime.worker`` because it imports torch: the process must heed signals and its host before that.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

import numpy as np
import torch

from runtime.answers import encode_map, encode_preview
from runtime.engine import Engine, ResultError
from runtime.errors import EdgeadError
from runtime.inspection import ErrorWord
from runtime.link import Link, one_line
from runtime.slots import Slots

log = logging.getLogger("edgead.worker")

#: Frames in a row a detector may raise on before its process ends and the host starts a fresh one: a CUDA fault, for
#: one, stays with the process for good.
MAX_FAILURES = 5


class Inspector:
    """One engine and the slots its frames lie in. ``map_encoding`` as in ``encode_map``; ``preview``: send one too."""

    def __init__(self, engine: Engine, slots: Slots, *, map_encoding: str, preview: bool) -> None:
        self._engine = engine
        self._slots = slots
        self._map_encoding = map_encoding
        self._preview = preview
        self._complaints: Counter[str] = Counter()

    def serve(self, link: Link) -> None:
        """Answer records until the host says stop or ``MAX_FAILURES``; raises ``EOFError`` when the host is gone."""
        failures = 0
        with torch.inference_mode():  # once for all frames: entering it takes as long as a small graph
            while failures < MAX_FAILURES:
                record = link.receive()
                if record is None or record["op"] == "stop":
                    return
                answer = self.inspect(record)
                failures = failures + 1 if answer.get("error") == ErrorWord.DETECTOR_ERROR else 0
                link.send(answer)
        log.error(
            "the detector raised on %d frames in a row: this process may be poisoned, a fresh one is needed", failures
        )

    def inspect(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record that answers one frame.

        The per-detector guard: anything the detector raises becomes an error word, never a verdict.
        """
        started = time.monotonic_ns()
        answer: dict[str, Any] = {"op": "done", "ticket": record["ticket"]}
        try:
            image = self._image(record)
            result = self._engine.infer(image)
            answer["score"] = result.score
            self._write(record["slot"], image, result.anomaly_map, answer)
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
