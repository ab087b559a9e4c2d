"""k-means with k-means++ starts (Lloyd 1982; Arthur and Vassilvitskii 2007), seeded, on the CPU or a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

#: Rows drawn for a codebook, restarts, most iterations and relative tolerance (specification, 3.1).
SAMPLE = 50_000
RESTARTS = 10
ITERATIONS = 300
TOLERANCE = 1e-4


def kmeans(rows: Tensor, words: int, seed: int, *, restarts: int = RESTARTS) -> Tensor:
    """Return the ``words`` centres, float32 [words, C], of float32 ``rows`` [n, C], n >= 1, with the lowest inertia.

    The same rows, seed, device and number of threads give the same centres, bit for bit. With fewer different rows than
    words some centres are equal; none is ever NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    squares = rows.square().sum(1)
    # As scikit-learn has it: a shift of the centres is small against the mean variance of the columns.
    small = TOLERANCE * float(rows.double().var(0, correction=0).mean())
    best, best_inertia = rows[:1].expand(words, -1), float("inf")
    for _ in range(restarts):
        centres, inertia = _lloyd(rows, squares, _spread(rows, squares, words, generator), small)
        if inertia < best_inertia:
            best, best_inertia = centres, inertia
    return best.clone()


def sample(total: int, seed: int, most: int = SAMPLE) -> Tensor:
    """Draw at most ``most`` of ``total`` row numbers without replacement: int64, ascending."""
    if total <= most:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:most].sort().values


def nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """Return the number of each row's nearest centre, int64 [n], of equally near ones the first."""
    return torch.addmm(-0.5 * centres.square().sum(1), rows, centres.T).argmax(1)


def _spread(rows: Tensor, squares: Tensor, words: int, generator: torch.Generator) -> Tensor:
    """Draw starting centres: each next one with probability proportional to its squared distance to those drawn."""
    chosen = [int(torch.randint(rows.shape[0], (), generator=generator))]
    distance = torch.full_like(squares, float("inf"))
    for _ in range(words - 1):
        centre = rows[chosen[-1]]
        distance = torch.minimum(distance, (squares - 2 * (rows @ centre) + centre.square().sum()).clamp_min(0))
        cumulated = distance.double().cumsum(0)
        at = torch.rand((), generator=generator, dtype=torch.float64).to(cumulated.device) * cumulated[-1]
        chosen.append(min(int(torch.searchsorted(cumulated, at, right=True)), rows.shape[0] - 1))
    return rows[chosen].clone()


def _lloyd(rows: Tensor, squares: Tensor, centres: Tensor, small: float) -> tuple[Tensor, float]:
    """Move the centres until they stand still; return them and the sum of squared distances."""
    words = centres.shape[0]
    numbers = torch.arange(words, device=rows.device)
    for _ in range(ITERATIONS):
        members = (nearest(rows, centres)[:, None] == numbers).to(rows.dtype)
        counts = members.sum(0)
        # A centre that nobody is nearest to stays where it is.
        moved = torch.where(counts[:, None] > 0, (members.T @ rows) / counts.clamp_min(1)[:, None], centres)
        shift = float((moved - centres).double().square().sum())
        centres = moved
        if shift <= small:
            break
    scores = torch.addmm(-0.5 * centres.square().sum(1), rows, centres.T)
    return centres, float((squares - 2 * scores.amax(1)).clamp_min(0).double().sum())
