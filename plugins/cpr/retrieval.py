"""Local retrieval: every place of a frame looks for its like near its own place in the references (specification, 5.1).

    A(p) = min over references k and offsets o, |o| <= reach, p + o inside the map, of 1 - <l_q(p), l_k(p + o)>

with unit vectors l. Two forms with the same result and a bank layout each; neither unfolds the references:

* tiled: the grid is cut into tiles of ``TILE`` x ``TILE`` reference pixels; all chosen references' pixels of a tile are
  multiplied with the query pixels around it as one matrix product. For eager execution and where matrix units are fast.
* shifted: for each offset the shifted references are multiplied with the query and summed. A compiler makes one loop of
  it that writes nothing but the result; run eagerly it writes every product.

The query need not be normalised: dividing the best product by its norm comes to the same (9.4 d). Edges are repeated,
so that no place outside the map can win: every repeated vector lies inside the clipped window already (9.4 f).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.cpr.lrb import NORM_EPS

#: Side of a tile of reference pixels where neighbours are searched. Single-threaded, 80 x 80 pixels, ten references of
#: a float16 bank: 15.9, 3.6 and 1.1 ms for 257, 64 and 16 channels with 2, and 24.3, 5.9 and 1.9 ms with 4.
TILE = 2
#: Numbers gathered at once: 4 MB as float32, so that they are still in the cache when they are multiplied.
CHUNK = 1_000_000
#: Below every cosine: pairs that are too far apart.
_APART = -4.0


def pack_tiled(local: Tensor, reach: int) -> Tensor:
    """Lay local features out for ``TiledRetrieval``: [N, H, W, D] -> [tiles, N, tile^2 * D], same dtype."""
    tile = tile_of(reach)
    count, height, width, depth = local.shape
    rows, columns = -(-height // tile), -(-width // tile)
    local = _edges_repeated(local, (0, rows * tile - height), (0, columns * tile - width))
    tiles = local.reshape(count, rows, tile, columns, tile, depth).permute(1, 3, 0, 2, 4, 5)
    return tiles.reshape(rows * columns, count, tile * tile * depth).contiguous()


def pack_shifted(local: Tensor, reach: int) -> Tensor:
    """Lay local features out for ``ShiftedRetrieval``: [N, H, W, D] -> [N, H + 2 reach, W + 2 reach, D], same dtype."""
    return _edges_repeated(local, (reach, reach), (reach, reach)).contiguous()


def tile_of(reach: int) -> int:
    """Return the side of a tile: without neighbours to share there is nothing to gain from more than a pixel."""
    return TILE if reach else 1


class TiledRetrieval(nn.Module):
    """Distances of one scale, ``height`` x ``width`` pixels, ``reach`` 0 or 1 (regions of 1 or 3 pixels a side).

    Call with query [B, D, H, W] float32 (not normalised), bank [tiles, N, tile^2 * D] of ``pack_tiled``, float32,
    float16 or bfloat16, and chosen rows int64 [B, K]. Returns A, float32 [B, H, W], 0..2 but for rounding. A float16
    bank is multiplied in float32; a bfloat16 one in bfloat16, sums in float32.
    """

    halo_index: Tensor
    apart: Tensor

    def __init__(self, height: int, width: int, reach: int) -> None:
        super().__init__()
        self.height, self.width, self.reach, self.tile = height, width, reach, tile_of(reach)
        self.halo = self.tile + 2 * reach
        self.rows, self.columns = -(-height // self.tile), -(-width // self.tile)

        def axis(tiles: int, side: int) -> Tensor:
            at = torch.arange(tiles)[:, None] * self.tile + torch.arange(self.halo)[None] - reach
            return at.clamp(0, side - 1)

        y, x = axis(self.rows, height), axis(self.columns, width)
        self.register_buffer(
            "halo_index", (y[:, None, :, None] * width + x[None, :, None, :]).flatten(), persistent=False
        )
        near = (torch.arange(self.tile)[:, None] + reach - torch.arange(self.halo)[None]).abs() <= reach
        pairs = near[:, None, :, None] & near[None, :, None, :]
        apart = torch.where(pairs, 0.0, _APART).reshape(1, self.tile**2, self.halo**2)
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, query: Tensor, bank: Tensor, chosen: Tensor) -> Tensor:
        """Return the distances; see the class."""
        batch, depth = query.shape[:2]
        tiles, references = self.rows * self.columns, chosen.shape[1]
        pixels = query.flatten(2).transpose(1, 2)
        exact = bank.dtype if bank.dtype == torch.bfloat16 else torch.float32
        around = pixels.to(exact).index_select(1, self.halo_index).view(batch, tiles, self.halo**2, depth)
        around = around.transpose(0, 1).reshape(tiles * batch, self.halo**2, depth).transpose(1, 2)
        wanted = chosen.flatten()
        at_once = max(1, CHUNK // (bank.shape[2] * batch * references))
        best = []
        for first in range(0, tiles, at_once):
            there = bank[first : first + at_once].index_select(1, wanted).to(exact)
            there = there.reshape(-1, references * self.tile**2, depth)
            scores = torch.bmm(there, around[first * batch : first * batch + there.shape[0]])
            best.append(scores.view(there.shape[0], references, -1).amax(1))
        pairs = torch.cat(best).float().view(tiles * batch, self.tile**2, self.halo**2)
        norm = torch.linalg.vector_norm(pixels, dim=2) + NORM_EPS
        norms = norm.index_select(1, self.halo_index).view(batch, tiles, 1, -1).transpose(0, 1).flatten(0, 1)
        cosines = pairs / norms
        near = (cosines + self.apart).amax(1) if self.reach else cosines.squeeze(1)
        return 1 - self._joined(near, batch)

    def _joined(self, near: Tensor, batch: int) -> Tensor:
        """Join what tiles found for the query pixels around them, [tiles * B, halo^2], to [B, H, W]."""
        halos = near.view(self.rows, self.columns, batch, self.halo, self.halo)
        down = self._along(halos.permute(2, 0, 3, 1, 4).flatten(3))
        across = down.view(batch, -1, self.columns, self.halo).permute(0, 2, 3, 1)
        joined = self._along(across).transpose(1, 2)
        return joined[:, : self.height, : self.width]

    def _along(self, halos: Tensor) -> Tensor:
        """Take the best along one axis where halos overlap: [B, tiles, halo, X] -> [B, tiles * tile, X]."""
        tile, reach = self.tile, self.reach
        inner = halos[:, :, reach : reach + tile]
        if reach:
            rest = tile - reach
            before = functional.pad(halos[:, :-1, tile + reach :], (0, 0, 0, rest, 1, 0), value=_APART)
            after = functional.pad(halos[:, 1:, :reach], (0, 0, rest, 0, 0, 1), value=_APART)
            inner = torch.maximum(inner, torch.maximum(before, after))
        return inner.flatten(1, 2)


class ShiftedRetrieval(nn.Module):
    """As ``TiledRetrieval``, with a bank of ``pack_shifted``; products and sums are float32 whatever the bank is."""

    def __init__(self, height: int, width: int, reach: int) -> None:
        super().__init__()
        self.height, self.width, self.reach = height, width, reach

    def forward(self, query: Tensor, bank: Tensor, chosen: Tensor) -> Tensor:
        """Return the distances; see the class."""
        batch, references = chosen.shape
        pixels = query.permute(0, 2, 3, 1)
        norm = torch.linalg.vector_norm(pixels, dim=3) + NORM_EPS
        there = bank.index_select(0, chosen.flatten()).view(batch, references, *bank.shape[1:])
        best: Tensor | None = None
        for dy in range(2 * self.reach + 1):
            for dx in range(2 * self.reach + 1):
                shifted = there[:, :, dy : dy + self.height, dx : dx + self.width].to(torch.float32)
                scores = (pixels.unsqueeze(1) * shifted).sum(-1).amax(1)
                best = scores if best is None else torch.maximum(best, scores)
        assert best is not None  # noqa: S101 - there is at least one offset
        distance: Tensor = 1 - best / norm
        return distance


def _edges_repeated(local: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    for dim, (before, after) in ((1, rows), (2, columns)):
        side = local.shape[dim]
        if before or after:
            local = local.index_select(dim, torch.arange(-before, side + after).clamp(0, side - 1))
    return local
