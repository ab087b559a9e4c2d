"""Which references a training spares, so that held-out scores can be taken of frames it has not seen."""

from __future__ import annotations

import numpy as np

#: References nothing is trained on: one in so many, and at most so many; a product of fewer frames spares none.
UNSEEN_EVERY, MOST_UNSEEN = 8, 100
FEWEST_TO_SPARE = 16


def spared(count: int) -> list[int]:
    """Return which of ``count`` references nothing is trained on, spread evenly; none of a small set."""
    if count < FEWEST_TO_SPARE:
        return []
    most = min(MOST_UNSEEN, count // UNSEEN_EVERY)
    return sorted({int(index) for index in np.linspace(0, count - 1, most).round()})
