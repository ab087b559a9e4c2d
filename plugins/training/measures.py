"""Measures of a held-out score, on plain arrays: how well anomalous is told from normal."""

from __future__ import annotations

import numpy as np


def precedence(damaged: np.ndarray, clean: np.ndarray) -> float:
    """Return the AUROC of two groups of scores: how often one of ``damaged`` is above one of ``clean``, ties half."""
    above = (damaged[:, None] > clean[None]).mean() + 0.5 * (damaged[:, None] == clean[None]).mean()
    return float(above)


def average_precision(truth: np.ndarray, values: np.ndarray) -> float:
    """Return the average precision of ``values`` [n] for ``truth`` bool [n]; 0 without a True. Ties: as they lie."""
    hits = truth[np.argsort(-values, kind="stable")]
    if not hits.any():
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, hits.size + 1)
    return float(precision[hits].mean())
