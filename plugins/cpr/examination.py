"""The held-out score: how well damage of kinds that training never draws is told, on references it never saw.

References spared from training are compared as they are, and with each kind of ``edgead.UNSEEN_KINDS``, with
references like them. For each kind two measures, both 0..1 and higher = better: image AUROC (mean of the largest
distances, damaged against clean) and the average precision of the distances over all pixels of the finest map; then the
mean of each over the kinds. The score is 1 - the geometric mean of what either lacks to 1, so that halving one error is
worth as much as halving the other, however large they are. It looks at good frames and synthetic damage only.

The same says how much the backbone's own features count beside the heads' (``raw_share`` auto): of all ``candidates``
the one that scores best. Defects such as training draws would say nothing here: any training raises their score, also
one that makes other damage harder to find (docs/cpr.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgead import UNSEEN_KINDS, draw_unseen
from plugins.cpr.comparing import compare
from plugins.cpr.lrb import normalised
from plugins.cpr.pool import encode_images
from plugins.training.measures import average_precision, precedence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plugins.cpr.graph import Features
    from plugins.cpr.lrb import LocalHeads
    from plugins.cpr.pool import Pictures
    from plugins.cpr.settings import CprSettings

#: One ``raw_share`` for each layer, finest first.
Shares = tuple[float, ...]
#: Spared references that are damaged, at most, and references each is compared with while training is under way.
SOURCES = 48
COMPARED = 4
#: Spared references from which they choose between shares: of 16 pairs the standard error of an image AUROC is about
#: 0.1 at 0.9; of fewer, one unusual good frame decides.
ENOUGH = 16
#: Pictures of one source: clean, then one of every kind.
EACH = 1 + len(UNSEEN_KINDS)
#: Shares that are tried in every layer: the head alone, half and half, no head.
TRIED = (0.0, 0.5, 1.0)
#: Errors below this count as this: so few pictures do not tell them from nothing.
LEAST_ERROR = 0.005
#: Number of the random stream that damages pictures.
_DAMAGE = 4
#: Share of the finest map's pixels whose mean is a picture's score: the largest ones, as in the graph.
TOP = 0.005


def candidates(settings: CprSettings) -> tuple[Shares, ...]:
    """Return what ``raw_share`` "auto" may become: of ``TRIED`` in each layer, no heads (all 1) first.

    Never less in a coarser layer: what its head learns of synthetic defects serves other damage less.
    """
    return tuple(reversed(list(combinations_with_replacement(TRIED, len(settings.layer_names)))))


@dataclass(frozen=True)
class Examination:
    """Encoded pictures, and the references they are compared with.

    Rows ``EACH * n`` and following of ``pictures`` are frame ``sources[n]``, clean and of every kind; ``near`` int64
    [n, compared]: rows of ``references`` it is compared with. ``masks`` bool [kinds, n, H1, W1] at the finest map's
    size; ``seen`` bool [kinds, n]: where there is damage at all. ``candidates``: shares that are tried.
    """

    sources: tuple[int, ...]
    pictures: tuple[Tensor, ...]
    masks: np.ndarray
    seen: np.ndarray
    references: tuple[Tensor, ...]
    near: np.ndarray
    candidates: tuple[Shares, ...]

    def score(self, heads: LocalHeads) -> float:
        """Return the held-out score of heads in eval mode with the best of ``candidates``, 0..1."""
        return max(self.scores(heads).values())

    def scores(self, heads: LocalHeads) -> dict[Shares, float]:
        """Return every candidate's held-out score with heads in eval mode."""
        sources = [self._distances(heads, number) for number in range(len(self.sources))]
        return {
            shares: self.judge(torch.stack(maps, 1)) for shares, *maps in zip(self.candidates, *sources, strict=True)
        }

    def judge(self, distances: Tensor) -> float:
        """Return the score of distances [EACH, sources, H1, W1]."""
        flat = distances.flatten(2)
        peaks = flat.topk(max(1, round(TOP * flat.shape[2])), dim=2).values.mean(2).numpy()
        kinds = zip(self.seen, self.masks, peaks[1:], distances[1:].numpy(), strict=True)
        # On an even part nothing is blurred or warped; what shows nowhere says nothing.
        measures = [
            (precedence(damaged[seen], peaks[0]), average_precision(masks[seen].ravel(), values[seen].ravel()))
            for seen, masks, damaged, values in kinds
            if seen.any()
        ]
        if not measures:
            return 0.0
        errors = np.maximum(1.0 - np.mean(measures, axis=0), LEAST_ERROR)
        return float(1.0 - np.sqrt(errors.prod()))

    def _distances(self, heads: LocalHeads, source: int) -> list[Tensor]:
        """Return for every candidate the fused distances of one source's pictures, float32 [EACH, H1, W1]."""
        near = torch.from_numpy(self.near[source])
        totals: list[Tensor] = []
        for level, head in reversed(list(enumerate(heads))):
            pictures = self.pictures[level][source * EACH : (source + 1) * EACH]
            planes = torch.cat((pictures, self.references[level][near])).float().permute(0, 3, 1, 2)
            with torch.no_grad():
                local = normalised(head(planes))
            wanted = sorted({shares[level] for shares in self.candidates})
            found = compare(normalised(planes), local, EACH, wanted, reach=0 if level else 1)
            levels = [found[wanted.index(shares[level])] for shares in self.candidates]
            if totals:
                levels = [each + _enlarged(total, each.shape[1:]) for each, total in zip(levels, totals, strict=True)]
            totals = levels
        return [total.cpu() for total in totals]


