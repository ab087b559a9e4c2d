"""PTS: choosing K of N good sheets at every pixel, so that matching stays fast (specification, sections 10 and 12).

At each pixel of a layer, apart from all others: first the centre of each cluster OPTICS finds, in the order in which
the clusters appear along the sheets; then, until K slots are filled, the sheet least like those chosen so far. A chosen
template is a patchwork: slot k holds sheet ``slots[k, y, x]`` at (y, x).

Same sheets, same selection, bit for bit: cosines are exact (``unit_grid``), and the rest is done in a stated order
(``plugins.hetmm.choice``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from plugins.hetmm import optics
from plugins.hetmm.choice import Rule, beaten, choose, criterion_of, fill, rows_of, rows_on_demand
from plugins.hetmm.optics import min_samples, unit_grid

Cluster = Literal["optics", "medoid"]
Progress = Callable[[int, int, str], None]
#: Slots int64 [P, K], centres int64 [P] and criterion float64 [P, K] of some pixels.
Part = tuple[Tensor, Tensor, Tensor]

#: Bytes of a chunk's Gram matrices, and of its vectors, each; a few times as much is in use at once. Memory of more
#: than 32 MB is handed back to the system and faulted in again, chunk after chunk: 220 sheets of 256 channels took 1.6
#: ms a pixel with 24 MB, 2.3 ms with 64 MB.
_CHUNK_BYTES = 24 * 2**20
#: With many sheets a chunk may take more, because calls on fewer pixels than this cost more than what they do: 762
#: sheets took 23 ms a pixel with 5 pixels at once, 17 ms with 20.
_FEW_PIXELS, _MOST_BYTES = 16, 100 * 2**20
#: A GPU wants thousands of pixels at once; never measured on one.
_CUDA_BYTES = 512 * 2**20
#: Numbers per sequential step on a CPU. From 32768 on torch splits an operation of a few microseconds over threads, and
#: on a busy machine waits milliseconds for the second one.
_STEP = 32_000
#: Numbers put on the grid at once on a CPU: 1 MB of float64, which stays in a core's second-level cache.
_BLOCK = 2**17
#: Share of new sheets, one in so many, from which clusters are found anew (section 12).
_NEW_ONE_IN = 10


@dataclass(frozen=True)
class Selection:
    """What PTS chose for one layer; all on the device of the sheets.

    ``slots`` int32 [K, H, W]: source sheet of each slot, in the order of choice: the provenance of every vector.
    ``centres`` int16 [H, W], 1..K: how many leading slots are cluster centres (or the medoid).
    ``criterion`` float64 [K, H, W]: the value at which each hard-normal slot was chosen, the sum (rule "sum", -K..K) or
    the largest (rule "max", -1..1) of its cosines with the slots before it; NaN for centres, which no value chose.
    """

    slots: Tensor
    centres: Tensor
    criterion: Tensor


def select(
    sheets: Tensor, count: int, *, rule: Rule = "sum", cluster: Cluster = "optics", progress: Progress | None = None
) -> Selection:
    """Choose ``count`` of the sheets at every pixel: float [N, C, H, W], unit vectors or not, CPU or CUDA.

    ``rule``: hard normals have the smallest sum of cosines with what is chosen ("sum", the authors' rule), or the
    smallest largest one ("max", farthest first). ``cluster``: centres of OPTICS' clusters, or one slot for the medoid.
    ``progress`` is told pixels done, pixels in all, and the phase.

    Raises ``ValueError`` for N <= count, where all sheets are kept and nothing is to be chosen, and for NaN.
    """
    total = sheets.shape[0]
    if not 1 <= count < total:
        raise ValueError(f"hetmm: expected 1..{total - 1} slots for {total} sheets, found {count}: keep all sheets")

    columns = sheets.flatten(2)

    def chosen(pixels: slice) -> Part:
        gram = _gram(columns[:, :, pixels])
        if cluster == "optics":
            labels = optics.cluster(gram, min_samples(total, count))
        else:
            labels = torch.full(gram.shape[:2], -1, dtype=torch.int32, device=gram.device)
        return choose(gram, labels, count, rule)

    return _each_chunk(sheets, count, total * max(total, sheets.shape[1]), chosen, progress)


def reselect(
    sheets: Tensor, selection: Selection, *, rule: Rule = "sum", progress: Progress | None = None
) -> Selection:
    """Choose all hard normals anew with the centres as they are: section 10 with every other sheet labelled noise.

    ``sheets``: float [N, C, H, W], those of the selection first, any number of new ones behind them.
    """
    _check(sheets, selection, 0)
    columns = sheets.flatten(2)

    def chosen(pixels: slice) -> Part:
        old, centres, _ = _part(selection, pixels)
        rows = rows_of(_gram(columns[:, :, pixels]))
        slots, criterion = fill(rows, old, centres, sheets=len(sheets), rule=rule)
        return slots, centres, criterion

    numbers = len(sheets) * max(sheets.shape[:2])
    return _each_chunk(sheets, selection.slots.shape[0], numbers, chosen, progress)


def insert(
    sheets_all: Tensor, selection: Selection, new: int, *, rule: Rule = "sum", progress: Progress | None = None
) -> Selection:
    """Take the last ``new`` of the sheets [N + new, C, H, W] into the selection made of the first N.

    Equal to ``reselect``, bit for bit, but only pixels where a new sheet beats a slot choose anew. ``rule`` is the one
    of the selection. Centres stay, so clusters age: see ``cluster_needed``. All sheets are needed, because behind the
    new one a sheet may be chosen that was not before.

    As the result depends on the centres and on all sheets alone, n sheets at once and one by one in the same order end
    in the same selection.

    Raises ``ValueError`` when the selection is not one of the first N sheets.
    """
    _check(sheets_all, selection, new)

    if not new:
        return selection
    columns, total = sheets_all.flatten(2), len(sheets_all)

    def chosen(pixels: slice) -> Part:
        slots, centres, criterion = _part(selection, pixels)
        here = columns[:, :, pixels]
        similar = torch.bmm(_vectors(_picked(here, slots)), _vectors(here[total - new :]).mT)
        changed = beaten(similar, criterion, rule).nonzero()[:, 0]
        if len(changed):
            # Nearly all that is chosen now was chosen before, or is new.
            added = torch.arange(total - new, total, device=slots.device).expand(len(changed), -1)
            rows = rows_on_demand(_vectors(here[:, :, changed]), torch.cat([slots[changed], added], 1))
            slots[changed], criterion[changed] = fill(rows, slots[changed], centres[changed], sheets=total, rule=rule)
        return slots, centres, criterion

    count = selection.slots.shape[0]
    return _each_chunk(sheets_all, count, total * max(count + new, columns.shape[1]), chosen, progress)


def restore(
    sheets: Tensor, slots: Tensor, centres: Tensor, *, rule: Rule = "sum", progress: Progress | None = None
) -> Selection:
    """Bring back a selection of which slots and centres were kept: the criterion follows from them, bit for bit.

    ``sheets``: float [N, C, H, W], those it was made of in the number format it was made of. ``slots``: integer
    [K, H, W]; ``centres``: integer [H, W]. Costs K^2 C a pixel, much less than ``select``.
    """
    criterion = torch.empty(slots.shape, dtype=torch.float64, device=slots.device)  # only to be cut up
    bare = Selection(slots.to(torch.int32), centres.to(torch.int16), criterion)
    _check(sheets, bare, 0)
    columns = sheets.flatten(2)

    def known(pixels: slice) -> Part:
        chosen, leading, _ = _part(bare, pixels)
        return chosen, leading, criterion_of(_gram(_picked(columns[:, :, pixels], chosen)), leading, rule)

    count = slots.shape[0]
    return _each_chunk(sheets, count, count * max(count, sheets.shape[1]), known, progress)


def gather(sheets: Tensor, slots: Tensor) -> Tensor:
    """Put the chosen vectors into sheets: [N, C, H, W] and integer [K, H, W] -> [K, C, H, W], same type as sheets."""
    picked = _picked(sheets.flatten(2), slots.flatten(1).T.to(torch.int64))
    return picked.reshape(-1, *sheets.shape[1:])


def cluster_needed(clustered: int, now: int, count: int) -> bool:
    """Say whether a selection of ``count`` whose clusters were found on ``clustered`` sheets needs new ones at ``now``.

    It does when OPTICS' smallest cluster changes, when a tenth of the clustered sheets came in since, and when sheets
    went (section 12).
    """
    if now < clustered or min_samples(now, count) != min_samples(clustered, count):
        return True
    return _NEW_ONE_IN * (now - clustered) >= clustered


def _each_chunk(
    sheets: Tensor, count: int, numbers: int, chosen: Callable[[slice], Part], progress: Progress | None
) -> Selection:
    """Choose chunk by chunk of pixels, each pixel good for so many numbers of memory, and put the parts together."""
    height, width = sheets.shape[2:]
    slots = torch.empty((count, height * width), dtype=torch.int32, device=sheets.device)
    centres = torch.empty(height * width, dtype=torch.int16, device=sheets.device)
    criterion = torch.empty(slots.shape, dtype=torch.float64, device=sheets.device)
    at_once = _pixels_at_once(sheets, numbers)
    for start in range(0, height * width, at_once):
        pixels = slice(start, min(start + at_once, height * width))
        part = chosen(pixels)
        slots[:, pixels], centres[pixels], criterion[:, pixels] = part[0].T, part[1], part[2].T
        if progress:
            progress(pixels.stop, height * width, "selecting templates")
    shape = (count, height, width)
    return Selection(slots.reshape(shape), centres.reshape(height, width), criterion.reshape(shape))


def _pixels_at_once(sheets: Tensor, numbers: int) -> int:
    """Return how many pixels make a chunk: it fits the memory, and a sequential step of it one thread."""
    if sheets.is_cuda:
        return max(1, _CUDA_BYTES // (8 * numbers))
    few = min(_FEW_PIXELS, _MOST_BYTES // (8 * numbers))
    return max(1, few, min(_CHUNK_BYTES // (8 * numbers), _STEP // len(sheets)))


def _vectors(columns: Tensor) -> Tensor:
    """Return the unit vectors of P pixels, on the grid: [N, C, P] -> float64 [P, N, C]."""
    count, channels, pixels = columns.shape
    # Copied first: in the sheets a vector's numbers lie a power of two apart, where they share few lines of the cache;
    # turned over from there it takes 3 to 9 times as long.
    near = columns.clone(memory_format=torch.contiguous_format).transpose(1, 2).contiguous()
    vectors = torch.empty((pixels, count, channels), dtype=torch.float64, device=columns.device)
    at_once = pixels if columns.is_cuda else max(1, _BLOCK // (count * channels))
    for start in range(0, pixels, at_once):
        block = slice(start, start + at_once)
        vectors[block] = unit_grid(near[:, block].transpose(1, 2)).permute(2, 0, 1)
    return vectors


def _gram(columns: Tensor) -> Tensor:
    """Return all cosines at P pixels, exact: [N, C, P] -> float64 [P, N, N]."""
    vectors = _vectors(columns)
    return torch.bmm(vectors, vectors.mT)


def _picked(columns: Tensor, slots: Tensor) -> Tensor:
    """Return the slots' vectors at P pixels: [N, C, P] and int64 [P, K] -> [K, C, P]."""
    return columns.gather(0, slots.T[:, None].expand(-1, columns.shape[1], -1))


def _part(selection: Selection, pixels: slice) -> Part:
    """Return some pixels of a selection as ``choose`` returns them, as copies."""
    return (
        selection.slots.flatten(1)[:, pixels].T.to(torch.int64),
        selection.centres.flatten()[pixels].to(torch.int64),
        selection.criterion.flatten(1)[:, pixels].T.clone(),
    )


def _check(sheets: Tensor, selection: Selection, new: int) -> None:
    """Refuse a selection that was not made of the sheets before the ``new`` ones."""
    count, old = selection.slots.shape[0], sheets.shape[0] - new
    if new < 0 or count >= old or selection.slots.shape[1:] != sheets.shape[2:]:
        raise ValueError(
            f"hetmm: expected a selection of fewer than {old} sheets at {tuple(sheets.shape[2:])} pixels, found slots "
            f"{tuple(selection.slots.shape)}: select anew"
        )
    if int(selection.slots.max()) >= old or int(selection.centres.min()) < 1:
        raise ValueError(
            f"hetmm: expected slots of sheets 0..{old - 1} and one centre or more at every pixel, found sheet "
            f"{int(selection.slots.max())} and {int(selection.centres.min())} centres: select anew"
        )
