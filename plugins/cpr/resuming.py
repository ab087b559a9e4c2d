"""A training's state as arrays and JSON, so that a killed one goes on and ends with the very same heads.

Nothing random is kept: every step draws from a generator of (seed, step), every picture from (seed, number).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from edgead import DetectorContext
    from plugins.cpr.lrb import LocalHeads
    from plugins.cpr.pool import Pictures
    from plugins.cpr.settings import CprSettings

_COUNTER = "num_batches_tracked"  # int64, which no checkpoint holds, and nothing depends on it


@dataclass
class State:
    """What a training has come to. ``best``: the heads' state of the best examination, ``steps``: when it will end.

    ``examined``: (step, held-out score) of every examination so far. ``loss``: running mean of the steps' losses.
    """

    steps: int
    step: int = 0
    loss: float = 0.0
    spent_s: float = 0.0
    examined: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_score(self) -> float:
        """The best held-out score so far; less than any before the first."""
        return max((score for _, score in self.examined), default=-1.0)

    def record(self) -> dict[str, Any]:
        """Return what is not an array, as JSON."""
        names = ("steps", "step", "loss", "spent_s")
        return {name: getattr(self, name) for name in names} | {"examined": [list(each) for each in self.examined]}


def arrays_of(heads: LocalHeads, optimiser: torch.optim.Optimizer, state: State) -> dict[str, np.ndarray]:
    """Return everything a training needs to go on, float32."""
    arrays = {f"heads.{name}": tensor for name, tensor in _kept(heads.state_dict()).items()}
    arrays |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for number, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{number}.{name}": tensor for name, tensor in moments.items()}
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in arrays.items()}


def restore(
    heads: LocalHeads, optimiser: torch.optim.Optimizer, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> State:
    """Put heads and optimiser into the state that was saved; return it."""
    parts: dict[str, dict[str, Tensor]] = {"heads": {}, "best": {}, "optimiser": {}}
    for name, array in arrays.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = torch.from_numpy(array.copy())
    load(heads, parts["heads"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimiser"].items():
        number, moment = name.split(".")
        moments.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    plain = {name: record[name] for name in ("steps", "step", "loss", "spent_s")}
    return State(
        **plain, examined=[(int(step), float(score)) for step, score in record["examined"]], best=parts["best"]
    )


def snapshot(heads: LocalHeads) -> dict[str, Tensor]:
    """Return a copy of the heads' state."""
    return {name: tensor.detach().clone() for name, tensor in _kept(heads.state_dict()).items()}


def load(heads: LocalHeads, state: Mapping[str, Tensor]) -> None:
    """Put a snapshot back; a missing or surplus tensor is an error."""
    counters = {name: each for name, each in heads.state_dict().items() if name.endswith(_COUNTER)}
    heads.load_state_dict({**counters, **state})


def key_of(settings: CprSettings, pictures: Pictures, context: DetectorContext) -> str:
    """Return what the training depends on, as a digest: settings, every picture it may see, seed, budget, device."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    plain = [context.seed, context.budget_s, context.device]
    digest.update(json.dumps([*plain, len(context.textures), len(context.defects)]).encode())
    for number in range(len(pictures.frames)):
        digest.update(pictures.resized(number).tobytes())
    for frame in context.textures:
        digest.update(hashlib.sha256(frame.image.tobytes()).digest())
    for defect in context.defects:
        digest.update(hashlib.sha256(defect.frame.image.tobytes() + defect.mask.tobytes()).digest())
    return digest.hexdigest()


def _kept(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
