"""The heads of the local retrieval branch: backbone maps to local features (specification, section 4); they learn.

``LocalHead`` is the form that is trained and stored; ``merge.py`` turns it into the one that runs on the line.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Channels of the stem, of each Inception branch, and of branch 1 before its 3 x 3 convolution.
STEM = 192
BRANCH = 64
HIDDEN = STEM // 4
#: Added to the norm of a local feature, not a lower bound of it.
NORM_EPS = 1e-8
#: Batch norms of the Inception block were built with TensorFlow's epsilon; the stem's has torch's 1e-5.
INCEPTION_EPS = 1e-3


class ConvNormRelu(nn.Module):
    """Convolution without bias that keeps the map's size, batch norm, ReLU: [B, Cin, H, W] -> [B, Cout, H, W] >= 0."""

    def __init__(self, channels: int, out: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=INCEPTION_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; see the class."""
        return functional.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side: [B, STEM, H, W] -> [B, 4 * BRANCH, H, W], branch after branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = ConvNormRelu(STEM, BRANCH)
        self.branch1 = nn.Sequential(ConvNormRelu(STEM, HIDDEN), ConvNormRelu(HIDDEN, BRANCH, 3))
        self.branch2 = nn.Sequential(ConvNormRelu(STEM, BRANCH))
        # Padding is not counted, so that the border is no darker than the rest.
        self.branch3 = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvNormRelu(STEM, BRANCH))

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches; see the class."""
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), dim=1)


class LocalHead(nn.Module):
    """One scale's head: backbone map [B, ``channels``, H, W] -> local features [B, ``width``, H, W], not normalised.

    Torch's default initialisation; float32. ``layers`` is numbered as in the authors' checkpoints (``published.py``).
    With ``shortcut`` (ours, not the paper's) a 1 x 1 convolution of the input without bias is added to the output, so
    that a head may start from the raw features.
    """

    def __init__(self, channels: int, width: int, *, shortcut: bool = False) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.layers = nn.Sequential(
            nn.Conv2d(channels, STEM, 1),
            nn.BatchNorm2d(STEM),
            nn.ReLU(inplace=True),
            Inception(),
            nn.Conv2d(4 * BRANCH, width, 1),
        )
        self.shortcut = nn.Conv2d(channels, width, 1, bias=False) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Return local features; see the class."""
        out: Tensor = self.layers(x)
        return out if self.shortcut is None else out + self.shortcut(x)


class LocalHeads(nn.ModuleList):
    """The heads of all scales, finest first; call with one backbone map per scale, get one local map each."""

    def __init__(self, channels: tuple[int, ...], width: int, *, shortcut: bool = False) -> None:
        super().__init__(LocalHead(each, width, shortcut=shortcut) for each in channels)

    def forward(self, taps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return local features, not normalised: [B, Cj, Hj, Wj] each -> [B, width, Hj, Wj] each."""
        return tuple(head(tap) for head, tap in zip(self, taps, strict=True))


def beside_raw(local: Tensor, raw: Tensor, share: float) -> Tensor:
    """Return features whose cosine is ``share`` times that of ``raw`` plus the rest times that of ``local``.

    [B, D, H, W] and [B, C, H, W], neither normalised -> [B, C + D, H, W] of norm 1; ``local`` itself for a share of 0,
    ``raw`` for 1.
    """
    if not share:
        return local
    if share == 1:
        return raw
    return torch.cat((share**0.5 * normalised(raw), (1.0 - share) ** 0.5 * normalised(local)), dim=1)


def normalised(local: Tensor) -> Tensor:
    """Scale local features [B, D, H, W] to norm 1 over D; a vector of zeros stays zeros."""
    unit: Tensor = local / (torch.linalg.vector_norm(local, dim=1, keepdim=True) + NORM_EPS)
    return unit
