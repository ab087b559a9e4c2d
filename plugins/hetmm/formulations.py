"""Plain ways to compute the distances of ``plugins.matching``, to measure it against; the detector uses none of them.

Each gives (a_F, a_B), float32 [H, W], for one query and half-widths ``ahead`` and ``back`` (specification, 13.3).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plugins.matching import backward_of, forward_of

#: Below every cosine: pairs outside the image.
_OUTSIDE = -4.0


def shifted(query: Tensor, sheets: Tensor, ahead: int, back: int) -> tuple[Tensor, Tensor]:
    """Shifted dot products (13.3 b): query [H, W, C], sheets [H, W, T, C].

    For every offset the overlapping parts of query and sheets are multiplied pixel by pixel, a matrix-vector product
    each. Both directions share the pass. The whole bank is read, and its slice copied, once an offset.
    """
    height, width = query.shape[:2]
    reach = max(ahead, back)
    side = 2 * reach + 1
    band = query.new_full((height, width, side, side), _OUTSIDE)
    for dy in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        rows = slice(max(0, -dy), min(height, height - dy))
        query_rows = slice(rows.start + dy, rows.stop + dy)
        for dx in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            columns = slice(max(0, -dx), min(width, width - dx))
            near = query[query_rows, columns.start + dx : columns.stop + dx]
            scores = sheets[rows, columns] @ near.unsqueeze(-1)
            band[rows, columns, dy + reach, dx + reach] = scores.squeeze(-1).amax(-1)
    return _distances(band, ahead, back)


def shifted_in_place(query: Tensor, sheets: Tensor, ahead: int, back: int) -> tuple[Tensor, Tensor]:
    """Shifted dot products without a copy: the best form of ``shifted`` we know; same arguments.

    An offset is a shift along the pixels in reading order, which needs no copy; products that run over the end of a row
    into the next one are struck out afterwards. The bank is still read once an offset.
    """
    height, width, channels = query.shape
    reach, count = max(ahead, back), height * width
    side = 2 * reach + 1
    bank = sheets.reshape(count, -1, channels).transpose(1, 2)
    pixels = query.reshape(count, 1, channels)
    band = query.new_full((count, side, side), _OUTSIDE)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            step = dy * width + dx
            first, last = max(0, -step), min(count, count - step)
            if first < last:
                scores = torch.bmm(pixels[first + step : last + step], bank[first:last])
                band[first:last, dy + reach, dx + reach] = scores.squeeze(1).amax(-1)
    at = torch.arange(width, device=query.device)[:, None] + torch.arange(-reach, reach + 1, device=query.device)
    over_the_end = (at < 0) | (at >= width)
    band = band.reshape(height, width, side, side).masked_fill(over_the_end[None, :, None, :], _OUTSIDE)
    return _distances(band, ahead, back)


def unfolded(query: Tensor, sheets: Tensor, ahead: int, back: int) -> tuple[Tensor, Tensor]:
    """Unfolding every window (13.3 a): query [C, H, W], sheets [T, C, H, W].

    One pass a direction; sheet by sheet, because the unfolded sheet alone is (2 d + 1)^2 times the sheet.
    """
    height, width = query.shape[1:]
    forward = [_best_in_window(query, sheet, ahead) for sheet in sheets]
    backward = [_best_in_window(sheet, query, back) for sheet in sheets]
    best = (torch.stack(each).amax(0).clamp_min(-1).reshape(height, width) for each in (forward, backward))
    ahead_distance, back_distance = (1 - each for each in best)
    return ahead_distance, back_distance


def _best_in_window(still: Tensor, moved: Tensor, half: int) -> Tensor:
    """Return [H * W]: at each pixel of ``still`` [C, H, W] the best product with ``moved`` within the window."""
    channels = still.shape[0]
    side = 2 * half + 1
    around = functional.unfold(moved[None], side, padding=half).reshape(channels, side * side, -1)
    inside = functional.unfold(torch.ones_like(moved[None, :1]), side, padding=half)[0]
    products = torch.einsum("cn,ckn->kn", still.reshape(channels, -1), around)
    return torch.where(inside > 0, products, _OUTSIDE).amax(0)


def _distances(band: Tensor, ahead: int, back: int) -> tuple[Tensor, Tensor]:
    """Reduce a band [H, W, w, w] as ``MutualMatch.distances`` does."""
    forward, backward = forward_of(band[None], ahead)[0], backward_of(band[None], back)[0]
    return 1 - forward.clamp_min(-1), 1 - backward.clamp_min(-1)
