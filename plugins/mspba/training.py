"""Trains the encoders by position and similarity, in the loop of every detector that trains (``plugins.training``).

The held-out score is exp(-position loss), the mean of the scales, on references nothing is trained on; where it stays
at chance, as on some textures, the latest one counts. A collapse (section 9, item 3) puts the examination before back
and cuts the similarity weight to a tenth.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from plugins.mspba.encoders import Learner
from plugins.mspba.geometry import DIRECTIONS
from plugins.mspba.losses import cluster_loss, has_collapsed, position_loss, similarity_loss
from plugins.mspba.plan import CLUSTER_EPOCHS, Plan, clusters_of, plan_of
from plugins.mspba.sources import Sources
from plugins.mspba.views import ROOM
from plugins.training.loop import Rules, Task, train
from plugins.training.rates import cosine_rate
from plugins.training.sparing import spared
from plugins.training.state import key_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgead import DetectorContext
    from plugins.backbones.layers import Trunk
    from plugins.mspba.embedding import Planes
    from plugins.mspba.settings import MspbaSettings
    from plugins.mspba.sources import Source
    from plugins.mspba.windows import Windows

#: Numbers of the random streams of a training.
_START, _STEP, _GROUP = 2, 3, 5
#: A score no more than this above chance, 1/12, is chance.
_CHANCE = 1.06 / DIRECTIONS
#: Embeddings grouped for the cluster term.
_GROUPED = 1024


def train_encoders(
    settings: MspbaSettings, planes: Planes, backbone: Trunk, context: DetectorContext
) -> tuple[nn.ModuleList, Trunk | None, dict[str, Any]]:
    """Train for resolved settings; return (heads, the backbone if it was trained), both frozen, and statistics (JSON).

    Statistics: ``training`` (see ``State.statistics``, and the similarity weight at the end) and ``unseen``: numbers of
    the references nothing was trained on.
    """
    count = len(planes.levels)
    unseen = spared(count)
    usable = [number for number in range(count) if number not in set(unseen)]
    plan = plan_of(settings, len(usable), _bytes_a_picture(settings))
    learns = plan.backbone_rate is not None
    with torch.enable_grad():
        backbone.requires_grad_(requires_grad=learns)
        learner = _start(settings, backbone if learns else None, context.seed).to(context.device)
        sources = Sources(settings, plan, planes, backbone, context=context)
        examined = sources.examination(unseen) if unseen else None
        task = _EncodersTask(
            settings, plan, learner, sources.training(usable), examined, planes=planes, context=context
        )
        rules = Rules(plan.steps, plan.examinations, plan.patience, least=plan.least)
        state = train(task, rules, context)
    learner.requires_grad_(requires_grad=False).eval()
    weight = settings.similarity_weight / 10 ** float(learner.doubt)
    statistics = {"training": {**state.statistics(), "similarity_weight": weight}, "unseen": unseen}
    return learner.heads, backbone if learns else None, statistics


def _start(settings: MspbaSettings, backbone: Trunk | None, seed: int) -> Learner:
    """Return the learner before the first step: torch's own start, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([seed, _START]).integers(1 << 31)))
        return Learner(settings, backbone)


