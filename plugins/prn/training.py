"""Trains the network (specification, sections 8 and 9; plans in ``plan.py``, the loop in ``plugins.training.loop``).

What is examined and returned is the running mean of the weights. Same references, settings and seed: same network, bit
for bit, on one machine's CPU with one number of threads, killed and resumed or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from plugins.prn.attention import Affine
from plugins.prn.averaging import averaged, follow
from plugins.prn.examination import draw_examination, held_out_score
from plugins.prn.losses import loss_of
from plugins.prn.network import Network
from plugins.prn.pictures import Picture, Pictures
from plugins.prn.plan import Plan, plan_of
from plugins.prn.pool import Pool, encode_pool
from plugins.prn.settings import map_shapes
from plugins.training.ahead import Ahead
from plugins.training.loop import Task, train
from plugins.training.state import key_of

if TYPE_CHECKING:
    from edgead import DetectorContext
    from plugins.prn.learning import GoodFrames, Prepared

#: Numbers of the random streams of a training.
_START, _ORDER = 2, 3


def train_network(prepared: Prepared, context: DetectorContext) -> tuple[Network, dict[str, Any]]:
    """Train on what was prepared; return the network in eval mode on the CPU, and statistics (JSON).

    Statistics: ``steps`` taken and planned, ``kept_step`` whose network this is, ``examined`` [step, held-out score],
    ``loss``.
    """
    plan, pictures = planned(prepared.good, context)
    with torch.enable_grad(), Ahead(pictures.draw, plan.pictures, context) as ahead:
        task = NetworkTask(prepared, plan, pictures, ahead, context)
        state = train(task, plan.rules(), context)
    network: Network = task.kept.eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network, state.statistics()


def planned(good: GoodFrames, context: DetectorContext) -> tuple[Plan, Pictures]:
    """Return how long the network is trained, and what it looks at."""
    settings = good.settings
    a_picture = 4 * sum(channels * side**2 for channels, side in map_shapes(settings)) + settings.image_size**2
    plan = plan_of(settings, len(good.usable), a_picture)
    return plan, Pictures(good.images, good.usable, good.foregrounds, plan.recipe, context, turned=plan.turned)


def started(prepared: Prepared, plan: Plan, seed: int) -> Network:
    """Return the network before the first step: torch's own start, drawn from ``seed``, and the plan's prior."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([seed, _START]).integers(1 << 31)))
        network = Network(prepared.good.settings)
    if plan.prior is not None:
        nn.init.constant_(cast("Tensor", network.decoder.logit.bias), math.log(plan.prior / (1.0 - plan.prior)))
    return network


def parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return the optimiser's groups: convolutions decay, norms and the scales and offsets of attention do not."""
    free = [
        parameter
        for module in network.modules()
        if isinstance(module, (Affine, nn.BatchNorm2d))
        for parameter in module.parameters(recurse=False)
    ]
    names = {id(parameter) for parameter in free}
    decaying = [parameter for parameter in network.parameters() if id(parameter) not in names]
    return [{"params": decaying, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]


class NetworkTask(Task):
    """The training of a network, as the loop wants it."""

    name = "prn"

    def __init__(
        self, prepared: Prepared, plan: Plan, pictures: Pictures, ahead: Ahead[Picture], context: DetectorContext
    ) -> None:
        self.prepared, self.plan, self.context = prepared, plan, context
        self.pictures, self.ahead = pictures, ahead
        # Channels last: the same numbers to rounding, a quarter less time of a processor.
        start = started(prepared, plan, context.seed)
        self.learning = start.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.kept = averaged(self.learning)
        self.network = nn.ModuleDict({"learning": self.learning, "kept": self.kept})
        self.optimiser = torch.optim.Adam(parameter_groups(self.learning, plan.decay), lr=plan.rate)
        # Batches are whole: what is left of a pool's last round is dropped.
        self.round = max(1, plan.pictures // plan.batch)
        self.renewed_every = self.round * plan.uses
        self._pool: Pool | None = None
        self._number = -1
        self._examination: Pool | None = None
        if prepared.good.unseen:
            self._examination = draw_examination(
                pictures, prepared.good.unseen, prepared.features, prepared.bank, context.device
            )

    def key(self) -> str:
        """Return the digest of settings, pictures and context."""
        return key_of("prn 2", self.prepared.good.settings, self._seen(), self.context)

    def _seen(self) -> Iterator[np.ndarray]:
        return iter(self.prepared.good.images)

    def prepare(self, step: int, steps: int) -> None:
        """Draw and encode the pool of ``step``."""
        number = step // self.renewed_every
        if number != self._number:
            self._pool, self._number = None, number  # one pool in memory at a time
            drawn = self.ahead.pool(number, last=(number + 1) * self.renewed_every >= steps)
            self._pool = encode_pool(
                drawn, self.prepared.good.images, self.prepared.features, self.prepared.bank, self.context.device
            )

    def take(self, step: int, steps: int) -> float:
        """Take one step on the next batch of a shuffled pool."""
        assert self._pool is not None  # noqa: S101 - prepare has made it
        chosen = self._chosen(step, len(self._pool))
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate_at(step, steps)
        self.learning.train()
        device = torch.device(self.context.device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits: Tensor = self.learning(*self._pool.inputs(chosen))
        loss = loss_of(logits.float().sigmoid(), self._pool.masks[chosen].unsqueeze(1).float())
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        follow(self.kept, self.learning, self.plan.average, step)
        return float(loss.detach())

    def _chosen(self, step: int, count: int) -> Tensor:
        """Return the rows of a step's batch: every round is a new shuffle of the pool."""
        done, place = divmod(step, self.round)
        order = np.random.default_rng([self.context.seed, _ORDER, done]).permutation(count)
        batch = self.plan.batch
        return torch.from_numpy(order[place * batch : (place + 1) * batch]).to(self.context.device)

    def examine(self) -> float | None:
        """Return the average precision of the running mean; None where no reference was spared."""
        if self._examination is None:
            return None
        self.kept.eval()
        return held_out_score(self.kept, self._examination)
