"""k-means of few very long vectors, from their inner products alone (specification, section 3).

With N vectors of length D, N far below D, every distance k-means needs follows from the N x N matrix of inner products
G: |x_i - m_c|^2 = G_ii - 2/|c| sum_j G_ij + 1/|c|^2 sum_jk G_jk over the members j, k of c. An iteration costs N^2
instead of N K D.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Restarts and most iterations (specification, section 3).
RESTARTS = 10
ITERATIONS = 300
#: Columns multiplied at once while inner products are summed, in float64.
_COLUMNS = 1 << 16


def inner_products(rows: Tensor) -> np.ndarray:
    """Return G = X X^T, float64 [N, N], of float32 ``rows`` [N, D]; summed in float64, a block of columns at a time."""
    total = torch.zeros(rows.shape[0], rows.shape[0], dtype=torch.float64, device=rows.device)
    for first in range(0, rows.shape[1], _COLUMNS):
        block = rows[:, first : first + _COLUMNS].double()
        total += block @ block.T
    products: np.ndarray = total.cpu().numpy()
    return products


def clusters(products: np.ndarray, count: int, seed: int, *, restarts: int = RESTARTS) -> np.ndarray:
    """Return each row's cluster, int64 [N], 0 .. count - 1, the best of ``restarts`` by inertia.

    ``products`` as of ``inner_products``; 1 <= count <= N. Starts are drawn by k-means++. No cluster is empty, unless
    there are fewer different rows than clusters.
    """
    rng = np.random.default_rng(seed)
    best, best_inertia = np.zeros(len(products), np.int64), np.inf
    for _ in range(restarts):
        members, inertia = settle(products, distances_to_rows(products, _spread(products, count, rng)).argmin(1), count)
        if inertia < best_inertia:
            best, best_inertia = members, inertia
    return best


def settle(products: np.ndarray, members: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Return (clusters int64 [N], inertia) where nobody changes cluster any more, from ``members`` on."""
    for _ in range(ITERATIONS):
        members = _filled(products, members, count)
        distances = distances_to_means(products, members, count)
        moved = distances.argmin(1)
        if (moved == members).all():
            break
        members = moved
    distances = distances_to_means(products, members, count)
    return members, float(distances[np.arange(len(members)), members].sum())


def distances_to_means(products: np.ndarray, members: np.ndarray, count: int) -> np.ndarray:
    """Return squared distances of every row to every cluster's mean, float64 [N, count]; infinite where it is empty."""
    belongs = (members[:, None] == np.arange(count)).astype(np.float64)
    sizes = belongs.sum(0)
    shares = belongs / np.maximum(sizes, 1)
    crossed = products @ shares
    squared: np.ndarray = np.diag(products)[:, None] - 2 * crossed + (shares * crossed).sum(0)
    found: np.ndarray = np.where(sizes > 0, np.maximum(squared, 0.0), np.inf)
    return found


def distances_to_rows(products: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return squared distances of every row to the chosen ``rows``, float64 [N, len(rows)]."""
    squares = np.diag(products)
    squared: np.ndarray = squares[:, None] - 2 * products[:, rows] + squares[rows]
    found: np.ndarray = np.maximum(squared, 0.0)
    return found


def _spread(products: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw starting rows: each next one with probability proportional to its squared distance to those drawn."""
    chosen = [int(rng.integers(len(products)))]
    nearest = np.full(len(products), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, distances_to_rows(products, np.array(chosen[-1:]))[:, 0])
        cumulated = nearest.cumsum()
        at = rng.random() * cumulated[-1]
        chosen.append(min(int(np.searchsorted(cumulated, at, side="right")), len(products) - 1))
    return np.array(chosen)


def _filled(products: np.ndarray, members: np.ndarray, count: int) -> np.ndarray:
    """Give every empty cluster the row that lies farthest from its own mean, if any is away from it."""
    members = members.copy()
    for empty in np.setdiff1d(np.arange(count), members):
        own = distances_to_means(products, members, count)[np.arange(len(members)), members]
        if not own.max() > 0:
            break
        members[int(own.argmax())] = empty
    return members
