"""Prototypes: mean maps of groups of like references, and how a frame differs from the nearest (sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plugins.prn.kmeans import clusters, distances_to_means, distances_to_rows, inner_products

if TYPE_CHECKING:
    from plugins.prn.settings import PrnSettings

#: Squared norm of a row of the bank that holds no prototype: nothing is nearest to it.
EMPTY = 1e30
#: Residuals are cut here, below the largest number of half precision (section 12, note 4).
MOST_RESIDUAL = 6e4


@dataclass(frozen=True)
class Prototypes:
    """One scale's: ``maps`` float32 [K, C, H, W]; ``counts`` int32 [K] references each is the mean of.

    ``radius``: the largest distance of a reference to its own prototype; ``alignment``: mean distance to the nearest
    prototype as a share of the mean distance between two references (section 11), 0 where there is only one.
    """

    maps: Tensor
    counts: np.ndarray
    radius: float
    alignment: float


def count_of(references: int, settings: PrnSettings) -> int:
    """Return how many prototypes a scale has: floor(share N), at least 1, at most the cap and N."""
    # 0.1 x 280 is 28.000000000000004: a hair is taken off before rounding down, and never reaches the next number.
    wanted = int(settings.prototype_share * references + 1e-9)
    return min(max(1, wanted), settings.most_prototypes, references)


def learn_prototypes(maps: Tensor, count: int, seed: int) -> tuple[Prototypes, np.ndarray]:
    """Cluster ``maps`` float32 [N, C, H, W] of good frames into ``count`` prototypes; same seed, same bits.

    Also returns which prototype each frame is part of, int64 [N].
    """
    rows = maps.flatten(1)
    products = inner_products(rows)
    _, members = np.unique(clusters(products, count, seed), return_inverse=True)
    found = int(members.max()) + 1
    belongs = torch.from_numpy(members == np.arange(found)[:, None]).to(rows.device)
    counts = belongs.sum(1)
    means = (belongs.float() @ rows) / counts[:, None]
    squared = distances_to_means(products, members, found)
    distances = np.sqrt(squared.min(1))
    between = np.sqrt(distances_to_rows(products, np.arange(len(products))))
    others = len(products) * (len(products) - 1)
    apart = float(between.sum()) / others if others else 0.0
    learnt = Prototypes(
        means.view(-1, *maps.shape[1:]),
        counts.cpu().numpy().astype(np.int32),
        float(distances.max()),
        float(_left_out(squared, members).mean()) / apart if apart > 0 else 0.0,
    )
    return learnt, members


def _left_out(squared: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return each row's distance [N] to the nearest mean, its own one as it is without the row.

    ``squared`` [N, K] distances to the means, ``members`` [N]. A mean of n rows without one of them lies n / (n - 1)
    times as far from that one; one that was alone has no mean of its own.
    """
    rows, counts = np.arange(len(members)), np.bincount(members)[members]
    apart = squared.copy()
    alone = counts == 1
    apart[rows, members] *= (counts / np.maximum(counts - 1.0, 1.0)) ** 2
    if squared.shape[1] > 1:
        apart[rows[alone], members[alone]] = np.inf
    found: np.ndarray = np.sqrt(apart.min(1))
    return found


def squared_norms(maps: Tensor, capacity: int) -> Tensor:
    """Return |p|^2 of prototypes [K, C, H, W], float32 [capacity], rows that hold none set to ``EMPTY``."""
    norms = torch.full((capacity,), EMPTY, dtype=torch.float32)
    norms[: maps.shape[0]] = maps.flatten(1).double().square().sum(1).float().cpu()
    return norms


def nearest(tap: Tensor, prototypes: Tensor, norms: Tensor) -> Tensor:
    """Return the row of each map's nearest prototype, int64 [B], of equally near ones the first.

    ``tap`` [B, C, H, W], ``prototypes`` [K, C, H, W], ``norms`` [K] as of ``squared_norms``: |f|^2 is the same for all
    of them and left out.
    """
    return (norms - 2.0 * (tap.flatten(1) @ prototypes.flatten(1).T)).argmin(1)


def residual(tap: Tensor, matched: Tensor) -> Tensor:
    """Return (f - p)^2, element by element, float32 in the shape of ``tap``; cut at ``MOST_RESIDUAL``."""
    return (tap - matched).square().clamp(max=MOST_RESIDUAL)


def residuals(taps: Sequence[Tensor], bank: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return each scale's residual; ``bank``: prototypes and norms of every scale in turn."""
    found = []
    for tap, prototypes, norms in zip(taps, bank[::2], bank[1::2], strict=False):
        found.append(residual(tap, prototypes.index_select(0, nearest(tap, prototypes, norms))))
    return tuple(found)
