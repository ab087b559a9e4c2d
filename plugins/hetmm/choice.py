"""Which sheets PTS takes at a pixel, given how alike they are (specification, section 10); many pixels at once.

Sums run in a stated order, one addition after the other: over sheets by index, over slots in the order of choice. So
they are the same bits for one pixel or many, on any machine, and equal sheets have equal sums. The first sheet wins
every tie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["sum", "max"]
#: Gives the cosines of one sheet a pixel with all sheets there: int64 [P] -> float64 [P, N].
Rows = Callable[[Tensor], Tensor]


def choose(gram: Tensor, labels: Tensor, count: int, rule: Rule = "sum") -> tuple[Tensor, Tensor, Tensor]:
    """Choose at P pixels, clusters given: (slots int64 [P, K], centres int64 [P], criterion float64 [P, K]).

    ``gram``: cosines, float64 [P, N, N], N >= K = ``count``. ``labels``: integer [P, N], -1 = noise; a pixel of noise
    alone is one cluster, so its centre is the medoid. What is returned is as in ``plugins.hetmm.pts.Selection``.
    """
    leading, centres = centres_of(gram, labels, count)
    slots, criterion = fill(rows_of(gram), leading, centres, sheets=gram.shape[1], rule=rule)
    return slots, centres, criterion


def centres_of(gram: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the clusters' centres, in order of appearance along the sheets, and how many there are.

    Parameters as in ``choose``. Slots int64 [P, K], meaningless behind the centres; number int64 [P], 1..K. A centre is
    the member with the largest sum of cosines over its cluster.
    """
    pixels, sheets = labels.shape
    labels = torch.where((labels >= 0).any(1, keepdim=True), labels, 0).to(torch.int64)
    sums = gram.new_zeros((pixels, sheets))
    for sheet in range(sheets):
        sums += torch.where(labels == labels[:, sheet : sheet + 1], gram[:, sheet], 0.0)
    index = torch.arange(sheets, device=gram.device).expand(pixels, -1)
    first = torch.full((pixels, int(labels.max()) + 2), sheets, device=gram.device)
    first.scatter_reduce_(1, labels + 1, index, "amin")
    first, cluster = first[:, 1:].sort(1)  # clusters a pixel does not have come last
    slots = torch.zeros((pixels, count), dtype=torch.int64, device=gram.device)
    for slot in range(min(count, cluster.shape[1])):
        members = labels == cluster[:, slot : slot + 1]
        slots[:, slot] = torch.where(members, sums, -torch.inf).argmax(1)
    return slots, (first < sheets).sum(1).clamp_max(count)


def fill(rows: Rows, leading: Tensor, centres: Tensor, *, sheets: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Fill the slots behind the centres with hard normals; return (slots int64 [P, K], criterion float64 [P, K]).

    ``leading``: int64 [P, K], of which the first ``centres`` (int64 [P], 1..K) stay and the rest is not looked at.
    ``sheets``: N, at least K.
    """
    pixels, count = leading.shape
    value = torch.full((pixels, sheets), start(rule), dtype=torch.float64, device=leading.device)
    slots, criterion = leading.clone(), value.new_empty((pixels, count))
    for slot in range(count):
        pick = torch.where(slot < centres, leading[:, slot], value.argmin(1))
        slots[:, slot] = pick
        criterion[:, slot] = value.gather(1, pick[:, None])[:, 0]
        value = grown(value, rows(pick), rule)
        value.scatter_(1, pick[:, None], torch.inf)  # used: stays infinite whatever is added
    return slots, _blanked(criterion, centres)


def criterion_of(similar: Tensor, centres: Tensor, rule: Rule) -> Tensor:
    """Return the criterion ``fill`` found, float64 [P, K], from cosines among the slots [P, K, K] and centres [P]."""
    value = torch.full_like(similar[:, 0], start(rule))
    criterion = torch.empty_like(value)
    for slot in range(similar.shape[1]):
        criterion[:, slot] = value[:, slot]
        value = grown(value, similar[:, slot], rule)
    return _blanked(criterion, centres)


def _blanked(criterion: Tensor, centres: Tensor) -> Tensor:
    """Put NaN where a cluster chose, in place."""
    return criterion.masked_fill_(torch.arange(criterion.shape[1], device=centres.device) < centres[:, None], torch.nan)


def beaten(similar: Tensor, criterion: Tensor, rule: Rule) -> Tensor:
    """Return bool [P]: where a newcomer would have taken a slot.

    ``similar``: cosines of slots and newcomers, float64 [P, K, n]. ``criterion``: float64 [P, K], NaN for centres.
    """
    value = torch.full_like(similar[:, 0], start(rule))
    found = torch.zeros(len(value), dtype=torch.bool, device=value.device)
    for slot in range(criterion.shape[1]):
        # Strictly less: on ties the older sheet has the lower index. Nothing is less than NaN.
        found |= (value < criterion[:, slot, None]).any(1)
        value = grown(value, similar[:, slot], rule)
    return found


def start(rule: Rule) -> float:
    """Return the criterion of a sheet before anything is chosen."""
    return 0.0 if rule == "sum" else -torch.inf


def grown(value: Tensor, similar: Tensor, rule: Rule) -> Tensor:
    """Return the criterion after one more slot: values and cosines of the same shape."""
    return value + similar if rule == "sum" else torch.maximum(value, similar)


def rows_of(gram: Tensor) -> Rows:
    """Read rows out of cosines computed before, float64 [P, rows, N]."""
    rows = gram.flatten(0, 1)
    base = torch.arange(0, rows.shape[0], gram.shape[1], device=gram.device)
    return lambda pick: rows.index_select(0, base + pick)


def rows_on_demand(vectors: Tensor, likely: Tensor) -> Rows:
    """Compute only the rows asked for: those of the ``likely`` sheets at once, others when it comes to them.

    ``vectors``: of ``unit_grid``, float64 [P, N, C]; ``likely``: int64 [P, L], no sheet twice. Exact like ``rows_of``.
    """
    pixels, sheets, channels = vectors.shape
    chosen = vectors.gather(1, likely[:, :, None].expand(-1, -1, channels))
    known = rows_of(torch.bmm(chosen, vectors.mT))
    place = torch.full((pixels, sheets), -1, device=vectors.device)
    place.scatter_(1, likely, torch.arange(likely.shape[1], device=vectors.device).expand(pixels, -1))

    def row(pick: Tensor) -> Tensor:
        at = place.gather(1, pick[:, None])[:, 0]
        result = known(at.clamp_min(0))
        unknown = (at < 0).nonzero()[:, 0]
        if len(unknown):
            picked = vectors[unknown, pick[unknown]]
            result[unknown] = torch.bmm(vectors[unknown], picked[:, :, None])[:, :, 0]
        return result

    return row
