"""Training pictures, encoded once each: the frozen encoder runs once for a picture, not once for a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plugins.prn.features import BATCH, encode
from plugins.prn.prototypes import nearest, residual
from plugins.prn.settings import SCALES

if TYPE_CHECKING:
    from plugins.prn.features import Features
    from plugins.prn.pictures import Picture


@dataclass(frozen=True)
class Pool:
    """Encoded pictures. ``maps``: of the four layers float16 [n, Cj, Hj, Wj]; ``masks`` bool [n, S, S].

    ``rows``: of the three scales, int64 [n], each picture's nearest prototype. ``prototypes``: as in the bank.
    """

    maps: tuple[Tensor, ...]
    masks: Tensor
    rows: tuple[Tensor, ...]
    prototypes: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.masks)

    def inputs(self, chosen: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return (four maps, three residuals) of the chosen pictures, float32."""
        taps = [each[chosen].float() for each in self.maps]
        matched = [each[rows[chosen]] for each, rows in zip(self.prototypes, self.rows, strict=True)]
        return taps, [residual(tap, each) for tap, each in zip(taps[:SCALES], matched, strict=True)]


def encode_pool(drawn: Iterable[Picture], features: Features, bank: tuple[Tensor, ...], device: str) -> Pool:
    """Encode pictures, ``BATCH`` at a time, as they come; ``bank``: prototypes and norms of every scale in turn."""
    maps: list[tuple[Tensor, ...]] = []
    rows: list[tuple[Tensor, ...]] = []
    masks: list[np.ndarray] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        taps = encode(waiting, features, device)
        rows.append(tuple(nearest(*each) for each in zip(taps[:SCALES], bank[::2], bank[1::2], strict=True)))
        maps.append(tuple(tap.to(torch.float16) for tap in taps))
        waiting.clear()

    for picture in drawn:
        waiting.append(picture.image)
        masks.append(picture.mask)
        if len(waiting) == BATCH:
            flush()
    if waiting:
        flush()
    return Pool(
        maps=tuple(torch.cat(each) for each in zip(*maps, strict=True)),
        masks=torch.from_numpy(np.stack(masks)).to(device),
        rows=tuple(torch.cat(each) for each in zip(*rows, strict=True)),
        prototypes=bank[::2],
    )
