"""Taking a reference out of a packed bank: other vectors of the same pixel are written over its own.

No maximum can see the second copy of a vector. So shapes stay, nothing is compiled again, and a bank of all references
answers as if this one had never been there. In a chosen bank its slots are covered, not filled again: scores come out
somewhat higher than those of a choice without it (section 9.2, 1).
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from plugins.matching import TILE, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Cover:
    """Which vectors go, and which stand in for them: rows of the packed bank as [tiles * T * TILE^2, C], int64 [n]."""

    gone: Tensor
    stand_ins: Tensor


def cover_sheets(tiles: Tensor, gone: Sequence[int]) -> Cover:
    """Cover whole sheets of the packed bank [tiles, T * TILE^2, C], at least one of which must stay."""
    rows = torch.arange(tiles.shape[0] * tiles.shape[1], device=tiles.device)
    rows = rows.view(tiles.shape[0], -1, TILE * TILE)
    other = next(sheet for sheet in range(rows.shape[1]) if sheet not in gone)
    return Cover(rows[:, list(gone)].flatten(), rows[:, [other] * len(gone)].flatten())


def cover_slots(slots: Tensor, reference: int) -> Cover:
    """Cover what came from one reference: ``slots`` integer [K, H, W], K > 1, every reference once a pixel at most."""
    packed = pack(slots[:, None])
    packed = packed.view(packed.shape[0], -1, TILE * TILE)
    rows = torch.arange(packed.numel()).view(packed.shape)
    gone = packed == reference
    others = torch.where(gone[:, :1], rows[:, 1:2], rows[:, :1]).expand_as(rows)
    return Cover(rows[gone], others[gone])


@contextmanager
def without(tiles: Tensor, sheet: int) -> Iterator[Tensor]:
    """Lend the packed bank [tiles, T * TILE^2, C], T > 1, with one sheet covered; then restore it."""
    rows, cover = tiles.flatten(0, 1), cover_sheets(tiles, [sheet])
    kept = rows[cover.gone]
    rows[cover.gone] = rows[cover.stand_ins]
    try:
        yield tiles
    finally:
        rows[cover.gone] = kept


@dataclass
class _Copy:
    source: weakref.ref[Tensor]
    version: int | None
    tiles: Tensor
    gone: Tensor


class SpareCopies:
    """One copy of each tensor of the last bank seen, so that leaving out the next reference moves its vectors, not all.

    A copy goes when its bank does, and is made again when the bank is another or was written to.
    """

    def __init__(self) -> None:
        self._copies: dict[str, _Copy] = {}

    def without(self, name: str, tiles: Tensor, cover: Cover) -> Tensor:
        """Return bank tensor ``name``, [tiles, T * TILE^2, C], with the cover laid over it.

        ``tiles`` is left alone. What is returned is overwritten by the next call for this name.
        """
        rows = tiles.flatten(0, 1)
        gone, stand_ins = cover.gone.to(tiles.device), cover.stand_ins.to(tiles.device)
        copy = self._copies.get(name)
        version = _version(tiles)
        if copy is None or version is None or copy.source() is not tiles or copy.version != version:
            self._copies.pop(name, None)
            del copy  # before the clone, or two copies would be in memory at once
            copies = self._copies  # not self: the callback must not keep the detector alive
            source = weakref.ref(tiles, lambda _: copies.pop(name, None))
            copy = self._copies[name] = _Copy(source, version, tiles.clone(), gone)
        covered = copy.tiles.flatten(0, 1)
        covered[copy.gone] = rows[copy.gone]
        covered[gone] = rows[stand_ins]
        copy.gone = gone
        return copy.tiles


def _version(tiles: Tensor) -> int | None:
    """Return how often the tensor was written to; None for one of inference mode, where torch does not count."""
    return None if tiles.is_inference() else int(tiles._version)  # noqa: SLF001 - it has no public name
