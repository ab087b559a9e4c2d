"""Gaussian smoothing of anomaly maps: as published, and without darkening the border."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ZeroPaddedBlur(nn.Module):
    """Separable Gaussian over a map with zeros around it, so that borders are darkened.

    Kernel ``size`` x ``size`` (odd), ``sigma`` in pixels. [B, H, W] -> [B, H, W] float32 (HETMM specification,
    section 7: ``blur``). Raises ``ValueError`` for an even size.
    """

    kernel: Tensor

    def __init__(self, sigma: float, size: int) -> None:
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"expected an odd kernel size, found {size}")
        self.reach = size // 2
        self.register_buffer("kernel", gaussian(sigma, size), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Smooth; see the class."""
        return self._blurred(maps)

    def _blurred(self, maps: Tensor) -> Tensor:
        column = self.kernel.reshape(1, 1, -1, 1)
        row = self.kernel.reshape(1, 1, 1, -1)
        planes = functional.conv2d(maps.unsqueeze(1), column, padding=(self.reach, 0))
        return functional.conv2d(planes, row, padding=(0, self.reach)).squeeze(1)


class NormalisedBlur(ZeroPaddedBlur):
    """The zero-padded blur divided by the blurred all-ones image, so that a constant map stays constant.

    As ``ZeroPaddedBlur``, for maps of ``height`` x ``width`` (section 7: ``blur_norm``).
    """

    weight: Tensor

    def __init__(self, height: int, width: int, sigma: float, size: int) -> None:
        super().__init__(sigma, size)
        self.register_buffer("weight", self._blurred(torch.ones(1, height, width)), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Smooth; see the class."""
        return self._blurred(maps) / self.weight


def gaussian(sigma: float, size: int) -> Tensor:
    """Return a one-dimensional Gaussian of ``size`` taps, float32, summing to 1."""
    at = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    return (weights / weights.sum()).to(torch.float32)


def reflecting_blur(side: int, sigma: float, size: int) -> Tensor:
    """Return G, float32 [side, side], such that G X G^T is the Gaussian blur of a map X with reflected borders.

    Kernel ``size`` (odd) and ``sigma`` in pixels; the edge pixel is not repeated, and where the kernel reaches beyond
    the reflection, that is reflected again (CPR specification, 5.4 and 9.4 i). Raises ``ValueError`` for an even size.
    """
    if size % 2 == 0:
        raise ValueError(f"expected an odd kernel size, found {size}")
    at = torch.arange(side)[:, None] + torch.arange(size)[None] - size // 2
    period = max(1, 2 * (side - 1))
    at = at.remainder(period)
    at = torch.minimum(at, period - at) if side > 1 else torch.zeros_like(at)
    taps = gaussian(sigma, size).double().expand(side, -1)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, at, taps).float()
