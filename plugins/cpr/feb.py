"""The foreground branch: how much each place belongs to the part and not to what lies behind it (specification, 6).

Learnt from good frames alone: the word most frequent along the border is taken for background, the middle for the part,
and a linear discriminant tells the two apart. A map is clamp(w x + b, 0, 1), one 1 x 1 convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.cpr.kmeans import nearest

WORDS = 2
#: Most pixels a class is learnt from; fewest that are worth learning from.
MOST = 15_000
FEWEST = 50
#: Share of all values below 0 and above 1 of the map.
TAIL = 0.01
#: Directions in which the classes hardly vary are dropped: they would decide everything.
SINGULAR = 1e-4
#: The automatic veto (specification, section 6): the background word must fill this much of the border, and no more
#: than this of the middle. The third is ours: it must also fill this much of a ring further in, which the networks'
#: zero padding does not reach, or what tells the border from the rest may be the padding alone (a surface that fills
#: the frame would lose the defects along its border).
LEAST_RING = 0.6
MOST_CENTRE = 0.8
#: And by this much less of the middle than of the border: a surface that fills the frame looks alike all over, and a
#: map learnt from the difference that is left fades its defects.
LEAST_CONTRAST = 0.2
LEAST_INNER_RING = 0.25


@dataclass(frozen=True)
class Foreground:
    """A learnt map: clamp(weight x + bias, 0, 1), ``weight`` float32 [C]."""

    weight: Tensor
    bias: float


@dataclass(frozen=True)
class ForegroundFit:
    """What came of learning: ``foreground`` None where it cannot be, ``reason`` why, or why it is better left off.

    Share of the background word, 0..1: along the border, further in, and in the middle.
    """

    foreground: Foreground | None
    reason: str
    ring: float
    inner_ring: float
    centre: float

    @property
    def helps(self) -> bool:
        """Tell whether the automatic rule would use it."""
        return self.foreground is not None and not self.reason


class ForegroundMap(nn.Module):
    """Map [B, C, H, W] -> foreground float32 [B, H, W], 0 (background) .. 1 (part)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, foreground: Foreground) -> None:
        super().__init__()
        self.register_buffer("weight", foreground.weight.view(1, -1, 1, 1).clone())
        self.register_buffer("bias", torch.tensor([foreground.bias], dtype=torch.float32))

    def forward(self, tap: Tensor) -> Tensor:
        """Estimate; see the class."""
        return functional.conv2d(tap, self.weight, self.bias).clamp(0.0, 1.0).squeeze(1)


