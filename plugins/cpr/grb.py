"""The global retrieval branch: which references look like a frame as a whole (specification, section 3).

The stride-4 map is spelt with the words of a codebook, the words are counted in a grid of blocks, and references are
ranked by how far their counts are from the frame's: the sum over the most similar blocks of the Kullback-Leibler
divergence, frame first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgead import ConfigError
from plugins.cpr.settings import GRID

#: Words of the codebook, and blocks that count, of 25.
WORDS = 12
KEEP = 20
#: Added to both histograms, which are not normalised again.
KL_EPS = 1e-8
#: Added to the distance of a row of the bank that holds no reference.
EMPTY = 1e9


class Codebook(nn.Module):
    """Which word is nearest, as one 1 x 1 convolution: argmin ||x - c||^2 = argmax (c x - ||c||^2 / 2).

    ``centres`` float32 [words, C]. Map [B, C, H, W] -> codes int64 [B, H, W]; of equally near words the first.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", centres[:, :, None, None].clone())
        self.register_buffer("bias", -0.5 * centres.square().sum(1))

    def forward(self, tap: Tensor) -> Tensor:
        """Spell; see the class."""
        return functional.conv2d(tap, self.weight, self.bias).argmax(1)


class Histograms(nn.Module):
    """Codes int64 [B, side, side] of ``words`` words -> float32 [B, grid^2, bins], each block's shares, summing to 1.

    Blocks in row-major order, of b = ceil(side / grid) pixels a side, flush with the bottom and right edges; what they
    reach beyond the map at the top and left is void. Void pixels count in bin 0 of ``words`` + 1 bins; where nothing is
    void there is no such bin. Raises ``ConfigError`` where a whole block would be void.
    """

    numbers: Tensor
    outside: Tensor

    def __init__(self, side: int, words: int = WORDS, grid: int = GRID) -> None:
        super().__init__()
        self.block = -(-side // grid)
        self.void = self.block * grid - side
        if self.void >= self.block:
            raise ConfigError(
                f"cpr: expected a stride-4 map that {grid} x {grid} blocks fill, found {side} pixels a side: "
                "choose another image_size (multiples of 20 leave nothing over)"
            )
        self.register_buffer("numbers", torch.arange(words).view(1, words, 1, 1), persistent=False)
        inside = functional.pad(torch.ones(1, 1, side, side), (self.void, 0, self.void, 0))
        outside = 1 - functional.avg_pool2d(inside, self.block).flatten(2).transpose(1, 2)
        self.register_buffer("outside", outside, persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Count; see the class."""
        hot = (codes.unsqueeze(1) == self.numbers).to(torch.float32)
        if self.void:
            hot = functional.pad(hot, (self.void, 0, self.void, 0))
        shares = functional.avg_pool2d(hot, self.block).flatten(2).transpose(1, 2)
        if not self.void:
            return shares
        return torch.cat((self.outside.expand(shares.shape[0], -1, -1), shares), dim=2)


def log_histograms(histograms: Tensor) -> Tensor:
    """Return ln(h + eps), what a bank keeps of reference histograms; any shape, float32."""
    return (histograms + KL_EPS).log()


def distances(histograms: Tensor, log_references: Tensor, keep: int = KEEP) -> Tensor:
    """Return the distance of each frame to each reference, float32 [B, N].

    ``histograms`` [B, blocks, bins] of frames, ``log_references`` [N, blocks, bins] of ``log_histograms``. Sum of
    the ``keep`` smallest of the block divergences.
    """
    shares = histograms + KL_EPS
    ratios = shares.log().unsqueeze(1) - log_references
    divergences = (shares.unsqueeze(1) * ratios).sum(-1)
    return divergences.topk(min(keep, divergences.shape[-1]), dim=-1, largest=False).values.sum(-1)


def nearest_references(distance: Tensor, count: int) -> Tensor:
    """Return the rows of the ``count`` smallest distances, int64 [B, min(count, N)], in no particular order.

    ``distance`` [B, N]. Of equal ones the lowest rows. Where fewer rows than that hold a reference (others have
    ``EMPTY`` added), one that does is named again: a second copy changes no maximum. Static: no sort, no loop.
    """
    total = distance.shape[1]
    count = min(count, total)
    smallest = distance.topk(count, dim=1, largest=False)
    if count == total:
        chosen = smallest.indices
    else:
        # topk keeps no order among equal values: those at the limit are picked by row.
        limit = smallest.values[:, -1:]
        rows = torch.arange(total, dtype=torch.float32, device=distance.device) / total
        key = torch.where(distance < limit, 2.0, torch.where(distance == limit, 1 - rows, -1.0))
        chosen = key.topk(count, dim=1).indices
    found = distance.gather(1, chosen) < EMPTY / 2
    return torch.where(found, chosen, smallest.indices[:, :1])


def self_excluded_rankings(histograms: Tensor, count: int, keep: int = KEEP) -> Tensor:
    """Rank the references for each other: ``histograms`` [N, blocks, bins] -> int64 [N, min(count, N - 1)], best first.

    A reference is left out of its own ranking by its number, not by its distance: an exact copy of it may be ranked. Of
    equal distances the lowest number first. For training.
    """
    total = histograms.shape[0]
    logs = log_histograms(histograms)
    ranked = []
    for number in range(total):  # row by row: all pairs at once would be N^2 x 25 x 12
        distance = distances(histograms[number : number + 1], logs, keep)[0]
        distance[number] = float("inf")
        ranked.append(distance.argsort(stable=True)[: min(count, total - 1)])
    return torch.stack(ranked)
