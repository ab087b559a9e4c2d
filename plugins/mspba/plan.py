"""How long and on what the encoders are trained: a plan for two processor cores, and the authors' for a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugins.mspba.settings import MspbaSettings

#: Bytes a pool's maps may take, in half precision.
POOL_BYTES = 500 << 20
#: Draws of an epoch per reference, and epochs, of the authors.
DRAWS, EPOCHS = 100, 100
#: Epochs between two groupings of the optional cluster term, and before the first.
CLUSTER_EPOCHS = 5
CLUSTERS = (10, 50)


@dataclass(frozen=True)
class Plan:
    """A training.

    ``batch``: draws of each kind and scale in a step. ``rate``: Adam's, rising over ``warm_up`` steps, then falling to
    ``last_rate`` of it; times ``backbone_rate`` for the backbone, None = frozen. ``pictures``: of one pool, ``uses``:
    draws of each before the next. ``epoch``: steps the cluster term calls an epoch. ``examinations``, ``patience``,
    ``least``: see ``Rules``.
    """

    steps: int
    batch: int
    rate: float
    warm_up: int
    last_rate: float
    backbone_rate: float | None
    pictures: int
    uses: int
    epoch: int
    examinations: int
    patience: int
    least: int = 0

    @property
    def steps_of_pool(self) -> int:
        """Steps until every picture of a pool was used ``uses`` times."""
        return max(1, self.pictures * self.uses // self.batch)


def plan_of(settings: MspbaSettings, references: int, bytes_a_picture: int) -> Plan:
    """Return the plan for ``references`` usable references; the pool is cut to ``POOL_BYTES``."""
    epoch = max(1, math.ceil(DRAWS * references / 64))
    if settings.train == "full":
        steps = EPOCHS * epoch if settings.train_steps == "auto" else settings.train_steps
        # Examined once an epoch, ended after ten without gain, not before the tenth (section 9, item 2).
        examinations = max(1, round(steps / epoch))
        return Plan(
            steps=steps, batch=64, rate=1e-5, warm_up=0, last_rate=1.0, backbone_rate=3.0 if settings.parity else 1.0,
            pictures=0, uses=1, epoch=epoch, examinations=examinations, patience=10, least=10 * epoch,
        )  # fmt: skip
    steps = 800 if settings.train_steps == "auto" else settings.train_steps
    pictures = min(256, max(8, POOL_BYTES // max(1, bytes_a_picture)), steps * 64)
    return Plan(
        steps=steps, batch=64, rate=1e-3, warm_up=20, last_rate=0.05, backbone_rate=None, pictures=pictures, uses=128,
        epoch=min(epoch, max(1, steps // 20)), examinations=8, patience=3,
    )  # fmt: skip


def clusters_of(references: int) -> int:
    """Return the number of groups of the cluster term: clip(round(sqrt(100 N) / 3), 10, 50)."""
    return min(max(round(math.sqrt(DRAWS * references) / 3), CLUSTERS[0]), CLUSTERS[1])
