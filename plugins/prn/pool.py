"""Training pictures, encoded once each: the frozen encoder runs once for a picture, not once for a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plugins.prn.features import BATCH, encode
from plugins.prn.pictures import rgb
from plugins.prn.settings import SCALES

if TYPE_CHECKING:
    from plugins.prn.features import Features
    from plugins.prn.left_out import Compared
    from plugins.prn.pictures import Picture


@dataclass(frozen=True)
class Pool:
    """Encoded pictures. ``maps``: of the four layers float16 [n, Cj, Hj, Wj]; ``masks`` bool [n, S, S].

    ``residuals``: of the three scales, float16 in the shapes of their maps.
    """

    maps: tuple[Tensor, ...]
    residuals: tuple[Tensor, ...]
    masks: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def inputs(self, chosen: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return (four maps, three residuals) of the chosen pictures, float32."""
        return [each[chosen].float() for each in self.maps], [each[chosen].float() for each in self.residuals]


def encode_pool(
    drawn: Iterable[Picture],
    references: Sequence[np.ndarray],
    features: Features,
    bank: Sequence[Compared],
    device: str,
) -> Pool:
    """Encode pictures made of ``references``, ``BATCH`` at a time, as they come, and compare them."""
    maps: list[tuple[Tensor, ...]] = []
    apart: list[list[Tensor]] = []
    masks: list[np.ndarray] = []
    waiting: list[Picture] = []

    def flush() -> None:
        taps = encode([each.image for each in waiting], features, device)
        sources = [each.source for each in waiting]
        clean = [tap.clone() for tap in taps]
        damaged = [at for at, each in enumerate(waiting) if each.mask.any()]
        if damaged:
            undamaged = encode([rgb(references[sources[at]]) for at in damaged], features, device)
            for good, tap in zip(clean, undamaged, strict=True):
                good[damaged] = tap
        found = [
            each.residuals(tap, good, sources)
            for each, tap, good in zip(bank, taps[:SCALES], clean[:SCALES], strict=True)
        ]
        apart.append([each.to(torch.float16) for each in found])
        maps.append(tuple(tap.to(torch.float16) for tap in taps))
        waiting.clear()

    for picture in drawn:
        waiting.append(picture)
        masks.append(picture.mask)
        if len(waiting) == BATCH:
            flush()
    if waiting:
        flush()
    return Pool(
        maps=tuple(torch.cat(each) for each in zip(*maps, strict=True)),
        residuals=tuple(torch.cat(each) for each in zip(*apart, strict=True)),
        masks=torch.from_numpy(np.stack(masks)).to(device),
    )
