"""Exact nearest neighbour of every patch among the embeddings of a bank (section 7, item 3, and section 10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Added to a row's half square where it holds nothing: never the nearest while another row does.
EMPTY = 1e9
#: Products held at once: they stay in the caches.
CHUNK = 1_000_000


class NearestDistance(nn.Module):
    """Embeddings [B, n, D], rows [M, D] and ``halves`` [M] -> Euclidean distances to the nearest row, [B, n] float32.

    ``halves``: half of each row's square, ``EMPTY`` more where the row is void (``halves_of``). The nearest row is
    found by one matrix product, q m - m m / 2, a few queries at a time; its distance is then taken from the vectors
    themselves, because the product's is off by up to 0.002 near zero: an embedding that is in the bank is at 0.
    """

    def forward(self, queries: Tensor, rows: Tensor, halves: Tensor) -> Tensor:
        """Measure; see the class."""
        flat = queries.flatten(0, 1)
        many = max(1, CHUNK // rows.shape[0])
        across = rows.T
        found = [(flat[first : first + many] @ across - halves).argmax(1) for first in range(0, flat.shape[0], many)]
        nearest = rows.index_select(0, torch.cat(found))
        return (flat - nearest).square().sum(1).sqrt().view(queries.shape[:2])


def halves_of(rows: Tensor, void: Tensor) -> Tensor:
    """Return what ``NearestDistance`` wants beside rows [M, D]: float32 [M]; ``void`` bool [M]."""
    return 0.5 * rows.square().sum(1) + EMPTY * void.to(torch.float32)


def distances_to(rows: Tensor, candidates: Tensor) -> Tensor:
    """Return the distance of each candidate [n, D] to its nearest of rows [M, D], M > 0, float32 [n]."""
    void = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
    measured: Tensor = NearestDistance()(candidates[None], rows, halves_of(rows, void))
    return measured[0]
