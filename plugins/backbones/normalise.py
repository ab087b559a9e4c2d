"""From pixels to network input, inside the graph: constants travel with it, never in the caller's memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from plugins.backbones.registry import IMAGENET_STD, RGB, Backbone

#: Which standard deviation a network with ImageNet statistics is given.
NormStd = Literal["imagenet", "official"]

# HETMM's released code divides green by 0.256, a slip for 0.224 (specification, section 15-1); 0..255 pixels.
_OFFICIAL_STD: RGB = (0.229 * 255, 0.256 * 255, 0.225 * 255)


class Normalise(nn.Module):
    """(pixel - mean) / std as one multiply-add; ``mean`` and ``std`` per RGB channel in units of 0..255 pixels."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: RGB, std: RGB) -> None:
        super().__init__()
        # Divided in double precision and rounded once.
        scale = 1.0 / torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
        shift = -torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1) * scale
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", shift.float())

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) RGB or (B, 1, H, W) grey, uint8 or float of 0..255 -> (B, 3, H, W) in the buffers' dtype."""
        return pixels.to(self.scale.dtype) * self.scale + self.shift


def normalise_for(backbone: Backbone, norm_std: NormStd = "imagenet") -> Normalise:
    """Build the step from pixels to the backbone's input.

    "official" is the ImageNet deviation as HETMM's released code has it; a network with statistics of its own
    (EfficientNet-Lite0) keeps them, because the slip is about ImageNet's.
    """
    is_slip = norm_std == "official" and backbone.std == IMAGENET_STD
    return Normalise(backbone.mean, _OFFICIAL_STD if is_slip else backbone.std)
