"""Windowed cosine matching of a query against a bank of templates, in both directions at once (HETMM's ATMM).

Definition (specification section 5; q, t unit vectors per pixel; windows are clipped at the border, never padded), over
all sheets t:

    forward  F(i) = max_t max_{|dy|,|dx| <= df} <q(i), t(i + delta)>      distance a_F = 1 - F
    backward B(i) = max_t max_{|dy|,|dx| <= db} <t(i), q(i + delta)>      distance a_B = 1 - B

Both maxima start from -1. Every product the backward direction needs is one the forward direction has already:
<t(j), q(j + e)> is the pair (query pixel j + e, template pixel j). So the products are computed once,
template-stationary: the grid is cut into tiles of ``TILE`` x ``TILE`` template pixels, each multiplied with the query
pixels around it as one matrix product, and reduced over the sheets at once. Nothing of the bank is unfolded or copied.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Side of a tile of template pixels. Larger tiles meet more query pixels they have no use for, smaller ones make
#: smaller matrices. On two cores 762 sheets of EfficientNet-Lite0 with 3 x 3 windows took 68 ms with 2 and 113 with 4;
#: 60 sheets of WideResNet101-2 with 13 x 7 and narrower windows 333 and 348.
TILE = 2
#: Numbers held at once of each kind: scores, bank as float32, query pixels around the tiles; 4 MB each. The caches
#: still help, and the threads are not woken up too often: with a quarter of it those 68 ms became 116.
CHUNK = 1_000_000
#: Below every cosine: marks query pixels outside the image.
_OUTSIDE = -4.0


def padded(side: int) -> int:
    """Return ``side`` rounded up to whole tiles."""
    return -(-side // TILE) * TILE


def pack(sheets: Tensor) -> Tensor:
    """Lay a bank out tile by tile: [T, C, H, W] unit vectors -> [tiles, T * TILE^2, C], of the same float dtype.

    H and W are padded to whole tiles with zeros, which are cut off again. Otherwise a permutation of the bank: row
    t * TILE^2 + y * TILE + x of a tile is the vector of sheet t at (y, x) of that tile.
    """
    count, channels, height, width = sheets.shape
    rows, columns = padded(height) // TILE, padded(width) // TILE
    sheets = functional.pad(sheets, (0, columns * TILE - width, 0, rows * TILE - height))
    tiles = sheets.reshape(count, channels, rows, TILE, columns, TILE).permute(2, 4, 0, 3, 5, 1)
    return tiles.reshape(rows * columns, count * TILE * TILE, channels).contiguous()


class MutualMatch(nn.Module):
    """ATMM distances of one layer for feature maps of a fixed size.

    ``forward_half`` and ``backward_half`` are the window half-widths df and db in feature pixels (window side 2d + 1),
    or None where a direction is off. Call with query [B, C, H, W] (unit vectors over C, float32) and the packed bank
    [tiles, T * TILE^2, C]; returns (a_F, a_B), each float32 [B, H, W] in 0..2 (a rounding error below 0 is possible); a
    direction that is off gives zeros. Raises ``ValueError`` when both are off.

    A float16 bank takes half the memory and the same time: a chunk of it at a time becomes float32, products and sums
    are float32 all the same. Rounding a unit vector to float16 moves its cosines by 5e-4 at most (2e-4 is seen).
    """

    halo_index: Tensor
    outside: Tensor

    def __init__(self, height: int, width: int, forward_half: int | None, backward_half: int | None) -> None:
        super().__init__()
        if forward_half is None and backward_half is None:
            raise ValueError("at least one direction must be on")
        self.height, self.width = height, width
        self.forward_half, self.backward_half = forward_half, backward_half
        self.reach = max(forward_half or 0, backward_half or 0)
        self.halo = TILE + 2 * self.reach
        self.rows, self.columns = padded(height) // TILE, padded(width) // TILE
        index, outside = self._halo()
        self.register_buffer("halo_index", index, persistent=False)
        self.register_buffer("outside", outside, persistent=False)

    def _halo(self) -> tuple[Tensor, Tensor]:
        """Return, per tile, the query pixels around it as flat indices clamped to the image, and 0 or _OUTSIDE each."""

        def axis(tiles: int, side: int) -> tuple[Tensor, Tensor]:
            at = torch.arange(tiles)[:, None] * TILE + torch.arange(self.halo)[None] - self.reach
            return at.clamp(0, side - 1), (at < 0) | (at >= side)

        (y, y_out), (x, x_out) = axis(self.rows, self.height), axis(self.columns, self.width)
        index = y[:, None, :, None] * self.width + x[None, :, None, :]
        out = y_out[:, None, :, None] | x_out[None, :, None, :]
        tiles = self.rows * self.columns
        outside = torch.where(out, _OUTSIDE, 0.0).reshape(tiles, 1, 1, self.halo, self.halo)
        return index.reshape(tiles, self.halo * self.halo), outside

    def forward(self, query: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Return (a_F, a_B); see the class."""
        return self.distances(self.band(query, bank))

    def band(self, query: Tensor, bank: Tensor) -> Tensor:
        """Return R [B, H, W, w, w], w = 2 reach + 1: the best cosine over all sheets for each pair within reach.

        R[b, j, a] belongs to template pixel j and query pixel j + a - reach; pairs outside the image are below -1.
        """
        batch, channels = query.shape[:2]
        pixels = query.permute(0, 2, 3, 1).reshape(batch, self.height * self.width, channels)
        chunk, rows = self.pieces(batch, channels, bank.shape[1])
        best = [
            self._best(pixels, bank[first : first + chunk], self.halo_index[first : first + chunk], rows)
            for first in range(0, bank.shape[0], chunk)
        ]
        return self._band_of(torch.cat(best) + self.outside, batch)

    def pieces(self, batch: int, channels: int, rows: int) -> tuple[int, int]:
        """Return how many tiles, and how many of a tile's ``rows`` = T * TILE^2, are multiplied at once."""
        around = batch * self.halo * self.halo  # query pixels
        per_row = max(around, channels)
        tiles = CHUNK // max(per_row * rows, around * channels)
        whole_sheets = CHUNK // (per_row * TILE * TILE) * TILE * TILE
        return max(1, tiles), min(rows, max(TILE * TILE, whole_sheets))

    def _best(self, pixels: Tensor, tiles: Tensor, index: Tensor, rows: int) -> Tensor:
        """Return the best cosine over sheets for a few tiles, ``rows`` at a time: [n, TILE^2, B, halo, halo]."""
        batch, _, channels = pixels.shape
        count = tiles.shape[0]
        around = pixels[:, index].transpose(0, 1).reshape(count, -1, channels).transpose(1, 2)
        tops = []
        for start in range(0, tiles.shape[1], rows):
            scores = torch.bmm(tiles[:, start : start + rows].to(around.dtype), around)
            tops.append(scores.reshape(count, -1, TILE * TILE * scores.shape[-1]).amax(1))
        return reduce(torch.maximum, tops).reshape(count, TILE * TILE, batch, self.halo, self.halo)

    def _band_of(self, best: Tensor, batch: int) -> Tensor:
        """Cut each template pixel's window out of its tile's halo and put the tiles back into the image."""
        window = 2 * self.reach + 1
        cuts = [best[:, y * TILE + x, :, y : y + window, x : x + window] for y in range(TILE) for x in range(TILE)]
        band = torch.stack(cuts, 1).reshape(self.rows, self.columns, TILE, TILE, batch, window, window)
        band = band.permute(4, 0, 2, 1, 3, 5, 6).reshape(batch, self.rows * TILE, self.columns * TILE, window, window)
        return band[:, : self.height, : self.width]

    def distances(self, band: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce the band to (a_F, a_B)."""
        zeros = torch.zeros_like(band[..., 0, 0])
        ahead = zeros if self.forward_half is None else 1 - forward_of(band, self.forward_half).clamp_min(-1)
        back = zeros if self.backward_half is None else 1 - backward_of(band, self.backward_half).clamp_min(-1)
        return ahead, back


def backward_of(band: Tensor, half: int) -> Tensor:
    """Return B [B, H, W] for half-width ``half``: at each template pixel the best over the inner window of its band."""
    margin = band.shape[-1] // 2 - half
    inner = band[..., margin : margin + 2 * half + 1, margin : margin + 2 * half + 1]
    return inner.flatten(-2).amax(-1)


def forward_of(band: Tensor, half: int) -> Tensor:
    """Return F [B, H, W] for half-width ``half``: query pixel i meets template pixel i - e at offset e of its band."""
    centre = band.shape[-1] // 2
    height, width = band.shape[1:3]
    padding = functional.pad(band, (0, 0, 0, 0, half, half, half, half), value=_OUTSIDE)
    shifted = [
        padding[:, half - dy : half - dy + height, half - dx : half - dx + width, centre + dy, centre + dx]
        for dy in range(-half, half + 1)
        for dx in range(-half, half + 1)
    ]
    return reduce(torch.maximum, shifted)