def best_of(scores: Mapping[Shares, float]) -> Shares:
    """Return the shares with the highest score, the first of equal ones."""
    return max(scores, key=lambda shares: scores[shares])


def examine(
    pictures: Pictures,
    spared: Sequence[int],
    features: Features,
    device: str,
    *,
    seed: int,
    candidates: tuple[Shares, ...],
    most: int,
) -> Examination | None:
    """Draw and encode an examination on ``spared`` references, evenly chosen, ``COMPARED`` beside each.

    ``most``: maps there is room for, of pictures and references. None where that leaves fewer than ``ENOUGH``.
    """
    count = min(SOURCES, len(spared), most // (EACH + COMPARED))
    if count < ENOUGH:
        return None
    count = min(count, max(ENOUGH, most // (2 * EACH)))  # half of the room is left for references
    sources = [int(spared[place]) for place in np.linspace(0, len(spared) - 1, count).round().astype(int)]
    drawn, masks = [], []
    for nth, source in enumerate(sources):
        image, other = pictures.resized(source), pictures.resized(int(pictures.near(source)[0]))
        drawn.append(image)
        for kind, name in enumerate(UNSEEN_KINDS):
            rng = np.random.default_rng([seed, _DAMAGE, nth, kind])
            damaged = draw_unseen(image, other, name, rng, pictures.foreground(source))
            drawn.append(damaged.image)
            masks.append(damaged.mask)
    maps = encode_images(drawn, features, device)
    reduced = np.stack([_reduced(mask, maps[0].shape[1]) for mask in masks])
    kinds = (count, len(UNSEEN_KINDS))
    references, near = _near(pictures, sources, features, device, compared=COMPARED, most=most)
    return Examination(
        sources=tuple(sources),
        pictures=maps,
        masks=reduced.reshape(*kinds, *reduced.shape[1:]).swapaxes(0, 1),
        seen=np.array([mask.any() for mask in masks]).reshape(kinds).T,
        references=references,
        near=near,
        candidates=candidates,
    )


def beside_more(
    examination: Examination,
    pictures: Pictures,
    features: Features,
    device: str,
    *,
    candidates: tuple[Shares, ...],
    compared: int,
    most: int,
) -> Examination:
    """Return the same pictures, beside up to ``compared`` references each, as many as there is room for."""
    references, near = _near(pictures, examination.sources, features, device, compared=compared, most=most)
    return replace(examination, references=references, near=near, candidates=candidates)


def _near(
    pictures: Pictures, sources: Sequence[int], features: Features, device: str, *, compared: int, most: int
) -> tuple[tuple[Tensor, ...], np.ndarray]:
    """Encode the references nearest to each source, every different one once; return maps and rows [n, compared].

    No more different ones than there is room for beside the pictures, but ``COMPARED`` each at least.
    """
    orders = [pictures.near(source) for source in sources]
    while True:
        numbers = np.array([[int(order[nth % len(order)]) for nth in range(compared)] for order in orders])
        known, rows = np.unique(numbers, return_inverse=True)
        if compared <= COMPARED or known.size <= most - EACH * len(sources):
            break
        compared -= 1
    maps = encode_images([pictures.resized(int(number)) for number in known], features, device)
    return maps, rows.reshape(numbers.shape)


def _enlarged(distances: Tensor, shape: torch.Size) -> Tensor:
    return functional.interpolate(distances[None], size=tuple(shape), mode="bilinear", align_corners=False)[0]


def _reduced(mask: np.ndarray, side: int) -> np.ndarray:
    """Return bool [side, side]: where at least half of a pixel's area is defect."""
    import cv2

    share = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    reduced: np.ndarray = share >= 0.5  # noqa: PLR2004 - half
    return reduced
