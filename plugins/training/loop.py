"""The loop of a training: steps, checkpoints, budget, and the rule of ending, the same for every detector that trains.

The rule of ending: the held-out score is taken at the start and at evenly spaced steps; what is kept is the module of
the best one, the earlier of equal ones; when as many in a row as ``Rules.patience`` brought no more than
``Rules.gain``, training ends. Without a held-out score the last module is kept.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgead import ConfigError
from plugins.training import state as states
from plugins.training.state import State

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgead import DetectorContext

#: Steps after which a budget is turned into a number of steps.
PROBE = 8
#: Seconds between two checkpoints: what a kill costs at most, beside preparing again.
CHECKPOINT_S = 10.0
#: And never more often than this times what writing one took: large networks on slow disks.
CHECKPOINT_SHARE = 20.0


@dataclass(frozen=True)
class Rules:
    """When a training is examined and when it ends.

    ``steps``: at most. ``examinations``: how often the held-out score is taken; ``patience``: of them without more than
    ``gain`` (of the score, 0..1) before training ends; ``least``: steps before which it does not end so.
    """

    steps: int
    examinations: int
    patience: int
    gain: float = 0.001
    least: int = 0

    def examined_at(self, steps: int) -> set[int]:
        """Return the steps after which the held-out score is taken, of ``steps``; the last one is among them."""
        return {round(steps * nth / self.examinations) for nth in range(1, self.examinations + 1)}

    def ended(self, state: State) -> bool:
        """Tell whether the last ``patience`` examinations brought no gain over the best one before them."""
        scores = [score for _, score in state.examined]
        before, last = scores[: -self.patience], scores[-self.patience :]
        return bool(before) and state.step >= self.least and max(last) <= max(before) + self.gain


class Task(ABC):
    """One training, as the loop sees it: subclass, and set the five attributes.

    ``name``: the detector, for messages. ``network``: all that learns, whose state a checkpoint keeps (other arrays,
    too, as float32 buffers of it); ``kept``: the part of it that is examined and returned (``network`` itself, or its
    running mean). ``renewed_every``: steps after which ``prepare`` has costly work again.
    """

    name: str
    network: nn.Module
    kept: nn.Module
    optimiser: torch.optim.Optimizer
    renewed_every: int

    @abstractmethod
    def key(self) -> str:
        """Return the digest of all the training depends on; asked for only where there is a checkpoint."""

    @abstractmethod
    def prepare(self, step: int, steps: int) -> None:
        """Make what step ``step`` of ``steps`` learns from, unless it is there; after a kill, from that step on."""

    @abstractmethod
    def take(self, step: int, steps: int) -> float:
        """Take one step; return its loss. Everything it draws follows from (seed, ``step``)."""

    @abstractmethod
    def examine(self) -> float | None:
        """Return the held-out score of ``kept``, higher = better; None where nothing was held out."""

    def record(self) -> Mapping[str, Any]:
        """Return what else must outlive a kill, as a JSON object."""
        return {}

    def resume(self, record: Mapping[str, Any]) -> None:
        """Take back what ``record`` gave, after ``network`` and ``optimiser`` were restored."""
        del record


def train(task: Task, rules: Rules, context: DetectorContext) -> State:
    """Train ``task.network`` in place, from whatever its checkpoint holds to the end; ``task.kept`` ends as the best.

    Raises ``ConfigError`` where a loss is not finite, or for the checkpoint of another training.
    """
    return _Run(task, rules, context).train()


class _Run:
    """A training under way. Seconds: spent before this process, on preparing, at the last checkpoint, writing it."""

    def __init__(self, task: Task, rules: Rules, context: DetectorContext) -> None:
        self.task, self.rules, self.context = task, rules, context
        self._prepared_s = 0.0
        self._written = time.monotonic()
        self._writing_s = 0.0
        self._key = task.key() if context.checkpoint else ""

    def train(self) -> State:
        task = self.task
        state = self._begin()
        began, before = time.monotonic(), state.spent_s
        if not state.examined:
            self._examine(state)
        while state.step < state.steps and not self.rules.ended(state):
            self._step(state)
            state.spent_s = before + time.monotonic() - began
            self._fit_budget(state)
            if state.step in self.rules.examined_at(state.steps):
                self._examine(state)
            self._save(state)
        self._save(state, now=True)  # so that a kill in what comes after training does not cost it
        if state.best:
            states.load(task.kept, state.best)
        return state

    def _begin(self) -> State:
        saved = self.context.checkpoint.load(self._key) if self.context.checkpoint else None
        if saved is None:
            return State(self.rules.steps)
        state = states.restore(self.task.network, self.task.optimiser, *saved)
        self.task.resume(saved[1]["task"])
        return state

    def _step(self, state: State) -> None:
        began = time.monotonic()
        self.task.prepare(state.step, state.steps)
        self._prepared_s += time.monotonic() - began
        value = self.task.take(state.step, state.steps)
        state.step += 1
        if not math.isfinite(value):
            raise ConfigError(
                f"{self.task.name}: training came to a loss of {value} at step {state.step}: try another seed, or "
                "train none"
            )
        # A mean over some twenty steps, begun with the first one.
        state.loss = value if state.step == 1 else 0.95 * state.loss + 0.05 * value
        score = f", held out {state.examined[-1][1]:.3f}" if state.examined else ""
        self.context.progress(state.step, state.steps, f"training: loss {state.loss:.3f}{score}")

    def _fit_budget(self, state: State) -> None:
        """After ``PROBE`` steps, cut the number of steps to what the budget leaves time for; never below that."""
        budget = self.context.budget_s
        if budget is None or state.step != PROBE:
            return
        # The probe's time holds a preparation or some, each of which is paid again for every renewal.
        prepared = math.ceil(PROBE / self.task.renewed_every) * self.task.renewed_every
        a_step = (state.spent_s - self._prepared_s) / PROBE + self._prepared_s / prepared
        left = budget - state.spent_s
        state.steps = min(state.steps, PROBE + max(0, int(left / a_step)))

    def _examine(self, state: State) -> None:
        """Take the held-out score and remember the module if it is the best so far."""
        score = self.task.examine()
        if score is None:
            return
        if score > state.best_score:
            state.best = states.snapshot(self.task.kept)
        state.examined.append((state.step, score))

    def _save(self, state: State, *, now: bool = False) -> None:
        checkpoint, began = self.context.checkpoint, time.monotonic()
        if checkpoint is None or not (now or began - self._written >= self._pause_s()):
            return
        arrays = states.arrays_of(self.task.network, self.task.optimiser, state)
        checkpoint.save(self._key, arrays, {**state.record(), "task": dict(self.task.record())})
        self._written = time.monotonic()
        self._writing_s = self._written - began

    def _pause_s(self) -> float:
        return max(CHECKPOINT_S, CHECKPOINT_SHARE * self._writing_s) if CHECKPOINT_S else 0.0
