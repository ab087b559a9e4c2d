"""Timing engines side by side: they take turns frame by frame, because machines are noisy and ratios count."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from runtime.engines.engine import Engine
from runtime.engines.program import Program

#: Frames each engine answers before the first one that counts: caches, page faults, the threads' first wake-up.
WARM_UP = 3


def take_turns(engines: Mapping[str, Engine], frames: Sequence[np.ndarray], rounds: int) -> dict[str, list[int]]:
    """Return microseconds per frame, sorted, by engine; each answers ``rounds`` frames, one after the other in turn.

    ``frames``: uint8 [H, W] or [H, W, 3], at least one. All engines share the process's thread count: give them equal
    ones.
    """
    times: dict[str, list[int]] = {name: [] for name in engines}
    with torch.inference_mode():
        for turn in range(-WARM_UP, rounds):
            frame = frames[turn % len(frames)]
            for name, engine in engines.items():
                started = time.perf_counter_ns()
                engine.infer(frame)
                if turn >= 0:
                    times[name].append((time.perf_counter_ns() - started) // 1000)
    return {name: sorted(values) for name, values in times.items()}


def time_batches(
    cases: Mapping[tuple[str, int], tuple[Program, Tensor]], bank: Sequence[Tensor], rounds: int
) -> dict[tuple[str, int], list[int]]:
    """Return microseconds per call, sorted, by case; they take turns call by call.

    A case: by name and number of frames, a program and its frames, uint8 [B, H, W, C] on its device, as ``bank``.
    """
    times: dict[tuple[str, int], list[int]] = {name: [] for name in cases}
    with torch.inference_mode():
        for turn in range(-WARM_UP, rounds):
            for name, (program, frames) in cases.items():
                started = time.perf_counter_ns()
                _, scores = program(frames, *bank)
                scores.tolist()  # waits for the device
                if turn >= 0:
                    times[name].append((time.perf_counter_ns() - started) // 1000)
    return {name: sorted(values) for name, values in times.items()}
