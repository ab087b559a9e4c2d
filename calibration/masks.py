"""Ground-truth masks brought to the size of an anomaly map."""

from __future__ import annotations

import numpy as np

from runtime.errors import EdgeadError

# Coverages that are equal on paper (a pixel exactly half covered is common) differ in the last bits of float64.
_ROUNDING = 1e-9


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a bool mask [H, W] to bool ``shape`` (rows, columns): defect where at least half of the pixel is covered.

    Coverage is the antialiased bilinear resize of the mask, as in the evaluation of HETMM (Chen et al., arXiv
    2303.16191). There the mask is resized in 8 bits, 0/255; here coverage is not rounded, so the two can differ where
    the 8-bit value is 127 or 128. One thing is added: a mask that is not empty never becomes empty. Where no pixel is
    half covered, the pixel or pixels with the largest coverage are set. (A small region beside one that survives may
    still vanish.) Raises EdgeadError when the mask is not bool [H, W], or a side is below 1.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0 or min(shape) < 1:  # noqa: PLR2004 - [H, W]
        raise EdgeadError(
            f"expected a bool mask [H, W] and a shape of at least 1 x 1, "
            f"found {mask.dtype} {list(mask.shape)} and {tuple(shape)}"
        )
    down, across = _triangle_weights(mask.shape[0], shape[0]), _triangle_weights(mask.shape[1], shape[1])
    coverage = down @ mask.astype(np.float64) @ across.T
    least = min(0.5, float(coverage.max())) if mask.any() else 0.5
    resized: np.ndarray = coverage >= least * (1 - _ROUNDING)
    return resized


def _triangle_weights(source: int, target: int) -> np.ndarray:
    """Weights [target, source], rows of sum 1, of the antialiased bilinear filter along one axis.

    A triangle around the centre of each target pixel, as wide as two target pixels when shrinking (so that every source
    pixel counts) and two source pixels when enlarging (plain interpolation); cut off at the border.
    """
    scale = source / target
    centre = (np.arange(target)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(source)[None, :] + 0.5 - centre) / max(scale, 1.0)
    weights = np.clip(1.0 - distance, 0.0, None)
    normalised: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalised
