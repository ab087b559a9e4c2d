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
from torch.fx.traceback import annotate

from plugins.cpr.lrb import NORM_EPS

#: Side of a tile of reference pixels where neighbours are searched. Single-threaded, 80 x 80 pixels, ten references of
#: a float16 bank: 15.9, 3.6 and 1.1 ms for 257, 64 and 16 channels with 2, and 24.3, 5.9 and 1.9 ms with 4.
TILE = 2
#: Numbers gathered at once: 8 MB as float32, so that they are still in the cache when they are multiplied.
CHUNK = 2_000_000
#: The same in an exported program. A compiler gathers all pieces before it multiplies the first, and threads that wait
#: asleep are woken for each; pieces of more than 32 MB are taken from the kernel anew for every frame.
COMPILED_CHUNK = 7_000_000
#: Beside the products of an exported program: they may be rounded to 16 bits where convolutions are
#: (``runtime.engines.precision``). Of these cosines the largest counts, and the map of them is smoothed.
BEARS_16_BITS = {"edgead.bears_16_bits": True}


def pack_tiled(local: Tensor, reach: int) -> Tensor:
    """Lay local features out for ``TiledRetrieval``: [N, H, W, D] -> [tiles, N, tile^2 * D], same dtype."""
    del reach  # the other form's
    tile = TILE
    count, height, width, depth = local.shape
    rows, columns = -(-height // tile), -(-width // tile)
    local = _edges_repeated(local, (0, rows * tile - height), (0, columns * tile - width))
    tiles = local.reshape(count, rows, tile, columns, tile, depth).permute(1, 3, 0, 2, 4, 5)
    return tiles.reshape(rows * columns, count, tile * tile * depth).contiguous()


def pack_shifted(local: Tensor, reach: int) -> Tensor:
    """Lay local features out for ``ShiftedRetrieval``: [N, H, W, D] -> [N, H + 2 reach, W + 2 reach, D], same dtype."""
    return _edges_repeated(local, (reach, reach), (reach, reach)).contiguous()


class TiledRetrieval(nn.Module):
    """Distances of one scale, ``height`` x ``width`` pixels, ``reach`` 0 or 1 (regions of 1 or 3 pixels a side).

    Call with query [B, D, H, W] float32 (not normalised), bank [tiles, N, tile^2 * D] of ``pack_tiled``, float32,
    float16 or bfloat16, and chosen rows int64 [B, K]. Returns A, float32 [B, H, W], 0..2 but for rounding. Queries may
    be V to a frame, [B V, D, H, W], one frame's after the other's: its references are read once for all of them, and
    there are as many distances. A float16 bank is multiplied in float32, and by a lowered program in 16 bits
    (``BEARS_16_BITS``); a bfloat16 one in bfloat16, sums in float32.
    """

    halo_index: Tensor
    pair_index: Tensor

    def __init__(self, height: int, width: int, reach: int) -> None:
        super().__init__()
        self.height, self.width, self.reach, self.tile = height, width, reach, TILE
        self.halo = self.tile + 2 * reach
        self.rows, self.columns = -(-height // self.tile), -(-width // self.tile)

        def axis(tiles: int, side: int) -> Tensor:
            at = torch.arange(tiles)[:, None] * self.tile + torch.arange(self.halo)[None] - reach
            return at.clamp(0, side - 1)

        y, x = axis(self.rows, height), axis(self.columns, width)
        self.register_buffer(
            "halo_index", (y[:, None, :, None] * width + x[None, :, None, :]).flatten(), persistent=False
        )
        self.register_buffer("pair_index", self._pairs(), persistent=False)

    def _pairs(self) -> Tensor:
        """Return where each pixel's products lie, int64 [H W, region^2], among [tile row, column, tile^2, halo^2].

        A reference's pixel belongs to one tile, where the query's lies in the halo. Beyond the edge: the nearest pixel,
        which lies in the region already.
        """
        step = torch.arange(-self.reach, self.reach + 1)

        def axis(side: int) -> tuple[Tensor, Tensor, Tensor]:
            at = torch.arange(side)[:, None]
            near = (at + step).clamp(0, side - 1)
            tile = near // self.tile
            return tile, near - tile * self.tile, at - tile * self.tile + self.reach

        y, x = ([each[:, None, :, None] for each in axis(self.height)], [each[:, None] for each in axis(self.width)])
        tile = y[0] * self.columns + x[0]
        pixel = y[1] * self.tile + x[1]
        place = y[2] * self.halo + x[2]
        return ((tile * self.tile**2 + pixel) * self.halo**2 + place).flatten(2).flatten(0, 1)

    def forward(self, query: Tensor, bank: Tensor, chosen: Tensor) -> Tensor:
        """Return the distances; see the class."""
        batch, references = chosen.shape
        tiles, depth = self.rows * self.columns, query.shape[1]
        exact = bank.dtype if bank.dtype == torch.bfloat16 else torch.float32
        # Of each of V queries the places around a tile: [V, tiles * B, halo^2, D].
        around = query.flatten(2).transpose(1, 2).to(exact).index_select(1, self.halo_index)
        around = around.view(batch, -1, tiles, self.halo**2, depth).permute(1, 2, 0, 3, 4).flatten(1, 2)
        wanted = chosen.flatten()
        chunk = COMPILED_CHUNK if torch.compiler.is_compiling() else CHUNK
        at_once = max(1, chunk // (bank.shape[2] * batch * references))
        best: list[list[Tensor]] = [[] for _ in around]
        for first in range(0, tiles, at_once):
            there = bank[first : first + at_once].index_select(1, wanted).to(exact)
            there = there.reshape(-1, references * self.tile**2, depth)
            for found, near in zip(best, around, strict=True):
                with annotate(BEARS_16_BITS):
                    scores = torch.bmm(there, near[first * batch : first * batch + there.shape[0]].transpose(1, 2))
                found.append(scores.view(there.shape[0], references, -1).amax(1))
        pairs = torch.stack([torch.cat(found) for found in best]).float()
        # From [V, tiles, B, ...] to the queries' own order.
        pairs = pairs.view(len(best), tiles, batch, -1).permute(2, 0, 1, 3).reshape(query.shape[0], -1)
        pairs = pairs.index_select(1, self.pair_index.flatten()).view(-1, *self.pair_index.shape).amax(-1)
        norm = torch.linalg.vector_norm(query, dim=1) + NORM_EPS
        distance: Tensor = 1 - pairs.view(-1, self.height, self.width) / norm
        return distance


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
        pixels = pixels.reshape(batch, -1, 1, *pixels.shape[1:])
        there = bank.index_select(0, chosen.flatten()).view(batch, 1, references, *bank.shape[1:])
        best: Tensor | None = None
        for dy in range(2 * self.reach + 1):
            for dx in range(2 * self.reach + 1):
                shifted = there[:, :, :, dy : dy + self.height, dx : dx + self.width].to(torch.float32)
                scores = (pixels * shifted).sum(-1).amax(2)
                best = scores if best is None else torch.maximum(best, scores)
        assert best is not None  # noqa: S101 - there is at least one offset
        distance: Tensor = 1 - best.flatten(0, 1) / norm
        return distance


def _edges_repeated(local: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    for dim, (before, after) in ((1, rows), (2, columns)):
        side = local.shape[dim]
        if before or after:
            local = local.index_select(dim, torch.arange(-before, side + after).clamp(0, side - 1))
    return local
