"""OPTICS over the sheets at every pixel at once: the labels of scikit-learn, hundreds of times as fast.

Definition (specification, section 11.1): distance 1 - cosine, no largest radius, clusters by xi = 0.05 with predecessor
correction. Processing is sequential in the points but not in the pixels: N steps, each over a few hundred pixels.

Sheets are put on a grid first, on which every cosine is exact. So nothing depends on how many pixels or sheets a matrix
product happened to take at once, nor on the machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plugins.hetmm.xi import extract

#: Steps of the grid in 1. The product of two numbers on it is a multiple of 2^-48, and so is every partial sum of a dot
#: product of unit vectors; none exceeds 2, so each has an exact float64 (53 bits). Finer digits are rounded off: that
#: moves cosines by some 1e-6.
_GRID = 2.0**24
#: Norms below this are taken for it, as where sheets are made: a vector of zeros stays one.
_EPS = 1e-12
#: scikit-learn rounds distances to 15 decimals; so ties are ties there and here.
_DECIMALS = 1e15


def unit_grid(sheets: Tensor) -> Tensor:
    """Return unit vectors on a grid of 2^-24: float [N, C, ...] -> float64 [N, C, ...], norm 1 over C to about 2^-24.

    Why the grid: every product of two entries is a multiple of 2^-48, so every dot product of two such vectors is exact
    in float64, whatever the order of summation. Gram matrices of all references at once and of one inserted reference
    agree bit for bit, and duplicates tie exactly. Vectors of zeros stay zeros.

    Raises ``ValueError`` where a vector has no finite norm.
    """
    units = sheets.to(torch.float64, copy=True)
    squares = units * units
    # Halves are added, not summed by torch, whose order follows the tensor's shape: the last bit of a norm could decide
    # a rounding, and a vector would depend on its neighbours.
    count = squares.shape[1]
    while count > 1:
        half = (count + 1) // 2
        squares[:, : count - half] += squares[:, half:count]
        count = half
    norms = squares[:, :1].sqrt()
    if not norms.isfinite().all():
        bad = int((~norms.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"hetmm: expected finite feature vectors, found NaN or infinity in sheet {bad} of {len(sheets)}: look at "
            "its frame, and at the backbone's weights"
        )
    # Powers of two scale without rounding, so this is x / norm, rounded to the grid once.
    return units.div_(norms.clamp_min_(_EPS).div_(_GRID)).round_().mul_(1 / _GRID)


def min_samples(sheets: int, count: int) -> int:
    """Return OPTICS' smallest cluster when ``count`` of ``sheets`` are to be chosen: 2 or more (section 11.1)."""
    return max(2, sheets // count)


def cluster(gram: Tensor, smallest: int) -> Tensor:
    """Label the points of every pixel: cosines float64 [P, N, N] -> int32 [P, N] on the same device; -1 = noise.

    ``gram`` holds dot products of vectors of ``unit_grid``; ``smallest`` is the smallest cluster, 2..N. Labels count
    from 0 in no order of interest. Equal to scikit-learn's OPTICS(min_samples=smallest, metric="precomputed") on max(0,
    1 - gram) with a diagonal of zeros.
    """
    order, reach, predecessor = processing(gram, smallest)
    found = extract(reach.cpu().numpy(), predecessor.cpu().numpy(), smallest)
    along = torch.from_numpy(found).to(gram.device)
    return torch.empty_like(along).scatter_(1, order, along)


def processing(gram: Tensor, smallest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return OPTICS' processing order of every pixel and what it finds on the way; parameters as in ``cluster``.

    ``order`` int64 [P, N]: the points in processing order. ``reach`` float64 [P, N], in that order: reachability
    distance, 0..2, the first one infinite. ``predecessor`` int32 [P, N], in that order: the position of the point each
    one was reached from; 0 for the first.
    """
    pixels, count, _ = gram.shape
    steps = _step_lengths(gram, smallest).flatten(0, 1)
    rows = torch.arange(0, pixels * count, count, device=gram.device)
    reach = gram.new_full((pixels, count), torch.inf)
    # A point that was processed is neither the nearest nor can be reached: both are infinite for it. All others have
    # been reached after the first step, so they are not.
    closed = gram.new_zeros((pixels, count))
    predecessor = torch.zeros((pixels, count), dtype=torch.int32, device=gram.device)
    order = torch.empty((count, pixels), dtype=torch.int64, device=gram.device)
    plot = gram.new_empty((count, pixels))
    length, nearer = torch.empty_like(reach), torch.empty_like(reach, dtype=torch.bool)
    for position in range(count):
        point = torch.argmin(reach, 1, out=order[position])  # the first one on ties, infinite ones included
        here = point[:, None]
        plot[position] = reach.gather(1, here)[:, 0]
        reach.scatter_(1, here, torch.inf)
        closed.scatter_(1, here, torch.inf)
        torch.index_select(steps, 0, rows + point, out=length)
        torch.maximum(length, closed, out=length)
        torch.lt(length, reach, out=nearer)
        predecessor.masked_fill_(nearer, position)
        torch.minimum(reach, length, out=reach)
    order = order.T.contiguous()
    return order, plot.T.contiguous(), predecessor.gather(1, order)


def _step_lengths(gram: Tensor, smallest: int) -> Tensor:
    """Return [P, N, N]: how far b is when reached from a, max(core distance of a, distance a to b)."""
    # In place on one copy: at 762 sheets a pixel's matrix is 4.6 MB.
    lengths = torch.rsub(gram, 1).clamp_min_(0)
    lengths.diagonal(dim1=1, dim2=2).zero_()
    lengths.mul_(_DECIMALS).round_().div_(_DECIMALS)
    core = lengths.topk(smallest, dim=2, largest=False).values[..., -1:]  # a point is its own first neighbour
    return torch.maximum(lengths, core, out=lengths)
