"""Promises about one frame's answer. Each function returns what it found, or raises why it is not kept."""

from __future__ import annotations

import time

import numpy as np
import torch

from calibration.calibrate import plant_damage
from calibration.conformance.outcomes import BrokenError
from calibration.conformance.pictures import ODD_SIZES, in_grey
from calibration.conformance.subject import SHAPE, Subject, same_bits
from runtime.engines.engine import ResultError

_ROUNDS = 5


def answer(subject: Subject) -> str:
    """Check that the graph gives two finite tensors float32 of the promised shapes."""
    content, frame = subject.content, subject.frame()
    graph = subject.detector.graph(content, SHAPE).eval()
    bank = subject.detector.bank(content)
    with torch.inference_mode():
        given = graph(torch.from_numpy(frame[None]), *bank.values())
    if not (isinstance(given, tuple) and len(given) == 2 and all(isinstance(each, torch.Tensor) for each in given)):  # noqa: PLR2004 - map and score
        raise BrokenError(f"forward returned {type(given).__name__}", "return (anomaly map, score), two tensors")
    wrong = [str(each.dtype) for each in given if each.dtype != torch.float32]
    if wrong:
        raise BrokenError(f"forward returned {', '.join(wrong)}", "return float32")
    try:
        subject.engine.infer(frame)
    except ResultError as error:
        raise BrokenError(str(error), "return map [1, *map_shape] and score [1], both finite") from error
    started = time.monotonic()
    for _ in range(_ROUNDS):
        subject.engine.infer(frame)
    height, width = content.map_shape
    return f"map {height} x {width}, {(time.monotonic() - started) / _ROUNDS * 1e3:.1f} ms a frame on one thread"


def repeat(subject: Subject) -> str:
    """Check that a frame has the same bits before and after another frame, and in another engine."""
    frame, other = subject.frame(), plant_damage(subject.frame(61))
    first = subject.engine.infer(frame)
    subject.engine.infer(other)
    if not same_bits(first, subject.engine.infer(frame)):
        raise BrokenError(
            "the same frame is answered differently the second time",
            "draw no random number in forward, keep no state between frames, and be in eval mode",
        )
    if not same_bits(first, subject.engine_of(subject.content, subject.fresh()).infer(frame)):
        raise BrokenError(
            "the same frame is answered differently by a second object with the same template",
            "let the graph depend on content and frame shape only",
        )
    return "same bits three times"


def variety(subject: Subject) -> str:
    """Refuse one value everywhere and one map for every frame: the host takes such an engine for dead."""
    first = subject.engine.infer(subject.frame()).anomaly_map
    second = subject.engine.infer(plant_damage(subject.frame(61))).anomaly_map
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise BrokenError("the map has one value everywhere", "the host takes that for a dead engine (result_bad)")
    if np.array_equal(first, second):
        raise BrokenError("two frames have one map", "the host takes that for a dead engine (result_bad)")
    return f"maps span {float(np.ptp(first)):.3g} and {float(np.ptp(second)):.3g}"


def grey(subject: Subject) -> str:
    """Inspect grey and colour frames with a template of colour references, and with one of grey ones."""
    for content in (subject.content, subject.learn(subject.pictures.grey)):
        engine = subject.engine_of(content)
        engine.infer(in_grey(subject.frame()))
        engine.infer(subject.frame())
    return "grey and colour frames, with colour and grey references"


def sizes(subject: Subject) -> str:
    """Take frames of sizes no network divides, and learn from references of different sizes."""
    for shape in ODD_SIZES:
        subject.engine.infer(subject.pictures.sized(60, shape))
    engine = subject.engine_of(subject.learn(subject.pictures.mixed))
    engine.infer(subject.frame())
    return f"{', '.join(f'{height} x {width}' for height, width in ODD_SIZES)}, mixed references"


def plain(subject: Subject) -> str:
    """Inspect frames without any structure: division by a spread of zero ends here."""
    scores = [subject.engine.infer(np.full(SHAPE, level, np.uint8)).score for level in (0, 255)]
    return f"scores {scores[0]:.4g} (black) and {scores[1]:.4g} (white)"
