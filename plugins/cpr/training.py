"""Trains the local heads: the only part of CPR that learns by descent (specification, section 7; plans in ``plan.py``).

The rule of ending, stated before any training ran, is that of ``plugins.training.loop`` with the held-out score of
``examination.py``. Without references to spare there is no such score and the last heads are returned.

Same references, settings and seed: same heads, bit for bit, on one machine's CPU with one number of threads, killed and
resumed or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgead import SyntheticDefects
from plugins.cpr.batches import batch_loss, draw_batch
from plugins.cpr.examination import Examination, Shares, beside_more, best_of, candidates, examine
from plugins.cpr.lrb import LocalHead, LocalHeads
from plugins.cpr.plan import POOL_BYTES, Plan, plan_of
from plugins.cpr.pool import Pictures, Pool, Pools
from plugins.cpr.settings import map_shapes
from plugins.training.loop import Rules, Task, train
from plugins.training.sparing import spared
from plugins.training.state import key_of

if TYPE_CHECKING:
    from edgead import DetectorContext
    from plugins.cpr.learning import Encoded, Prepared
    from plugins.cpr.settings import CprSettings

#: Numbers of the random streams of a training.
_START, _STEP = 2, 3
#: References the start of a head is measured on.
_MEASURED = 64
#: ``raw_share`` auto of every layer while training is under way, and where too few references were spared to tell.
UNTOLD = 0.5


def train_heads(
    settings: CprSettings, encoded: Encoded, prepared: Prepared
) -> tuple[LocalHeads, Shares, dict[str, Any]]:
    """Train heads for settings that are resolved but for ``raw_share``.

    Returns the heads in eval mode on the CPU, each layer's ``raw_share``, and statistics (JSON): ``steps`` taken and
    planned, ``kept_step`` whose heads these are, ``examined`` [step, held-out score], ``loss``, ``train_s``,
    ``unseen``: numbers of the references nothing was trained on, ``raw_shares`` tried [shares, held-out score].
    """
    context, unseen = encoded.context, spared(len(encoded))
    seed = context.seed
    plan, pictures = planned(settings, encoded, prepared)
    auto = settings.raw_share == "auto"
    shares = (UNTOLD,) * len(settings.layer_names) if auto else settings.raw_shares
    most = POOL_BYTES // _bytes_a_picture(settings)
    with torch.enable_grad():
        heads = _start(settings, plan, encoded, seed).to(context.device)
        examination = examine(
            pictures, unseen, encoded.features, context.device, seed=seed, candidates=(shares,), most=most
        )
        with Pools(pictures, encoded.features, plan.pictures, context) as pools:
            task = _HeadsTask(settings, plan, heads, pictures, pools, examination=examination, context=context)
            state = train(task, Rules(plan.steps, plan.examinations, plan.patience, gain=0.0), context)
    del task  # its pool is as large as what follows
    heads.requires_grad_(requires_grad=False).eval()
    statistics: dict[str, Any] = {"training": state.statistics(), "unseen": unseen}
    if auto and examination is not None:
        context.progress(0, 1, "comparing heads with the backbone's own features")
        # With as many references as on the line: the more there are, the better the backbone's own features do.
        final = beside_more(
            examination, pictures, encoded.features, context.device,
            candidates=candidates(settings), compared=settings.nearest, most=most,
        )  # fmt: skip
        scores = final.scores(heads)
        statistics["raw_shares"] = [[list(each), round(score, 5)] for each, score in scores.items()]
        shares = best_of(scores)
    return heads.cpu(), shares, statistics


def planned(settings: CprSettings, encoded: Encoded, prepared: Prepared) -> tuple[Plan, Pictures]:
    """Return how long heads are trained, and what they look at: pictures of the references that are not spared."""
    context, unseen = encoded.context, set(spared(len(encoded)))
    usable = [number for number in range(len(encoded)) if number not in unseen]
    plan = plan_of(settings, _bytes_a_picture(settings))
    defects = SyntheticDefects(
        encoded.references, textures=context.textures, defects=context.defects, recipe=plan.recipe, seed=context.seed
    )
    return plan, Pictures(
        encoded.references, usable, prepared, defects, size=settings.image_size, compared=plan.compared
    )


def _bytes_a_picture(settings: CprSettings) -> int:
    return 2 * sum(channels * side**2 for channels, side in map_shapes(settings))


def _start(settings: CprSettings, plan: Plan, encoded: Encoded, seed: int) -> LocalHeads:
    """Return heads before the first step: torch's own start, or the backbone's features and nothing added."""
    channels = tuple(channels for channels, _ in map_shapes(settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([seed, _START]).integers(1 << 31)))
        heads = LocalHeads(channels, settings.local_width, shortcut=plan.from_raw)
    if plan.from_raw:
        start_from_raw(heads, _some_maps(encoded))
    return heads


def start_from_raw(heads: LocalHeads, maps: list[list[Tensor]]) -> None:
    """Make heads give the backbone's features, projected to their width where they are wider, and nothing else.

    The projection keeps the directions in which unit vectors of ``maps`` (per layer, [1, C, H, W] each) lie most, so
    that it keeps their cosines best; signs are chosen so that it does not depend on the eigenvectors' arbitrary ones.
    """
    for each, taps in zip(heads, maps, strict=True):
        head = cast("LocalHead", each)
        gram = torch.zeros(head.channels, head.channels, dtype=torch.float64)
        for tap in taps:
            rows = nn.functional.normalize(tap[0].flatten(1).T.double().cpu(), dim=1)
            gram += rows.T @ rows
        axes = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, : head.width].T
        axes = axes * torch.where(axes.gather(1, axes.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)
        straight, last = cast("nn.Conv2d", head.shortcut), cast("nn.Conv2d", head.layers[-1])
        with torch.no_grad():
            for parameter in (straight.weight, *last.parameters()):
                parameter.zero_()
            straight.weight[: axes.shape[0], :, 0, 0] = axes.float()


def _some_maps(encoded: Encoded) -> list[list[Tensor]]:
    """Return per layer the maps of at most ``_MEASURED`` references, spread evenly."""
    chosen = set(np.linspace(0, len(encoded) - 1, min(len(encoded), _MEASURED)).round().astype(int).tolist())
    taken = [taps for number, taps in enumerate(encoded.maps("reading references")) if number in chosen]
    return [list(layer) for layer in zip(*taken, strict=True)]


class _HeadsTask(Task):
    """The training of heads, as ``plugins.training.loop.Task`` wants it."""

    name = "cpr"

    def __init__(
        self,
        settings: CprSettings,
        plan: Plan,
        heads: LocalHeads,
        pictures: Pictures,
        pools: Pools,
        *,
        examination: Examination | None,
        context: DetectorContext,
    ) -> None:
        self.settings, self.plan, self.context = settings, plan, context
        self.pictures, self.pools, self.examination = pictures, pools, examination
        self.heads = heads
        self.network = self.kept = heads
        self.optimiser = torch.optim.AdamW(heads.parameters(), lr=plan.rate, weight_decay=plan.decay)
        self.renewed_every = plan.steps_of_pool
        self._pool: Pool | None = None
        self._number = -1

    def key(self) -> str:
        return key_of("cpr 7", self.settings, self._seen(), self.context)

    def _seen(self) -> Iterator[np.ndarray]:
        return (self.pictures.resized(number) for number in range(len(self.pictures.frames)))

    def prepare(self, step: int, steps: int) -> None:
        number = step // self.renewed_every
        if number != self._number:
            self._pool, self._number = None, number  # one pool in memory at a time
            self._pool = self.pools.make(number, last=(number + 1) * self.renewed_every >= steps)

    def take(self, step: int, steps: int) -> float:
        pool, plan, size = self._pool, self.plan, self.settings.image_size
        assert pool is not None  # noqa: S101 - prepare has made it
        rng = np.random.default_rng([self.context.seed, _STEP, step])
        batch = draw_batch(pool, plan, size, pool.maps[-1].shape[1], rng, remote=plan.remote)
        for group in self.optimiser.param_groups:
            group["lr"] = plan.rate_at(step, steps)
        self.heads.train()
        loss = batch_loss(self.heads, pool, batch, size, like=plan.like)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def examine(self) -> float | None:
        if self.examination is None:
            return None
        self.heads.eval()
        return self.examination.score(self.heads)
