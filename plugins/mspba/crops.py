"""Training patches of a backbone that learns too: cut out of the frames one by one, with the context it will see.

Positions are drawn as the definition has it, at any pixel. In dense mode a patch is cut with the pixels around it that
its features see in a whole frame (as far as the frame is large) and the map's middle is its window; in patch mode it is
cut alone, as published. Beyond the frame lies zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plugins.mspba.embedding import run_to
from plugins.mspba.geometry import far_offset, jitter, pair_offsets
from plugins.mspba.plan import DRAWS
from plugins.mspba.views import NOISE
from plugins.mspba.windows import Windows

if TYPE_CHECKING:
    from plugins.backbones.layers import Trunk
    from plugins.mspba.embedding import Planes
    from plugins.mspba.settings import Scale


class Crops:
    """Draws of an epoch: every reference ``DRAWS`` times, in an order that follows from (seed, epoch).

    ``planes``: the references; ``usable``: those it may draw; ``clips``: corners beyond the border
    are moved inside, as the authors do, and the direction is then wrong; else such a draw is repeated.
    """

    def __init__(
        self,
        planes: Planes,
        usable: Sequence[int],
        scales: Sequence[Scale],
        backbone: Trunk,
        *,
        seed: int,
        clips: bool,
    ) -> None:
        self._planes, self._usable, self._scales = planes, np.asarray(usable), tuple(scales)
        self._backbone, self._gain, self._seed, self._clips = backbone, planes.gain(), seed, clips
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def prepare(self, step: int) -> None:
        """Do nothing: crops are cut when they are drawn."""

    def draw(self, rng: np.random.Generator, count: int, step: int) -> list[Windows]:
        """Return the draws ``step * count`` and following, of each scale."""
        frames = [self._frame(number) for number in range(step * count, (step + 1) * count)]
        return [self._of_scale(scale, frames, rng) for scale in self._scales]

    def _frame(self, number: int) -> int:
        """Return which reference draw ``number`` is of."""
        epoch, place = divmod(number, DRAWS * len(self._usable))
        if self._order[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(DRAWS * len(self._usable))
            self._order = (epoch, order % len(self._usable))
        return int(self._usable[self._order[1][place]])

    def _of_scale(self, scale: Scale, frames: Sequence[int], rng: np.random.Generator) -> Windows:
        size = self._planes.size
        drawn = [draw_corners(scale.side, size, rng, clips=self._clips) for _ in frames]
        context = context_of(scale, size)
        planes = []
        for kind in range(5):
            cut = [
                self._cut(row, corners[kind], scale, context) for row, (_, corners) in zip(frames, drawn, strict=True)
            ]
            planes.append(self._noisy(torch.stack(cut), rng) if kind < 2 else torch.stack(cut))  # noqa: PLR2004 - the pair
        maps = run_to(self._backbone, scale.tap, torch.cat(planes))
        inside = slice(context // scale.stride, context // scale.stride + scale.window)
        directions = torch.tensor([direction for direction, _ in drawn], device=maps.device)
        return Windows(maps[:, :, inside, inside], directions)

    def _cut(self, row: int, corner: tuple[int, int], scale: Scale, context: int) -> Tensor:
        plane, side = self._planes[row], scale.side + 2 * context
        y, x = corner[0] - context, corner[1] - context
        size = plane.shape[-1]
        top, left = max(0, -y), max(0, -x)
        inside = plane[:, max(0, y) : y + side, max(0, x) : x + side]
        bottom, right = max(0, y + side - size), max(0, x + side - size)
        return functional.pad(inside, (left, right, top, bottom))

    def _noisy(self, planes: Tensor, rng: np.random.Generator) -> Tensor:
        noise = rng.normal(0, NOISE, (*planes.shape[:2], 1, 1)) + NOISE * rng.standard_normal(planes.shape, np.float32)
        return planes + torch.from_numpy(noise.astype(np.float32)).to(planes.device) * self._gain.to(planes.device)


Corner = tuple[int, int]


def draw_corners(
    side: int, size: int, rng: np.random.Generator, *, clips: bool
) -> tuple[int, tuple[Corner, Corner, Corner, Corner, Corner]]:
    """Draw (direction, corners of first, second, anchor, near, far) of one scale in a frame of ``size`` pixels."""
    offsets = pair_offsets(side)
    direction, *offset = rng.choice(offsets).tolist()
    first, second = _pair(side, size, (offset[0], offset[1]), rng, clips=clips)
    _, *further = rng.choice(offsets).tolist()
    anchor, far = _pair(side, size, far_offset(side, (further[0], further[1])), rng, clips=clips)
    while True:
        near = _moved(anchor, jitter(side, rng))
        if clips or near == _clipped(near, side, size):
            return direction, (first, second, anchor, _clipped(near, side, size), far)


def context_of(scale: Scale, size: int) -> int:
    """Return the context a patch is cut with: no more than makes it the frame's size, in whole strides."""
    room = (size - scale.side) // 2
    return min(scale.context, room - room % scale.stride)


def _pair(side: int, size: int, offset: Corner, rng: np.random.Generator, *, clips: bool) -> tuple[Corner, Corner]:
    """Draw a corner and the one ``offset`` from it; where none has such a one inside, it is clipped all the same."""
    fits = all(abs(each) <= size - side for each in offset)
    while True:
        y, x = rng.integers(0, size - side + 1, 2).tolist()
        other = _moved((y, x), offset)
        inside = _clipped(other, side, size)
        if clips or not fits or other == inside:
            return (y, x), inside


def _moved(corner: Corner, offset: Corner) -> Corner:
    return corner[0] + offset[0], corner[1] + offset[1]


def _clipped(corner: Corner, side: int, size: int) -> Corner:
    return min(max(corner[0], 0), size - side), min(max(corner[1], 0), size - side)
