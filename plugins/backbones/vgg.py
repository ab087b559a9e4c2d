"""VGG-16 without norms in torchvision's layout (Simonyan and Zisserman 2015), down to its last ReLU.

Taps are ReLU outputs, named by their place among the published layers; what lies between two taps is one segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from plugins.backbones.layers import Conv

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Channels of the 3 x 3 convolutions, a pooling before each row but the first.
_ROWS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
#: Places of the taps: relu2_2, relu3_3, relu5_3.
_TAPS = (8, 15, 29)


def vgg16() -> Iterator[tuple[str, nn.Module]]:
    """Segments features.8, features.15 and features.29, strides 2, 4 and 16; poolings drop an odd last row."""
    place, channels = 0, 3
    layers: list[nn.Module] = []
    for number, row in enumerate(_ROWS):
        if number:
            layers.append(nn.MaxPool2d(2))
            place += 1
        for width in row:
            layers += [Conv(f"features.{place}", (channels, width), 3, bias=True), nn.ReLU(inplace=True)]
            place, channels = place + 2, width
            if place - 1 in _TAPS:
                yield f"features.{place - 1}", nn.Sequential(*layers)
                layers = []
