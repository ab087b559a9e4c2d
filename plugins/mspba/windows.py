"""What one training step learns from, whoever cut it out: windows of a tap's map for the patches of every draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

#: The patches of a draw, in this order: a position pair, and a similarity triplet.
KINDS = ("first", "second", "anchor", "near", "far")


@dataclass(frozen=True)
class Windows:
    """One scale's draws of a step. ``maps`` float32 [5 B, C, n, n]: ``KINDS`` in turn; ``directions`` int64 [B]."""

    maps: Tensor
    directions: Tensor

    def embedded(self, head: torch.nn.Module) -> tuple[Tensor, ...]:
        """Return the embeddings of every kind, [B, D] each."""
        found: Tensor = head(self.maps).flatten(1)
        return found.chunk(len(KINDS))
