"""Training pictures on a frozen backbone: each is encoded a few times, slightly shifted, and then only looked at.

Patches of a position pair lie anywhere, but a map has features at multiples of its stride only. So a picture is a
reference seen through six windows of the frame, each shifted by a few pixels and encoded whole: a clean one, one for
each scale that lies a jitter away from it, and two with noise of their own, whose shifts differ by a residue. A step
draws patches on the windows' grids such that their true offset is one of the definition: all twelve directions, most
offsets, and never a patch beyond the border. Far patches are rounded to the clean window's grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plugins.mspba.geometry import far_offset, jitter, pair_offsets
from plugins.mspba.windows import Windows

if TYPE_CHECKING:
    from torch import nn

    from plugins.mspba.embedding import Planes
    from plugins.mspba.settings import Scale

#: Windows are so much smaller than the frame, and shifted by at most as much.
ROOM = 16
#: Deviation of the noise of a position pair, one draw for each channel and one for each pixel, of a range of 0..1.
NOISE = 0.02
#: Windows of a scale, in this order.
_CLEAN, _NEAR, _FIRST, _SECOND = range(4)


@dataclass(frozen=True)
class Picture:
    """Six windows of one reference: network input float32 [6, 3, V, V], and what their shifts amount to.

    ``shifts`` int64 [6, 2]: clean, near of the first, second and third scale, first, second.
    """

    planes: Tensor
    shifts: np.ndarray


class Views:
    """Draws pictures: ``draw(7)`` is the same one whenever it is asked for, in any thread.

    ``planes``: the references; ``usable``: those it may draw.
    """

    def __init__(self, planes: Planes, usable: Sequence[int], scales: Sequence[Scale], seed: int) -> None:
        self._planes, self._usable, self._scales = planes, np.asarray(usable), tuple(scales)
        self._gain, self._seed = planes.gain(), seed
        self.side = planes.size - ROOM

    def draw(self, number: int) -> Picture:
        """Return picture ``number``."""
        rng = np.random.default_rng([self._seed, number])
        plane = self._planes[int(self._usable[number % len(self._usable)])]
        shifts = self._shifts(rng)
        cut = torch.stack([plane[:, y : y + self.side, x : x + self.side] for y, x in shifts])
        for row in (-2, -1):
            noise = rng.normal(0, NOISE, (3, 1, 1)) + NOISE * rng.standard_normal(cut.shape[1:], np.float32)
            cut[row] += (torch.from_numpy(noise.astype(np.float32)) * self._gain).to(cut.device)
        return Picture(cut, shifts)

    def _shifts(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the shifts; the noisy windows' residue is one that every scale has position pairs for."""
        reach = ROOM // 4
        clean = rng.integers(reach, ROOM - reach + 1, 2)
        near = [clean + jitter(scale.side, rng) for scale in self._scales]
        first = rng.integers(0, ROOM, 2)
        while True:
            scale = self._scales[int(rng.integers(len(self._scales)))]
            offsets = pair_offsets(scale.side)
            second = (first + offsets[int(rng.integers(len(offsets)))][1:]) % ROOM
            if all(_matching(each.side, each.stride, *(second - first).tolist()).size for each in self._scales):
                return np.stack([clean, *near, first, second])


@dataclass(frozen=True)
class ViewPool:
    """Encoded pictures. ``maps``: per scale float16 [P, 4, h, w, C]; ``shifts`` int64 [P, 6, 2]."""

    scales: tuple[Scale, ...]
    maps: tuple[Tensor, ...]
    shifts: np.ndarray

    def draw(self, rng: np.random.Generator, count: int) -> list[Windows]:
        """Return ``count`` draws of each scale, each from a picture of its own choice."""
        return [self._of_scale(level, rng, count) for level in range(len(self.scales))]

    def _of_scale(self, level: int, rng: np.random.Generator, count: int) -> Windows:
        scale, maps = self.scales[level], self.maps[level]
        rows = rng.integers(0, len(self.shifts), count)
        cells = maps.shape[2] - scale.window + 1
        corners = np.empty((5, count, 2), np.int64)
        directions = np.empty(count, np.int64)
        for at, row in enumerate(rows):
            between = self.shifts[row, -1] - self.shifts[row, -2]
            matching = _matching(scale.side, scale.stride, *between.tolist())
            # Directions alike often, then the offsets of one.
            direction = rng.choice(np.unique(matching[:, 0]))
            offset = rng.choice(matching[matching[:, 0] == direction])[1:]
            directions[at] = direction
            corners[:2, at] = _placed((offset - between) // scale.stride, cells, rng)
            further = far_offset(scale.side, tuple(rng.choice(pair_offsets(scale.side))[1:].tolist()))
            anchor, far = _placed(np.rint(np.array(further) / scale.stride).astype(int), cells, rng)
            corners[2:, at] = anchor, anchor, far
        views = (_FIRST, _SECOND, _CLEAN, _NEAR, _CLEAN)
        cut = [_cut(maps, rows, view, corner, scale.window) for view, corner in zip(views, corners, strict=True)]
        return Windows(torch.cat(cut), torch.from_numpy(directions).to(maps.device))


def encode_pool(drawn: Iterator[Picture], backbone: nn.Module, scales: Sequence[Scale], device: str) -> ViewPool:
    """Encode pictures, one at a time."""
    maps: list[list[Tensor]] = [[] for _ in scales]
    shifts = []
    for picture in drawn:
        with torch.no_grad():
            taps = backbone(picture.planes.to(device))
        for level, tap in enumerate(taps):
            wanted = tap[[0, 1 + level, len(tap) - 2, len(tap) - 1]]
            maps[level].append(wanted.permute(0, 2, 3, 1).to(torch.float16))
        shifts.append(picture.shifts)
    return ViewPool(tuple(scales), tuple(torch.stack(each) for each in maps), np.stack(shifts))


@cache
def _matching(side: int, stride: int, down: int, across: int) -> np.ndarray:
    """Return the position offsets (direction, dy, dx) that differ from (down, across) by whole strides."""
    offsets = np.unique(pair_offsets(side), axis=0)
    apart = offsets[:, 1:] - (down, across)
    found: np.ndarray = offsets[(apart % stride == 0).all(1)]
    return found


def _placed(apart: np.ndarray, cells: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a cell and the one ``apart`` from it, both on a grid of ``cells`` a side; apart is cut to what fits."""
    apart = np.clip(apart, 1 - cells, cells - 1)
    low, high = np.maximum(0, -apart), cells - np.maximum(0, apart)
    here = rng.integers(low, high)
    return here, here + apart


def _cut(maps: Tensor, rows: np.ndarray, view: int, corners: np.ndarray, window: int) -> Tensor:
    """Return windows of maps [P, 4, h, w, C], float32 [B, C, n, n]."""
    device = maps.device
    steps = torch.arange(window)
    y, x = (torch.from_numpy(corners[:, axis])[:, None] + steps for axis in (0, 1))
    there = torch.from_numpy(rows)[:, None, None]
    cut = maps[there.to(device), view, y[:, :, None].to(device), x[:, None, :].to(device)]
    return cut.permute(0, 3, 1, 2).float()