def _bytes_a_picture(settings: MspbaSettings) -> int:
    side = settings.image_size - ROOM
    return sum(4 * 2 * scale.channels * (side // scale.stride) ** 2 for scale in settings.scales)


class _Kept(nn.Module):
    """What a checkpoint keeps: the learner, that of the examination before, and the cluster term's centres."""

    def __init__(self, learner: Learner, clusters: int, settings: MspbaSettings) -> None:
        super().__init__()
        self.learner = learner
        self.before = copy.deepcopy(learner).requires_grad_(requires_grad=False)
        for level in range(len(settings.scales) if settings.cluster_weight else 0):
            self.register_buffer(f"centres{level}", torch.zeros(clusters, settings.dimension))


class _EncodersTask(Task):
    """The training of encoders, as ``plugins.training.loop.Task`` wants it."""

    name = "mspba"

    def __init__(
        self,
        settings: MspbaSettings,
        plan: Plan,
        learner: Learner,
        source: Source,
        examined: Callable[[], list[Windows]] | None,
        *,
        planes: Planes,
        context: DetectorContext,
    ) -> None:
        self.settings, self.plan, self.planes, self.context = settings, plan, planes, context
        self.source, self.examined = source, examined
        self._all = _Kept(learner, clusters_of(len(planes.levels)), settings).to(context.device)
        self._learner = learner
        self.network = self._all
        self.kept = learner
        self.optimiser = torch.optim.Adam(groups_of(learner, plan))
        self.renewed_every = plan.steps_of_pool
        # Not the optimiser's own count, which a collapse begins anew.
        self._taken = 0

    def key(self) -> str:
        """Return the digest of all the training depends on."""
        images: Iterator[np.ndarray] = (each.cpu().numpy() for each in self.planes.levels)
        return key_of("mspba 1", self.settings, images, self.context)

    def prepare(self, step: int, steps: int) -> None:
        """Make the pool of a step."""
        del steps
        self.source.prepare(step)

    def take(self, step: int, steps: int) -> float:
        """Take one step."""
        rng = np.random.default_rng([self.context.seed, _STEP, step])
        for group in self.optimiser.param_groups:
            rate = cosine_rate(step, steps, self.plan.rate, warm_up=self.plan.warm_up, last=self.plan.last_rate)
            group["lr"] = rate * group["share"]
        self.kept.train()
        if self.settings.cluster_weight and step % (CLUSTER_EPOCHS * self.plan.epoch) == 0 and step:
            self._group(step)
        loss = self.loss(self.source.draw(rng, self.plan.batch, step), grouped=step >= CLUSTER_EPOCHS * self.plan.epoch)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._taken = step + 1
        return float(loss.detach())

    def loss(self, drawn: list[Windows], *, grouped: bool = False) -> Tensor:
        """Return the loss of a step: the sum over the scales."""
        weight = self.settings.similarity_weight / 10 ** float(self._learner.doubt)
        losses = []
        for level, windows in enumerate(drawn):
            first, second, anchor, near, far = windows.embedded(self._learner.heads[level])
            losses.append(position_loss(self._learner.classifiers[level](first, second), windows.directions))
            if weight:
                losses.append(weight * similarity_loss(anchor, near, far))
            if self.settings.cluster_weight and grouped:
                centres = self._all.get_buffer(f"centres{level}")
                losses.append(self.settings.cluster_weight * cluster_loss(anchor, centres))
        return torch.stack(losses).sum()

    def _group(self, step: int) -> None:
        """Set the centres of the cluster term: k-means of embeddings as they are now."""
        from plugins.cpr.kmeans import kmeans

        rng = np.random.default_rng([self.context.seed, _GROUP, step])
        with torch.no_grad():
            for level, windows in enumerate(self.source.draw(rng, _GROUPED // 2, step)):
                embedded = torch.cat(windows.embedded(self._learner.heads[level])[2::2])
                centres = self._all.get_buffer(f"centres{level}")
                centres.copy_(kmeans(embedded, centres.shape[0], self.context.seed + step, restarts=3))

    def examine(self) -> float | None:
        """Return the held-out score, the collapse guard applied; None where nothing was held out."""
        if self.examined is None:
            return None
        started = bool(self.optimiser.state)
        score, collapsed = self._measured()
        if collapsed and started:
            doubt = self._learner.doubt + 1
            self.kept.load_state_dict(self._all.before.state_dict())
            self._learner.doubt.copy_(doubt)
            self.optimiser.state.clear()
            score, _ = self._measured()
        self._all.before.load_state_dict(self.kept.state_dict())
        if score > _CHANCE:
            return score
        # At chance the latest one counts, by a hair that no gain of another kind is as small as.
        return 1 / DIRECTIONS + 1e-9 * self._taken

    def _measured(self) -> tuple[float, bool]:
        """Return exp(-held-out position loss), 0..1, and whether any scale has collapsed."""
        assert self.examined is not None  # noqa: S101 - the caller has looked
        self.kept.eval()
        losses, collapsed = [], False
        with torch.no_grad():
            for level, windows in enumerate(self.examined()):
                first, second, anchor, _, _ = windows.embedded(self._learner.heads[level])
                losses.append(float(position_loss(self._learner.classifiers[level](first, second), windows.directions)))
                collapsed = collapsed or has_collapsed(anchor, anchor.roll(1, 0))
        return math.exp(-sum(losses) / len(losses)), collapsed


def groups_of(learner: Learner, plan: Plan) -> list[dict[str, Any]]:
    """Return Adam's parameter groups, every parameter once; ``share``: of the plan's rate."""
    groups = [{"params": [*learner.heads.parameters(), *learner.classifiers.parameters()], "share": 1.0}]
    if learner.backbone is not None:
        groups.append({"params": list(learner.backbone.parameters()), "share": plan.backbone_rate})
    return [{**group, "lr": plan.rate} for group in groups]
