"""The held-out score: average precision over all pixels of references that nothing was trained on (section 9).

Every spared reference is shown as it is, and as often damaged by defects of numbers that training never draws; the set
is drawn once. It looks at good frames and planted defects only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from plugins.prn.pool import Pool, encode_pool
from plugins.training.measures import average_precision

if TYPE_CHECKING:
    from plugins.prn.features import Features
    from plugins.prn.left_out import Compared
    from plugins.prn.pictures import Pictures

#: Damaged pictures, and as many clean ones at most: a few seconds an examination on a processor core.
DAMAGED = 16
#: Pictures that go through the network together.
_BATCH = 8


def draw_examination(
    pictures: Pictures, spared: Sequence[int], features: Features, bank: Sequence[Compared], device: str
) -> Pool:
    """Draw and encode the examination of ``spared`` references, at least one."""
    clean = [pictures.clean(source) for source in spared[:DAMAGED]]
    damaged = [pictures.examined(spared[number % len(spared)], number) for number in range(DAMAGED)]
    return encode_pool([*clean, *damaged], pictures.images, features, bank, device)


def held_out_score(network: nn.Module, pool: Pool) -> float:
    """Return the average precision of ``network``, in eval mode, over all pixels of ``pool``, 0..1."""
    found = []
    with torch.no_grad():
        for first in range(0, len(pool), _BATCH):
            chosen = torch.arange(first, min(first + _BATCH, len(pool)), device=pool.masks.device)
            found.append(network(*pool.inputs(chosen)).flatten().cpu())
    return average_precision(pool.masks.flatten().cpu().numpy(), torch.cat(found).numpy())
