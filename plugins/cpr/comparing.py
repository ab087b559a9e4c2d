"""The local comparison of a few pictures with a few references, for several shares at once; for the examination.

The line has ``retrieval.py``, made for a frame and a bank whose rows are laid out for it. Here maps come as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

#: Numbers a product may have, 32 MB: maps are compared by bands of rows.
MOST_PRODUCTS = 8 << 20


def compare(raw: Tensor, local: Tensor, queries: int, shares: Sequence[float], *, reach: int) -> Tensor:
    """Return the smallest distances of the first ``queries`` pictures to any of the others, [shares, queries, H, W].

    ``raw`` [N, C, H, W] and ``local`` [N, D, H, W], both of norm 1. A distance is 1 - a cosine, of which a share is
    that of ``raw``, the rest that of ``local``; within ``reach`` pixels.
    """
    features = [each for each, used in ((local, min(shares) < 1), (raw, max(shares) > 0)) if used]
    pictures = [each[:queries] for each in features]
    references = [_edged(each[queries:], reach) for each in features]
    height, width = raw.shape[-2:]
    a_row = (width + 2 * reach) * (len(raw) - queries) * (2 * reach + 1) ** 2 * queries
    rows = max(1, MOST_PRODUCTS // a_row)
    bands = [
        _band(
            [each[:, :, top : top + rows] for each in pictures],
            [each[:, :, top : top + rows + 2 * reach] for each in references],
            shares,
            reach,
        )
        for top in range(0, height, rows)
    ]
    return 1.0 - torch.cat(bands, 2)


def _edged(maps: Tensor, reach: int) -> Tensor:
    return functional.pad(maps, (reach,) * 4, mode="replicate") if reach else maps


def _band(pictures: Sequence[Tensor], references: Sequence[Tensor], shares: Sequence[float], reach: int) -> Tensor:
    """Return the largest cosines of some rows, [shares, queries, rows, W], with one matrix product a place.

    Places are the pixels of the references, which have ``reach`` more on every side. ``pictures`` and ``references``:
    of the heads, of the backbone, or one of them only.
    """
    queries, _, height, width = pictures[0].shape
    around = 2 * reach + 1
    products = [
        torch.bmm(there.flatten(2).permute(2, 0, 1), _shifted(here, reach))
        for here, there in zip(pictures, references, strict=True)
    ]
    best = torch.stack([torch.lerp(products[0], products[-1], share).amax(1) for share in shares])
    grid = best.view(len(shares), height + 2 * reach, -1, around, around, queries)
    shifts = [grid[:, y : y + height, x : x + width, y, x] for y in range(around) for x in range(around)]
    return torch.stack(shifts).amax(0).permute(0, 3, 1, 2)


def _shifted(pictures: Tensor, reach: int) -> Tensor:
    """Return [N, C, H, W] as [places, C, shifts * N], for every place the pixels it is compared with.

    Shift (y, x), row by row: pixel (i - y, j - x) at place (i, j). Zero where there is none, which is read nowhere.
    """
    tall, wide = (length + 2 * reach for length in pictures.shape[-2:])
    framed = functional.pad(pictures, (2 * reach,) * 4)
    starts = range(2 * reach, -1, -1)
    shifts = [framed[:, :, y : y + tall, x : x + wide] for y in starts for x in starts]
    return torch.cat(shifts).flatten(2).permute(2, 1, 0)
