"""Where a training's windows come from: pools of views of a frozen backbone, or crops through one that learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from plugins.mspba.crops import Crops
from plugins.mspba.views import Picture, ViewPool, Views, encode_pool

if TYPE_CHECKING:
    from edgead import DetectorContext
    from plugins.backbones.layers import Trunk
    from plugins.mspba.embedding import Planes
    from plugins.mspba.plan import Plan
    from plugins.mspba.settings import MspbaSettings
    from plugins.mspba.windows import Windows

#: Number of the random stream of examinations.
_EXAMINE = 4
#: Draws of each scale an examination takes, from so many pictures whose numbers no training draws.
_EXAMINED, _PICTURES, _FIRST = 512, 48, 1 << 40


class Source(Protocol):
    """Draws windows; which ones follows from the generator and the step alone."""

    def prepare(self, step: int) -> None:
        """Make what step ``step`` draws from, unless it is there."""

    def draw(self, rng: np.random.Generator, count: int, step: int) -> list[Windows]:
        """Return ``count`` draws of each scale."""


class PooledViews:
    """One pool of pictures after another, each made when the first step of its own asks for it."""

    def __init__(
        self, views: Views, backbone: Trunk, settings: MspbaSettings, plan: Plan, *, context: DetectorContext
    ) -> None:
        self._views, self._backbone, self._plan = views, backbone, plan
        self._scales, self._context = settings.scales, context
        self._pool: ViewPool | None = None
        self._number = -1

    def prepare(self, step: int) -> None:
        """Make the pool of a step."""
        number = step // self._plan.steps_of_pool
        if number != self._number:
            self._pool = None  # one pool in memory at a time
            self._pool = encode_pool(self._drawn(number), self._backbone, self._scales, self._context.device)
            self._number = number

    def draw(self, rng: np.random.Generator, count: int, step: int) -> list[Windows]:
        """Draw from the pool of a step."""
        self.prepare(step)
        assert self._pool is not None  # noqa: S101 - the line before has made it
        return self._pool.draw(rng, count)

    def _drawn(self, number: int) -> Iterator[Picture]:
        count = self._plan.pictures
        for each in range(count):
            yield self._views.draw(number * count + each)
            self._context.progress(each + 1, count, "drawing and encoding training pictures")


class Sources:
    """What a training draws from, and what its examinations look at."""

    def __init__(
        self, settings: MspbaSettings, plan: Plan, planes: Planes, backbone: Trunk, *, context: DetectorContext
    ) -> None:
        self._settings, self._plan, self._planes, self._backbone = settings, plan, planes, backbone
        self._context = context

    def training(self, usable: Sequence[int]) -> Source:
        """Return the source of the steps, which draws from ``usable`` references."""
        if self._plan.backbone_rate is not None:
            return self._crops(usable)
        return PooledViews(self._views(usable), self._backbone, self._settings, self._plan, context=self._context)

    def examination(self, unseen: Sequence[int]) -> Callable[[], list[Windows]]:
        """Return what gives the same windows of ``unseen`` references, at least one, at every examination."""
        seeds = [self._context.seed, _EXAMINE]
        if self._plan.backbone_rate is not None:
            crops = self._crops(unseen)
            return lambda: crops.draw(np.random.default_rng(seeds), self._plan.batch, 0)
        views = self._views(unseen)
        drawn = (views.draw(_FIRST + number) for number in range(_PICTURES))
        pool = encode_pool(drawn, self._backbone, self._settings.scales, self._context.device)
        return lambda: pool.draw(np.random.default_rng(seeds), _EXAMINED)

    def _views(self, numbers: Sequence[int]) -> Views:
        return Views(self._planes, numbers, self._settings.scales, self._context.seed)

    def _crops(self, numbers: Sequence[int]) -> Crops:
        scales, clips = self._settings.scales, self._settings.parity
        return Crops(self._planes, numbers, scales, self._backbone, seed=self._context.seed, clips=clips)
