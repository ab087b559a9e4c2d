"""Residuals of training pictures, to prototypes that know nothing of the picture.

A prototype is the mean of its references, so that a reference lies nearer to it than any new good frame will: a network
trained on such residuals takes good frames for slightly damaged. In training every picture is therefore compared with
its own reference's prototype as it would be without that reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from plugins.prn.prototypes import EMPTY, Prototypes, residual, squared_norms


@dataclass(frozen=True)
class Compared:
    """One scale's prototypes [K, C, H, W], their squared ``norms`` [K], and how many references ``counts`` each has.

    ``members``: int [N], for each reference the prototype it is part of, -1 = of none.
    """

    prototypes: Tensor
    norms: Tensor
    counts: np.ndarray
    members: np.ndarray

    @staticmethod
    def of(prototypes: Prototypes, members: np.ndarray, device: str) -> Compared:
        """Bring what was learnt to ``device``."""
        norms = squared_norms(prototypes.maps, len(prototypes.maps)).to(device)
        return Compared(prototypes.maps.to(device), norms, prototypes.counts, members)

    def residuals(self, taps: Tensor, clean: Tensor, sources: Sequence[int]) -> Tensor:
        """Return the residuals of pictures [B, C, H, W] to the nearest prototype.

        ``sources``: the reference each picture was made of, -1 = none; ``clean`` [B, C, H, W]: that reference's map.
        """
        distances = self.norms - 2.0 * (taps.flatten(1) @ self.prototypes.flatten(1).T)
        own = [int(self.members[source]) if source >= 0 else -1 for source in sources]
        without = {at: self._without(row, clean[at]) for at, row in enumerate(own) if row >= 0}
        for at, mean in without.items():
            distances[at, own[at]] = EMPTY if mean is None else _distance(taps[at], mean)
        rows = distances.argmin(1)
        matched = self.prototypes[rows]
        for at, mean in without.items():
            if mean is not None and int(rows[at]) == own[at]:
                matched[at] = mean
        return residual(taps, matched)

    def _without(self, row: int, reference: Tensor) -> Tensor | None:
        """Return prototype ``row`` without one of its references; None where nothing is left."""
        mean, others = self.prototypes[row], int(self.counts[row]) - 1
        if not others:
            return None if len(self.counts) > 1 else mean
        return mean + (mean - reference) / others


def _distance(tap: Tensor, mean: Tensor) -> float:
    """Return |m|^2 - 2 f m, summed in float64: |f - m|^2 without what all prototypes have in common."""
    return float((mean.double() * (mean.double() - 2.0 * tap.double())).sum())
