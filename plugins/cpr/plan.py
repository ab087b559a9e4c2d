"""How long and on what the heads are trained: a plan for two processor cores, and the paper's for a GPU.

``budget`` (ours) reads windows of the maps instead of whole ones, from pools whose pictures are used several times,
with a head that starts from the backbone's own features. ``full`` is the paper's training: whole maps, torch's own
start, constant rate, every picture used once before it is drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgead import DEFECT_RECIPES, DefectRecipe
from plugins.training.rates import cosine_rate

if TYPE_CHECKING:
    from plugins.cpr.settings import CprSettings

#: Bytes a pool's maps may take, in half precision.
POOL_BYTES = 600 << 20


@dataclass(frozen=True)
class Plan:
    """A training. ``window``: side of what is looked at, in pixels of the resized frame, None = all of it.

    ``pairs``: of each kind from a picture and step; ``remote``: whether there are remote ones; ``like``: weight of a
    normal pair, inside the loss's power. ``pictures``: of one pool; ``uses``: of each on average before the next pool,
    up to ``most_uses`` where there is room for few, because a pool's references are encoded for it again.
    ``compared``: references a picture is compared with at once.
    ``examinations``: how often the held-out score is taken; ``patience``: of them without gain before training ends.
    """

    steps: int
    batch: int
    window: int | None
    pairs: int
    pictures: int
    uses: int
    most_uses: int
    compared: int
    remote: bool
    like: float
    from_raw: bool
    warm_up: int
    last_rate: float
    recipe: DefectRecipe
    rate: float = 1e-3
    decay: float = 1e-2
    examinations: int = 6
    patience: int = 3

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step: rising over the warm-up, then a cosine down to ``last_rate`` of it."""
        return cosine_rate(step, steps, self.rate, warm_up=self.warm_up, last=self.last_rate)

    @property
    def steps_of_pool(self) -> int:
        """Steps until every picture of a pool was used ``uses`` times."""
        return max(1, self.pictures * self.uses // self.batch)


#: Steps of the paper's training, for parts and for surfaces.
PAPER_STEPS = {"object": 40_000, "texture": 500}
#: Steps of the budget's: parts, which lose pieces, too, go on gaining for twice as long.
BUDGET_STEPS = {"object": 900, "texture": 450}


def plan_of(settings: CprSettings, bytes_a_picture: int) -> Plan:
    """Return the plan for resolved settings; the pool is cut to ``POOL_BYTES``.

    ``bytes_a_picture``: of the maps of one picture, or of one of its references.
    """
    parts = settings.kind == "object"
    if settings.train == "full":
        plan = Plan(
            steps=PAPER_STEPS[settings.kind], batch=32, window=None, pairs=300, remote=parts, like=1.0, pictures=1024,
            uses=1, most_uses=1, compared=1, from_raw=False, warm_up=0, last_rate=1.0, examinations=20, patience=20,
            recipe=DEFECT_RECIPES["paper" if parts else "paper-texture"],
        )  # fmt: skip
    else:
        plan = Plan(
            steps=BUDGET_STEPS[settings.kind], batch=16, window=80, pairs=128, remote=False, like=2.0, pictures=256,
            uses=4, most_uses=16, compared=4, from_raw=True, warm_up=20, last_rate=0.05, examinations=3, patience=2,
            recipe=DEFECT_RECIPES["varied-areas"],
        )  # fmt: skip
    if settings.train_steps != "auto":
        plan = replace(plan, steps=settings.train_steps)
    room = max(plan.batch, POOL_BYTES // max(1, bytes_a_picture * (1 + plan.compared)))
    # No more pictures than are used once: a short training draws few.
    pictures = min(plan.pictures, room, plan.steps * plan.batch)
    return replace(plan, pictures=pictures, uses=min(plan.most_uses, plan.uses * plan.pictures // pictures))
