"""Which embeddings a bank keeps: a greedy k-centre cover, so that none lies far from a kept one (section 10).

Greedy over all embeddings of hundreds of references takes a pass over them for each row kept. So three quarters of the
rows cover a sample, and the last quarter goes to whatever of all embeddings is then farthest from them: rare places
that the sample missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugins.mspba.nearest import distances_to

#: Embeddings the greedy passes run over.
SAMPLE = 32_768
#: Embeddings so near are one: squares of distances come from products, which are off by as much near zero.
SAME = 2e-3
_FIRST_SHARE = 0.75


@dataclass(frozen=True)
class Cover:
    """``chosen`` int64 [M] rows of all embeddings, and ``radius``: none of them is farther from a chosen one."""

    chosen: Tensor
    radius: float


def k_centre(rows: Tensor, count: int, distances: Tensor, stop: float = 0.0) -> Tensor:
    """Choose ``count`` of ``rows`` [n, D], farthest first, or fewer once none is farther than ``stop``: int64.

    ``distances`` [n]: to what is kept already; infinite where nothing is. Of equally far ones the first; of embeddings
    closer than ``SAME`` only one is chosen.
    """
    left = distances.square()
    squares = rows.square().sum(1)
    enough = max(stop, SAME) ** 2
    chosen: list[int] = []
    while len(chosen) < min(count, rows.shape[0]):
        row = int(left.argmax())
        if float(left[row]) <= enough:
            break
        chosen.append(row)
        left = torch.minimum(left, torch.addmv(squares + squares[row], rows, rows[row], alpha=-2).clamp_min(0))
        left[row] = 0.0
    return torch.tensor(chosen, dtype=torch.int64, device=rows.device)


def cover(rows: Tensor, count: int, seed: int) -> Cover:
    """Choose ``count`` of all embeddings [n, D], or all where there are no more; seeded, the same every time."""
    if rows.shape[0] <= count:
        return Cover(torch.arange(rows.shape[0], device=rows.device), 0.0)
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(rows.shape[0], generator=generator)[:SAMPLE].sort().values.to(rows.device)
    most = count if sample.numel() == rows.shape[0] else max(1, int(_FIRST_SHARE * count))
    seen = rows[sample]
    first = sample[k_centre(seen, most, torch.full_like(seen[:, 0], torch.inf))]
    distances = distances_to(rows[first], rows)
    if most < count:
        far = distances.topk(min(SAMPLE, rows.shape[0])).indices.sort().values
        more = far[k_centre(rows[far], count - most, distances[far])]
        distances = torch.minimum(distances, distances_to(rows[more], rows)) if more.numel() else distances
        first = torch.cat((first, more))
    return Cover(first.sort().values, float(distances.max()))


def additions(kept: Tensor, radius: float, rows: Tensor) -> Tensor:
    """Choose which of new embeddings [n, D] to add to ``kept`` [M, D] so that none is farther than ``radius``."""
    distances = distances_to(kept, rows)
    far = (distances > radius).nonzero()[:, 0]
    return far[k_centre(rows[far], far.numel(), distances[far], stop=radius)]
