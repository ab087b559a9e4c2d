"""Which frame shapes engines are built for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from runtime.store.template import GoldenFrame

#: (height, width, channels); channels 1 (grey) or 3 (RGB).
Shape = tuple[int, int, int]

#: Frame shapes an engine is built for, those of most golden frames; frames of others are inspected eagerly.
MAX_SHAPES = 4


def shapes_of(frames: Sequence[GoldenFrame]) -> list[Shape]:
    """Return the frame shapes engines are built for, the most frequent first."""
    counts = Counter((*each.frame.shape, 1)[:3] for each in frames)
    return [(int(h), int(w), int(c)) for (h, w, c), _ in counts.most_common(MAX_SHAPES)]
