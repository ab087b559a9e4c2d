"""The held-out score: how well the heads tell defects they were not trained on, on references nothing was trained on.

Every reference spared from training is compared as it is, and damaged by synthetic defects of numbers that training
never draws, with references like it. The score is the mean of two measures, both 0..1 and higher = better: image AUROC
(mean of the largest distances, damaged against clean) and the average precision of the distances over all pixels of the
finest map. It looks at good frames and synthetic defects only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plugins.cpr.lrb import beside_raw, normalised
from plugins.cpr.pool import encode_images
from plugins.training.measures import average_precision, precedence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugins.cpr.graph import Features
    from plugins.cpr.lrb import LocalHeads
    from plugins.cpr.pool import Pictures

#: Damaged pictures, and references each is compared with: some two seconds an examination on a processor core.
DAMAGED = 24
COMPARED = 4
#: First number of the pictures that only examinations draw.
FIRST = 1 << 40
#: Share of the finest map's pixels whose mean is a picture's score: the largest ones, as in the graph.
TOP = 0.005


@dataclass(frozen=True)
class Examination:
    """Encoded pictures with damage, the same ones clean, and the references they are compared with.

    Row ``n`` of ``damaged`` and of ``clean`` is compared with rows ``n * COMPARED`` and following of ``references``.
    ``masks`` bool [n, H1, W1] at the finest map's size. ``raw_share``: of the settings.
    """

    damaged: tuple[Tensor, ...]
    clean: tuple[Tensor, ...]
    references: tuple[Tensor, ...]
    masks: np.ndarray
    raw_share: float

    def score(self, heads: LocalHeads) -> float:
        """Return the held-out score of heads in eval mode, 0..1."""
        distances = [self._distances(heads, maps) for maps in (self.damaged, self.clean)]
        flat = [each.flatten(1) for each in distances]
        top = max(1, round(TOP * flat[0].shape[1]))
        peaks = [each.topk(top, dim=1).values.mean(1).numpy() for each in flat]
        precision = average_precision(self.masks.ravel(), distances[0].flatten().numpy())
        return 0.5 * (precedence(*peaks) + precision)

    def _distances(self, heads: LocalHeads, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the fused distances, float32 [n, H1, W1] on the CPU."""
        rows = []
        for number in range(len(self.masks)):
            scales = []
            for level, head in enumerate(heads):
                near = slice(number * COMPARED, (number + 1) * COMPARED)
                taps = torch.cat((maps[level][number : number + 1], self.references[level][near]))
                planes = taps.float().permute(0, 3, 1, 2)
                with torch.no_grad():
                    local = normalised(beside_raw(head(planes), planes, self.raw_share))
                scales.append(compare(local[0], local[1:], reach=1 if level == 0 else 0))
            side = scales[0].shape
            rows.append(sum((_enlarged(each, side) for each in scales[1:]), scales[0]).cpu())
        return torch.stack(rows)


def examine(
    pictures: Pictures, spared: Sequence[int], features: Features, device: str, *, raw_share: float
) -> Examination:
    """Draw and encode an examination on ``spared`` references, at least one; ``raw_share`` of the settings."""
    sources = [int(spared[number % len(spared)]) for number in range(DAMAGED)]
    damaged = [pictures.drawn_from(source, FIRST + number, vary=False) for number, source in enumerate(sources)]
    near = [pictures.near(source) for source in sources]
    references = [pictures.resized(int(each[n % len(each)])) for each in near for n in range(COMPARED)]
    maps = encode_images([each.image for each in damaged], features, device)
    return Examination(
        damaged=maps,
        clean=encode_images([pictures.resized(source) for source in sources], features, device),
        references=encode_images(references, features, device),
        masks=np.stack([_reduced(each.mask, maps[0].shape[1]) for each in damaged]),
        raw_share=raw_share,
    )


def compare(local: Tensor, references: Tensor, *, reach: int) -> Tensor:
    """Return the smallest cosine distance of [D, H, W] to any of [K, D, H, W] within ``reach`` pixels, [H, W]."""
    side = local.shape[-2:]
    padded = functional.pad(references, (reach,) * 4, mode="replicate") if reach else references
    best = torch.full(side, -torch.inf, device=local.device)
    for down in range(2 * reach + 1):
        for across in range(2 * reach + 1):
            there = padded[:, :, down : down + side[0], across : across + side[1]]
            best = torch.maximum(best, torch.einsum("dhw,kdhw->khw", local, there).amax(0))
    return 1.0 - best


def _enlarged(distances: Tensor, shape: torch.Size) -> Tensor:
    return functional.interpolate(distances[None, None], size=tuple(shape), mode="bilinear", align_corners=False)[0, 0]


def _reduced(mask: np.ndarray, side: int) -> np.ndarray:
    """Return bool [side, side]: where at least half of a pixel's area is defect."""
    import cv2

    share = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    reduced: np.ndarray = share >= 0.5  # noqa: PLR2004 - half
    return reduced
