"""One step's pictures: windows of their maps and of their references', the pairs drawn in them, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plugins.cpr.losses import like_loss, positions, read, remote_weights, unlike_loss
from plugins.cpr.pairs import Window, draw_pairs

if TYPE_CHECKING:
    from plugins.cpr.lrb import LocalHeads
    from plugins.cpr.plan import Plan
    from plugins.cpr.pool import Pool

#: Kinds of pairs, in this order along an axis: normal, remote, anomalous.
KINDS = 3
#: Share of windows that are laid over a defect where there is one; the others lie anywhere.
ON_DEFECT = 0.7
#: Cosines are stabilised with this.
COSINE_EPS = 1e-8


@dataclass(frozen=True)
class Batch:
    """``rows`` int64 [B] of pictures in the pool, and ``references`` [B, R] of theirs.

    ``corners`` int64 [B, 2]: (x, y) of the windows in coarsest pixels.

    ``frame``, ``reference`` float32 [B, 3 n, 2] pixels; ``weights`` float32 [B, 3 n]; kinds in the order of ``KINDS``.
    ``side``: of the windows in coarsest pixels.
    """

    rows: Tensor
    references: Tensor
    corners: Tensor
    side: int
    frame: Tensor
    reference: Tensor
    weights: Tensor


def draw_batch(pool: Pool, plan: Plan, size: int, coarse: int, rng: np.random.Generator, *, remote: bool) -> Batch:
    """Draw a batch from the pool; ``size``: pixels of a frame's side, ``coarse``: of the coarsest map's.

    A window is as many whole pixels of the coarsest map as come nearest to the plan's.
    """
    rows = rng.integers(0, len(pool), plan.batch)
    side = coarse if plan.window is None else min(max(1, round(plan.window * coarse / size)), coarse)
    corners, drawn = [], []
    for row in rows:
        mask = pool.masks[row]
        left, top = _corner(mask, side, coarse, rng)
        weights = None if pool.weights is None else pool.weights[row]
        window = _inside(left, top, side, coarse, size)
        drawn.append(draw_pairs(mask, pool.guarded[row], weights, window, rng, count=plan.pairs, remote=remote))
        corners.append((left, top))
    return Batch(
        rows=torch.from_numpy(rows),
        references=torch.from_numpy(pool.references[rows]),
        corners=torch.tensor(corners),
        side=side,
        frame=_stacked([[kind.frame for kind in each] for each in drawn]),
        reference=_stacked([[kind.reference for kind in each] for each in drawn]),
        weights=_stacked([[kind.weights for kind in each] for each in drawn]),
    )


def batch_loss(heads: LocalHeads, pool: Pool, batch: Batch, size: int, *, like: float) -> Tensor:
    """Return the loss of a batch, the sum over the layers (specification, 7.5); ``like``: as in the plan.

    With several references a pair's cosine is the largest over them, as on the line: a normal pixel need be like one of
    them only, an anomalous one must be unlike all. Remote pairs are made with the first.
    """
    device = pool.maps[0].device
    frame, reference, weights = (each.to(device) for each in (batch.frame, batch.reference, batch.weights))
    rows = torch.cat((batch.rows[None], batch.references.T)).flatten()
    count, each = len(batch.rows), batch.references.shape[1]
    losses = []
    for head, maps in zip(heads, pool.maps, strict=True):
        side = maps.shape[1]
        scale = round(side / pool.maps[-1].shape[1])
        windows = _cut(maps, rows, batch.corners.repeat(each + 1, 1) * scale, batch.side * scale)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            local = head(windows)
        origin = (batch.corners * scale).to(device)[:, None]
        here, there = positions(frame, size, side) - origin, positions(reference, size, side) - origin
        with torch.no_grad():
            apart = (read(windows[:count], here) - read(windows[count : 2 * count], there)).square().sum(2)
        query = read(local[:count].float(), here)
        others = read(local[count:].float(), there.repeat(each, 1, 1)).view(each, count, *query.shape[1:])
        cosines = functional.cosine_similarity(query.unsqueeze(0), others, dim=3, eps=COSINE_EPS)
        losses.append(pair_loss(cosines, weights, apart, like=like))
    return torch.stack(losses).sum()


def pair_loss(cosines: Tensor, weights: Tensor, apart: Tensor, *, like: float) -> Tensor:
    """Return one layer's loss of pairs [B, 3 n]: kinds in order, ``apart`` the squared distance of backbone vectors.

    ``cosines`` [R, B, 3 n]: with each reference. ``like``: weight of normal pairs.
    """
    normal, remote, broken = weights.chunk(KINDS, dim=1)
    far = remote_weights(apart.chunk(KINDS, dim=1)[1], remote)
    nearest = cosines.amax(0).chunk(KINDS, dim=1)
    unlike = torch.cat((cosines[0].chunk(KINDS, dim=1)[1], nearest[2]), 1)
    return like_loss(nearest[0], like * normal) + unlike_loss(unlike, torch.cat((far, broken), 1))


def _corner(mask: np.ndarray, side: int, coarse: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return (x, y) of a window's corner: over a pixel of the defect, mostly, else anywhere."""
    room = coarse - side + 1
    anywhere = rng.integers(0, room, 2)
    shift, on_defect = rng.integers(0, side, 2), rng.random() < ON_DEFECT
    defect = np.flatnonzero(mask) if on_defect and room > 1 else np.empty(0, np.int64)
    if not defect.size:
        return int(anywhere[0]), int(anywhere[1])
    y, x = divmod(int(defect[int(rng.integers(defect.size))]), mask.shape[1])
    cell = mask.shape[0] / coarse
    corner = np.clip([int(x / cell) - shift[0], int(y / cell) - shift[1]], 0, room - 1)
    return int(corner[0]), int(corner[1])


def _inside(left: int, top: int, side: int, coarse: int, size: int) -> Window:
    """Return the pixels of a window whose features see little beyond it: a coarse pixel is left free inside its edges.

    Edges of the frame are edges of the whole map too, and need no room.
    """
    cell = size / coarse
    spans = []
    for start in (left, top):
        first = 0 if start == 0 else start + 1
        end = coarse if start + side == coarse else start + side - 1
        spans.append((round(first * cell), round(end * cell)))
    (x, right), (y, bottom) = spans
    return Window(x, y, right - x, bottom - y)


def _cut(maps: Tensor, rows: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return windows of maps [R, H, W, C], float32 [B, C, side, side]."""
    device = maps.device
    if side >= maps.shape[1]:
        return maps[rows.to(device)].float().permute(0, 3, 1, 2)
    # A map of an odd side has one pixel less than twice the coarser one's.
    steps = torch.arange(side)
    x, y = ((corners[:, axis : axis + 1] + steps).clamp(max=maps.shape[1] - 1).to(device) for axis in (0, 1))
    cut = maps[rows.to(device)[:, None, None], y[:, :, None], x[:, None, :]]
    return cut.float().permute(0, 3, 1, 2)


def _stacked(parts: Sequence[Sequence[np.ndarray]]) -> Tensor:
    return torch.from_numpy(np.stack([np.concatenate(each) for each in parts]))
