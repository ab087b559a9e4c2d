"""The image threshold, chosen from held-out scores of good parts only.

The rule is split conformal prediction, one-sided (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World",
2005; Papadopoulos et al., ECML 2002): the rank of a new good part among n held-out good parts is uniform, so an order
statistic of the held-out scores bounds the false rejects for any law of the scores and any detector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from runtime.errors import ConfigError, EdgeadError

RULE = "split-conformal"


@dataclass(frozen=True)
class Threshold:
    """An image threshold and what it promises: a part is rejected when its image score > ``value``."""

    value: float
    """The cut, in units of the image score."""
    target: float
    """The false-reject rate asked for, as a fraction of the good parts (0.01 is one in a hundred)."""
    bound: float
    """The expected false-reject rate is at most this; above ``target`` only when ``n`` is too small for the target."""
    n: int
    """How many held-out good parts the threshold rests on."""
    rule: str
    """The rule that made it: ``split-conformal``."""


def conformal_threshold(scores: Sequence[float] | np.ndarray, target: float) -> Threshold:
    """Choose the threshold whose expected false-reject rate is at most ``target``.

    ``scores``: image scores [n] of good parts which the template was NOT built from, in any order. With
    k = ceil((n + 1)(1 - target)) the threshold is the k-th smallest score, and the bound is (n + 1 - k) / (n + 1). When
    n < 1 / target - 1, k would be n + 1: the threshold is the largest score and the bound 1 / (n + 1), worse than the
    target, and the remedy is more good parts (99 for one in a hundred). Scores equal to the threshold are accepted, so
    ties only lower the false-reject rate.

    What the promise does not say. It holds for good parts exchangeable with the held-out ones: same line, light, camera
    and lot-to-lot spread; drift breaks it and nothing here notices. It is an average over calibrations and parts
    together: one calibration's own rate scatters about it (for n = 99 and target 0.01 its standard deviation is again
    0.01), and it may differ by shift, cavity or supplier. It says nothing about missed defects.

    Raises EdgeadError for no scores, an array that is not [n], or scores which are NaN or infinite; ConfigError for a
    target outside (0, 1).
    """
    if not 0 < target < 1:
        raise ConfigError(
            f"expected a false-reject target between 0 and 1 (0.01 is one good part in a hundred), found {target}"
        )
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise EdgeadError(
            f"expected the scores [n] of at least one held-out good part, found shape {list(values.shape)}: "
            "hold some references back from the template"
        )
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise EdgeadError(
            f"expected finite scores of held-out good parts, found {values[where]} at position {where}: "
            "the detector is broken on that frame; no threshold may rest on it"
        )
    n = values.size
    # The decimal the integrator wrote, not its nearest binary fraction: 100 * 0.29 must be 29, not 28.999....
    rank = min(n, math.ceil((n + 1) * (1 - Fraction(str(float(target))))))
    value = float(np.partition(values, rank - 1)[rank - 1])
    return Threshold(value=value, target=float(target), bound=(n + 1 - rank) / (n + 1), n=n, rule=RULE)
