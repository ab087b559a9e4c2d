"""Multi-scale fusion: every scale plus what the two others say of it (specification, section 5)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class Fusion(nn.Module):
    """Three maps [B, cj, H / 2^j, H / 2^j] -> three of the same shapes; c2 = 2 c1, c3 = 4 c1; no activation.

    Coarser maps are enlarged and brought to the finer one's channels by a 1 x 1 convolution, finer ones are reduced by
    a strided convolution of each channel by itself, two or four channels out of one.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.middle_to_fine = nn.Conv2d(middle, fine, 1)
        self.coarse_to_fine = nn.Conv2d(coarse, fine, 1)
        self.coarse_to_middle = nn.Conv2d(coarse, middle, 1)
        self.fine_to_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1, groups=fine)
        self.fine_to_coarse = nn.Conv2d(fine, coarse, 5, stride=4, padding=2, groups=fine)
        self.middle_to_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1, groups=middle)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse; see the class."""
        x, y, z = maps
        side = x.shape[-1]
        fine = x + self.middle_to_fine(enlarged(y, side)) + self.coarse_to_fine(enlarged(z, side))
        middle = y + self.fine_to_middle(x) + self.coarse_to_middle(enlarged(z, side // 2))
        coarse = z + self.fine_to_coarse(x) + self.middle_to_coarse(y)
        return fine, middle, coarse


def enlarged(maps: Tensor, side: int) -> Tensor:
    """Return maps [B, C, side, side], bilinear, corner pixels kept at the corners."""
    return functional.interpolate(maps, size=(side, side), mode="bilinear", align_corners=True)
