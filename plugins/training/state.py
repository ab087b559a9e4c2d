"""A training's state as arrays and JSON, so that a killed one goes on and ends with the very same network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel
    from torch import Tensor, nn

    from edgead import DetectorContext

_COUNTER = "num_batches_tracked"  # int64, which no checkpoint holds, and nothing depends on it
_PLAIN = ("steps", "step", "loss", "spent_s")


@dataclass
class State:
    """What a training has come to. ``best``: the kept module's state at the best examination; ``steps``: its end.

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
        return max((score for _, score in self.examined), default=float("-inf"))

    @property
    def kept_step(self) -> int:
        """The step whose network is returned: the best examined one, the earlier of equal ones; else the last."""
        return max(self.examined, key=lambda each: (each[1], -each[0]), default=(self.step, 0.0))[0]

    def record(self) -> dict[str, Any]:
        """Return what is not an array, as JSON."""
        return {name: getattr(self, name) for name in _PLAIN} | {"examined": [list(each) for each in self.examined]}

    def statistics(self) -> dict[str, Any]:
        """Return what a template's report says of the training: the same for a training killed and resumed."""
        return {
            "steps": self.step,
            "planned_steps": self.steps,
            "kept_step": self.kept_step,
            "examined": [[step, round(score, 5)] for step, score in self.examined],
            "loss": round(self.loss, 6),
        }


def arrays_of(network: nn.Module, optimiser: torch.optim.Optimizer, state: State) -> dict[str, np.ndarray]:
    """Return everything a training needs to go on, float32."""
    arrays = {f"network.{name}": tensor for name, tensor in _kept(network.state_dict()).items()}
    arrays |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for number, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{number}.{name}": tensor for name, tensor in moments.items()}
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in arrays.items()}


def restore(
    network: nn.Module, optimiser: torch.optim.Optimizer, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> State:
    """Put network and optimiser into the state that was saved; return it."""
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimiser": {}}
    for name, array in arrays.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = torch.from_numpy(array.copy())
    load(network, parts["network"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimiser"].items():
        number, moment = name.split(".")
        moments.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    examined = [(int(step), float(score)) for step, score in record["examined"]]
    return State(**{name: record[name] for name in _PLAIN}, examined=examined, best=parts["best"])


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state, batch norms' counters left out."""
    return {name: tensor.detach().clone() for name, tensor in _kept(module.state_dict()).items()}


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a snapshot back; a missing or surplus tensor, or one of another shape, is a ``RuntimeError``."""
    counters = {name: each for name, each in module.state_dict().items() if name.endswith(_COUNTER)}
    module.load_state_dict({**counters, **state})


def key_of(name: str, settings: BaseModel, images: Iterable[np.ndarray], context: DetectorContext) -> str:
    """Return what a training depends on, as a digest: settings, ``images``, seed, budget, device, textures, defects.

    ``name``: the detector and version of its training; ``images``: every picture it may see, as it sees them.
    """
    digest = hashlib.sha256(f"{name}\n{settings.model_dump_json()}".encode())
    plain = [context.seed, context.budget_s, context.device, len(context.textures), len(context.defects)]
    digest.update(json.dumps(plain).encode())
    for image in images:
        digest.update(image.tobytes())
    for frame in context.textures:
        digest.update(hashlib.sha256(frame.image.tobytes()).digest())
    for defect in context.defects:
        digest.update(hashlib.sha256(defect.frame.image.tobytes() + defect.mask.tobytes()).digest())
    return digest.hexdigest()


def _kept(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
