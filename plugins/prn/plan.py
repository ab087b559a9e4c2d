"""How long and on what the network is trained: a plan for two processor cores, and the paper's for a GPU.

An epoch is every good frame once, half as many pictures with a real defect or an extended one, and half as many with a
simulated one (specification, section 8); without real defects all of them are simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgead import DefectRecipe
from plugins.training.rates import cosine_rate

if TYPE_CHECKING:
    from plugins.prn.settings import PrnSettings
    from plugins.training.loop import Rules

#: Bytes a pool's maps may take, in half precision.
POOL_BYTES = 600 << 20
#: Share of a defect's material in the blend: 1 - beta, beta uniform on 0 .. 0.8 (section 8.2-5).
OPACITY = (0.2, 1.0)
#: Structural defects are shuffled in so many cells along a side (section 8.2-4).
CELLS = 8


@dataclass(frozen=True)
class Plan:
    """A training.

    ``pictures``: of one pool; ``uses``: of each before the next pool. ``average``: share of the running mean of the
    weights that a step keeps. ``turned``: share of textures that are turned before they are damaged. ``prior``:
    probability of a defect that every pixel starts from; None: torch's own start.

    ``examinations``, ``patience``, ``least``: see ``plugins.training.loop.Rules``.
    """

    steps: int
    batch: int
    pictures: int
    uses: int
    rate: float
    warm_up: int
    last_rate: float
    decay: float
    average: float
    turned: float
    prior: float | None
    recipe: DefectRecipe
    examinations: int
    patience: int
    least: int = 0

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step."""
        return cosine_rate(step, steps, self.rate, warm_up=self.warm_up, last=self.last_rate)

    def rules(self) -> Rules:
        """Return when the loop examines and ends."""
        from plugins.training.loop import Rules

        return Rules(self.steps, self.examinations, self.patience, least=self.least)


#: Epochs of the paper's training, at least and at most; an examination every so many, so many without gain end it.
EPOCHS, LEAST_EPOCHS, EXAMINED_EVERY, PATIENCE = 700, 200, 10, 10


def items_of(good: int) -> tuple[int, int, int]:
    """Return an epoch's (good, real or extended, simulated) pictures for ``good`` frames, at least one."""
    half = max(1, good // 2)
    return good, half, half


def plan_of(settings: PrnSettings, good: int, bytes_a_picture: int) -> Plan:
    """Return the plan for resolved settings and ``good`` frames; the pool is cut to ``POOL_BYTES``."""
    structural = 0.5 if settings.kind == "object" else 0.0
    if settings.train == "full":
        items = sum(items_of(good))
        batch = max(2, min(48, items))
        an_epoch = max(1, items // batch)
        plan = Plan(
            steps=EPOCHS * an_epoch, batch=batch, pictures=1024, uses=1, rate=1e-4, warm_up=0, last_rate=1e-2,
            decay=1e-2, average=0.999, prior=None, turned=0.0 if settings.kind == "object" else 0.3,
            recipe=DefectRecipe(clean=0.0, structural=structural, opacity=OPACITY, cells=CELLS),
            examinations=EPOCHS // EXAMINED_EVERY, patience=PATIENCE, least=LEAST_EPOCHS * an_epoch,
        )  # fmt: skip
    else:
        plan = Plan(
            steps=600, batch=8, pictures=512, uses=4, rate=2e-3, warm_up=20, last_rate=0.02, decay=1e-4, average=0.97,
            turned=0.0, prior=0.05,
            recipe=DefectRecipe(
                clean=0.0, structural=structural, strokes=0.25, spots=0.25, opacity=OPACITY, cells=CELLS
            ),
            examinations=6, patience=3,
        )  # fmt: skip
    if settings.train_steps != "auto":
        plan = replace(plan, steps=settings.train_steps)
    room = max(plan.batch, POOL_BYTES // max(1, bytes_a_picture))
    # No more pictures than are used once: a short training draws few.
    return replace(plan, pictures=min(plan.pictures, room, plan.steps * plan.batch))