def regions(side: int) -> tuple[Tensor, Tensor]:
    """Return (ring, centre), bool [side, side]: the outermost floor(3/80 side) pixels, at least 1, and the middle."""
    edge = max(1, side * 3 // 80)
    ring = torch.ones(side, side, dtype=torch.bool)
    ring[edge : side - edge, edge : side - edge] = False
    centre = torch.zeros(side, side, dtype=torch.bool)
    # In fifths of pixels, so that nothing is left to rounding: floor(H/2 - H/5) .. floor(H/2 + H/5) - 1.
    inside = slice(side * 3 // 10, side * 7 // 10)
    centre[inside, inside] = True
    return ring, centre


def inner_ring(side: int) -> Tensor:
    """Return the ring as wide as the outermost one that lies two widths further in, bool [side, side]."""
    edge = max(1, side * 3 // 80)
    inner = torch.zeros(side, side, dtype=torch.bool)
    inner[2 * edge : side - 2 * edge, 2 * edge : side - 2 * edge] = True
    inner[3 * edge : side - 3 * edge, 3 * edge : side - 3 * edge] = False
    return inner


def fit_foreground(maps: Callable[[], Iterable[Tensor]], centres: Tensor, seed: int) -> ForegroundFit:
    """Learn from stride-4 maps of good frames; ``maps()`` yields each, float32 [C, H, H], and asked thrice.

    ``centres``: 2-word codebook [2, C].
    """
    labelled = [_label(each, centres) for each in maps()]
    ring, centre = regions(labelled[0].shape[0])
    codes = torch.stack(labelled)
    background = int(torch.bincount(codes[:, ring].flatten(), minlength=WORDS).argmax())
    is_background = codes == background
    further_in = inner_ring(ring.shape[0])
    along, inside, middle = (float(is_background[:, each].double().mean()) for each in (ring, further_in, centre))
    shares = along, inside, middle
    pools = is_background & ring, ~is_background & centre
    counts = [int(pool.sum()) for pool in pools]
    if min(counts) < FEWEST:
        found = f"{counts[0]} background and {counts[1]} foreground pixels, fewer than {FEWEST}"
        return ForegroundFit(None, found, *shares)
    generator = torch.Generator().manual_seed(seed)
    drawn = [_draw(pool, min(MOST, *counts), generator) for pool in pools]
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number, each in enumerate(maps()):
        pixels = each.flatten(1)
        for kept, chosen in zip(rows, drawn, strict=True):
            kept.append(pixels[:, chosen[number].flatten().to(pixels.device)].T)
    direction = lda_direction(torch.cat(rows[1]), torch.cat(rows[0]))
    values = torch.cat([direction @ each.flatten(1) for each in maps()])
    lowest, highest = tails(values)
    if not highest > lowest:
        return ForegroundFit(None, "foreground and background do not differ", *shares)
    scale = 1 / (highest - lowest)
    return ForegroundFit(Foreground(direction * scale, -lowest * scale), _veto(*shares), *shares)


def lda_direction(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return Fisher's direction, float32 [C], from the negatives [m, C] to the positives [m, C].

    Solved in float64 on standardised features, directions of next to no variance dropped. Its length means nothing.
    """
    classes = [each.double() for each in (positives, negatives)]
    means = [each.mean(0) for each in classes]
    within = torch.cat([each - mean for each, mean in zip(classes, means, strict=True)])
    spread = within.square().mean(0).sqrt()
    spread = torch.where(spread > 0, spread, 1.0)
    within = within / spread
    variances, axes = torch.linalg.eigh(within.T @ within / within.shape[0])
    kept = variances > SINGULAR**2
    axes, variances = axes[:, kept], variances[kept]
    difference = (means[0] - means[1]) / spread
    direction: Tensor = (axes @ ((axes.T @ difference) / variances)) / spread
    return direction.float()


def tails(values: Tensor) -> tuple[float, float]:
    """Return the k-th smallest and k-th largest of ``values`` [n], k = 1 % of n; the extremes where n < 100."""
    count = values.numel()
    nth = max(1, int(TAIL * count))
    return float(values.kthvalue(nth).values), float(values.kthvalue(count - nth + 1).values)


def _label(tap: Tensor, centres: Tensor) -> Tensor:
    return nearest(tap.flatten(1).T, centres).view(tap.shape[1:]).cpu()


def _draw(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Keep ``count`` of the True entries of ``pool`` at random."""
    at = pool.flatten().nonzero().squeeze(1)
    chosen = at[torch.randperm(at.numel(), generator=generator)[:count]]
    kept = torch.zeros_like(pool).flatten()
    kept[chosen] = True
    return kept.view_as(pool)


def _veto(ring: float, inner: float, centre: float) -> str:
    if ring < LEAST_RING:
        return f"the most frequent word fills {ring:.0%} of the border, less than {LEAST_RING:.0%}: no clear background"
    if inner < LEAST_INNER_RING:
        return f"the background fills {inner:.0%} further in, less than {LEAST_INNER_RING:.0%}: a border effect"
    if centre > MOST_CENTRE:
        return f"the background fills {centre:.0%} of the middle, more than {MOST_CENTRE:.0%}: no clear part"
    if ring - centre < LEAST_CONTRAST:
        return f"the background fills {centre:.0%} of the middle and {ring:.0%} of the border: they do not differ"
    return ""
