"""Learning rates over a training."""

from __future__ import annotations

import math


def cosine_rate(step: int, steps: int, rate: float, *, warm_up: int, last: float) -> float:
    """Return the rate of ``step``, 0 .. steps - 1: rising over ``warm_up`` steps, then a cosine down to ``last``.

    ``rate``: the highest; ``last``: share of it that the cosine ends at, 0..1; 1 = constant after the warm-up.
    """
    if step < warm_up:
        return rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return rate * (last + (1.0 - last) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))
