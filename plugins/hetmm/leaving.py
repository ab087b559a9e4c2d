"""Taking a sheet out of a packed bank: another sheet is written over it, and no maximum can see the second copy.

So shapes stay, nothing is compiled again, and the bank answers as if the sheet had never been there.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plugins.matching import TILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@contextmanager
def without(tiles: Tensor, index: int) -> Iterator[Tensor]:
    """Lend the packed bank float32 [tiles, T * TILE^2, C], T > 1, with sheet ``index`` covered; then restore it."""
    kept = _sheets(tiles)[:, index].clone()
    _cover(tiles, [index])
    try:
        yield tiles
    finally:
        _sheets(tiles)[:, index] = kept


@dataclass
class _Copy:
    source: weakref.ref[Tensor]
    version: int | None
    tiles: Tensor
    gone: Sequence[int]


class SpareCopies:
    """One copy of each tensor of the last bank seen, so that leaving out the next sheet moves two sheets, not all.

    A copy goes when its bank does, and is made again when the bank is another or was written to.
    """

    def __init__(self) -> None:
        self._copies: dict[str, _Copy] = {}

    def without(self, name: str, tiles: Tensor, gone: Sequence[int]) -> Tensor:
        """Return bank tensor ``name``, float32 [tiles, T * TILE^2, C], with the sheets ``gone`` covered.

        ``tiles`` is left alone. What is returned is overwritten by the next call for this name.
        """
        copy = self._copies.get(name)
        version = _version(tiles)
        if copy is None or version is None or copy.source() is not tiles or copy.version != version:
            self._copies.pop(name, None)
            del copy  # before the clone, or two copies would be in memory at once
            copies = self._copies  # not self: the callback must not keep the detector alive
            source = weakref.ref(tiles, lambda _: copies.pop(name, None))
            copy = self._copies[name] = _Copy(source, version, tiles.clone(), [])
        elif copy.gone:
            _sheets(copy.tiles)[:, copy.gone] = _sheets(tiles)[:, copy.gone]
        copy.gone = gone
        _cover(copy.tiles, gone)
        return copy.tiles


def _version(tiles: Tensor) -> int | None:
    """Return how often the tensor was written to; None for one of inference mode, where torch does not count."""
    return None if tiles.is_inference() else int(tiles._version)  # noqa: SLF001 - it has no public name


def _sheets(tiles: Tensor) -> Tensor:
    return tiles.view(tiles.shape[0], -1, TILE * TILE, tiles.shape[2])


def _cover(tiles: Tensor, gone: Sequence[int]) -> None:
    """Write the first sheet, or the second where the first goes, over the sheets ``gone``."""
    sheets = _sheets(tiles)
    other = 1 if 0 in gone else 0
    sheets[:, gone] = sheets[:, other : other + 1].clone()  # torch writes from no memory that it writes to
