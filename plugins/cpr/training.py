"""Trains the local heads: the only part of CPR that learns by descent (specification, section 7; plans in ``plan.py``).

The rule of ending, stated before any training ran: the held-out score (``examination.py``) is taken at the start and at
evenly spaced steps; the heads returned are those of the best one, the earlier of equal ones; when as many in a row as
the plan's patience brought no more than ``GAIN``, training ends. Without references to spare there is no such score and
the last heads are returned.

Same references, settings and seed: same heads, bit for bit, on one machine's CPU with one number of threads, killed and
resumed or not.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgead import ConfigError, SyntheticDefects
from plugins.cpr import resuming
from plugins.cpr.batches import batch_loss, draw_batch
from plugins.cpr.examination import Examination, examine
from plugins.cpr.lrb import LocalHead, LocalHeads
from plugins.cpr.plan import Plan, plan_of, spared
from plugins.cpr.pool import Pictures, Pool, Pools
from plugins.cpr.settings import map_shapes

if TYPE_CHECKING:
    from edgead import DetectorContext
    from plugins.cpr.learning import Encoded, Prepared
    from plugins.cpr.settings import CprSettings

#: Held-out score that counts as a gain.
GAIN = 0.001
#: Steps after which a budget is turned into a number of steps.
PROBE = 8
#: Seconds between two checkpoints: what a kill costs at most, beside making the pool again.
CHECKPOINT_S = 10.0
#: Numbers of the random streams of a training.
_START, _STEP = 2, 3
#: References the start of a head is measured on.
_MEASURED = 64


def train_heads(
    settings: CprSettings, encoded: Encoded, prepared: Prepared, context: DetectorContext
) -> tuple[LocalHeads, dict[str, Any]]:
    """Train heads for resolved settings; return them in eval mode on the CPU, and statistics (JSON).

    Statistics: ``steps`` taken and planned, ``kept_step`` whose heads these are, ``examined`` [step, held-out score],
    ``loss``, ``train_s``, ``unseen``: numbers of the references nothing was trained on.
    """
    unseen = spared(len(encoded))
    usable = [number for number in range(len(encoded)) if number not in set(unseen)]
    shapes = map_shapes(settings)
    plan = plan_of(settings, 2 * 2 * sum(channels * side**2 for channels, side in shapes))
    seed = context.seed
    defects = SyntheticDefects(
        encoded.references, textures=context.textures, defects=context.defects, recipe=plan.recipe, seed=seed
    )
    pictures = Pictures(encoded.references, usable, prepared, defects, size=settings.image_size, compared=plan.compared)
    with torch.enable_grad():
        heads = _start(settings, plan, encoded, seed).to(context.device)
        examination = examine(pictures, unseen, encoded.features, context.device) if unseen else None
        run = _Run(settings, plan, pictures, encoded, examination, context=context)
        state = run.train(heads)
    heads.requires_grad_(requires_grad=False).eval().cpu()
    kept = max(state.examined, key=lambda each: (each[1], -each[0]), default=(state.step, 0.0))
    return heads, {
        "training": {
            "steps": state.step,
            "planned_steps": state.steps,
            "kept_step": kept[0],
            "examined": [[step, round(score, 5)] for step, score in state.examined],
            "loss": round(state.loss, 6),
        },
        "unseen": unseen,
    }


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


@dataclass
class _Run:
    """One training, from whatever state its checkpoint holds to the end."""

    settings: CprSettings
    plan: Plan
    pictures: Pictures
    encoded: Encoded
    examination: Examination | None
    context: DetectorContext
    _pool_s: float = 0.0

    def train(self, heads: LocalHeads) -> resuming.State:
        """Train ``heads`` in place; they end as those of the best examination."""
        plan, context = self.plan, self.context
        optimiser = torch.optim.AdamW(heads.parameters(), lr=plan.rate, weight_decay=plan.decay)
        key = resuming.key_of(self.settings, self.pictures, context) if context.checkpoint else ""
        saved = context.checkpoint.load(key) if context.checkpoint else None
        state = resuming.restore(heads, optimiser, *saved) if saved else resuming.State(plan.steps)
        began, before, written = time.monotonic(), state.spent_s, time.monotonic()
        if not state.examined:
            self._examine(heads, state)
        with Pools(self.pictures, self.encoded.features, plan.pictures, context) as pools:
            pool, number = None, -1
            while state.step < state.steps and not self._ended(state):
                if state.step // plan.steps_of_pool != number:
                    pool, number = None, state.step // plan.steps_of_pool  # one pool in memory at a time
                    pool = self._pool(pools, number, state)
                assert pool is not None  # noqa: S101 - the loop's first pass makes it
                self._step(heads, optimiser, pool, state)
                state.spent_s = before + time.monotonic() - began
                self._fit_budget(state)
                if state.step in self._examined_at(state.steps):
                    self._examine(heads, state)
                if context.checkpoint and time.monotonic() - written >= CHECKPOINT_S:
                    context.checkpoint.save(key, resuming.arrays_of(heads, optimiser, state), state.record())
                    written = time.monotonic()
        if context.checkpoint:  # so that a kill in what comes after training does not cost it
            context.checkpoint.save(key, resuming.arrays_of(heads, optimiser, state), state.record())
        if state.best:
            resuming.load(heads, state.best)
        return state

    def _pool(self, pools: Pools, number: int, state: resuming.State) -> Pool:
        """Make pool ``number`` and take the time."""
        began = time.monotonic()
        pool = pools.make(number, last=(number + 1) * self.plan.steps_of_pool >= state.steps)
        self._pool_s = time.monotonic() - began
        return pool

    def _step(self, heads: LocalHeads, optimiser: torch.optim.Optimizer, pool: Pool, state: resuming.State) -> None:
        """Take one step; everything it draws follows from (seed, step)."""
        rng = np.random.default_rng([self.context.seed, _STEP, state.step])
        size = self.settings.image_size
        batch = draw_batch(pool, self.plan, size, pool.maps[-1].shape[1], rng, remote=self.plan.remote)
        for group in optimiser.param_groups:
            group["lr"] = self.plan.rate_at(state.step, state.steps)
        heads.train()
        loss = batch_loss(heads, pool, batch, size)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        state.step += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(
                f"cpr: training came to a loss of {value} at step {state.step}: try another seed, or train none"
            )
        # A mean over some twenty steps, begun with the first one.
        state.loss = value if state.step == 1 else 0.95 * state.loss + 0.05 * value
        score = f", held out {state.examined[-1][1]:.3f}" if state.examined else ""
        self.context.progress(state.step, state.steps, f"training: loss {state.loss:.3f}{score}")

    def _fit_budget(self, state: resuming.State) -> None:
        """After ``PROBE`` steps, cut the number of steps to what the budget leaves time for; never below that."""
        budget = self.context.budget_s
        if budget is None or state.step != PROBE:
            return
        # The probe's time holds one pool's making, which is paid again for every pool.
        a_step = (state.spent_s - self._pool_s) / PROBE + self._pool_s / self.plan.steps_of_pool
        left = budget - state.spent_s
        state.steps = min(state.steps, PROBE + max(0, int(left / a_step)))

    def _examined_at(self, steps: int) -> set[int]:
        """Return the steps after which the held-out score is taken; the last one is among them."""
        return {round(steps * nth / self.plan.examinations) for nth in range(1, self.plan.examinations + 1)}

    def _examine(self, heads: LocalHeads, state: resuming.State) -> None:
        """Take the held-out score and keep the heads if it is the best so far."""
        if self.examination is None:
            return
        heads.eval()
        score = self.examination.score(heads)
        if score > state.best_score:
            state.best = resuming.snapshot(heads)
        state.examined.append((state.step, score))

    def _ended(self, state: resuming.State) -> bool:
        """Tell whether the last ``patience`` examinations brought no gain over the best one before them."""
        scores = [score for _, score in state.examined]
        before, last = scores[: -self.plan.patience], scores[-self.plan.patience :]
        return bool(before) and max(last) <= max(before) + GAIN
