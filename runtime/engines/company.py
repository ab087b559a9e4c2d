"""What answering several frames at once must prove: every frame's answer is its own, whoever its neighbours are.

The parity gate for one frame, asked twice more: golden frames among golden frames, and golden frames in another order
and at other places among neighbours as unlike them as frames can be. And it must pay: on a machine that one frame
keeps busy, several at once only make the first of them wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, cycle, islice

import numpy as np

from runtime.detector import DetectorResult
from runtime.engines.engine import Engine
from runtime.engines.parity import FrameParity, GoldenReport, compare_under, law_of
from runtime.engines.program import Batches, Program
from runtime.engines.shapes import Shape
from runtime.errors import EngineError
from runtime.store.template import GoldenFrame

#: Frames at once are used only where they take at most this share of the time of as many one by one.
WORTH = 0.95
#: Turns one frame and several have; the least time counts, because a busy neighbour only ever adds.
_ROUNDS = 3


def prove(
    engine: Engine,
    programs: Mapping[Shape, Program],
    size: int,
    golden: Sequence[GoldenFrame],
    *,
    threshold: float | None,
    precision: str,
) -> GoldenReport:
    """Answer golden frames in company, by ``programs`` for ``size`` (at least 2) frames; report each one's worse time.

    ``threshold`` and ``precision`` as ``runtime.engines.parity.compare_golden`` takes them; golden frames of a shape
    without program are left out. Raises ``EngineError`` where a program fails or answers in another shape.
    """
    law = law_of(golden, threshold, precision)
    worst: dict[int, FrameParity] = {}
    for shape, program in programs.items():
        places = [place for place, each in enumerate(golden) if shape_of(each.frame) == shape]
        frames = [golden[place].frame for place in places]
        for company in chain(_among_golden(frames, size), _among_strangers(frames, size)):
            answers = _ask(engine, program, size, [frame for _, frame in company])
            for (number, _), answer in zip(company, answers, strict=True):
                if number is not None:
                    place = places[number]
                    (each,) = compare_under(law, [golden[place]], [answer]).frames
                    worst[place] = max(worst.get(place, each), each, key=_strain)
    return GoldenReport(tuple(replace(worst[place], index=place) for place in sorted(worst)), precision)


def worth_it(engine: Engine, program: Program, size: int, frame: np.ndarray) -> tuple[int, str]:
    """Return from how many frames on a program for ``size`` pays, at most ``size``, and a sentence with the figures.

    0: not even ``size`` frames are answered sooner by it than one by one.
    """
    frames = [frame] * size
    one_ms, many_ms = _least_ms(lambda: engine.infer(frame), lambda: _ask(engine, program, size, frames))
    least = next((count for count in range(2, size + 1) if many_ms <= WORTH * count * one_ms), 0)
    return least, f"{size} frames at once take {many_ms:.3g} ms, one takes {one_ms:.3g} ms"


def bring_together(engine: Engine, programs: Mapping[Shape, Program], size: int, golden: Sequence[GoldenFrame]) -> str:
    """Let the engine answer up to ``size`` frames by ``programs``, which are proven, where that pays.

    Returns why frames still go one by one, or "".
    """
    shape = next(iter(programs))
    frame = next(each.frame for each in golden if shape_of(each.frame) == shape)
    least, figures = worth_it(engine, programs[shape], size, frame)
    if not least:
        return figures
    engine.use_batches(Batches(size, least, programs))
    return ""


def shape_of(frame: np.ndarray) -> Shape:
    """Return (height, width, channels) of a frame, uint8 [H, W] or [H, W, C]."""
    height, width, channels = (*frame.shape, 1)[:3]
    return height, width, channels


#: The frames of one batch, each with the number of the golden frame it is; None: a neighbour nobody asks about.
_Company = list[tuple[int | None, np.ndarray]]


def _among_golden(frames: Sequence[np.ndarray], size: int) -> Iterator[_Company]:
    """Yield the golden frames in their order, begun again until the last batch is full: they come to every place."""
    endless = cycle(enumerate(frames))
    for _ in range(0, len(frames), size):
        yield list(islice(endless, size))


def _among_strangers(frames: Sequence[np.ndarray], size: int) -> Iterator[_Company]:
    """Yield the golden frames from the last to the first, a stranger before each: black, white, noise in turn."""
    strangers = cycle(_strangers(frames[0]))
    numbered, half = list(enumerate(frames))[::-1], size // 2
    for start in range(0, len(numbered), half):
        company: _Company = []
        for pair in numbered[start : start + half]:
            company += [(None, next(strangers)), pair]
        while len(company) < size:
            company.append((None, next(strangers)))
        yield company


def _strangers(frame: np.ndarray) -> list[np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 256, frame.shape, dtype=np.uint8)
    return [np.zeros_like(frame), np.full_like(frame, 255), noise]


def _ask(engine: Engine, program: Program, size: int, frames: Sequence[np.ndarray]) -> list[DetectorResult]:
    try:
        return engine.infer_batch(program, size, frames)
    except Exception as error:  # the per-detector guard: a graph made for one frame raises whatever it likes
        said = (str(error).splitlines() or [""])[0]
        raise EngineError(f"{size} frames at once failed: {type(error).__name__}: {said}") from error


def _strain(frame: FrameParity) -> tuple[bool, float]:
    return bool(frame.failed), frame.strain


def _least_ms(*calls: Callable[[], object]) -> list[float]:
    """Return the least time of each call, in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(_ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            taken.append((time.perf_counter() - started) * 1000)
    return [min(taken) for taken in times]
