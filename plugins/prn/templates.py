"""What a template keeps, and how it becomes the bank of the graph.

| tensor of the content | is |
|---|---|
| ``network.*`` float32 | the trained network, batch norms not merged |
| ``prototypes.<layer>`` float32 [K, C, H, W] | the prototypes of a scale |
| ``counts.<layer>`` int32 [K] | how many good frames each is the mean of |
| ``radius`` float32 [3] | how far a reference lies from its own prototype at most, at each scale |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from edgead import TemplateError
from plugins.prn.layers import fold
from plugins.prn.learning import Learnt, bank_tensors
from plugins.prn.network import Network
from plugins.prn.prototypes import Prototypes
from plugins.prn.settings import SCALES
from plugins.training.state import load, snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgead import TemplateContent
    from plugins.prn.settings import PrnSettings

_NETWORK = "network."


def learnt_tensors(settings: PrnSettings, learnt: Learnt) -> dict[str, np.ndarray]:
    """Return what was learnt as the arrays of a content."""
    state = snapshot(learnt.network)
    arrays = {f"{_NETWORK}{name}": tensor.cpu().numpy() for name, tensor in state.items()}
    return arrays | prototype_tensors(settings, learnt.prototypes)


def prototype_tensors(settings: PrnSettings, prototypes: Sequence[Prototypes]) -> dict[str, np.ndarray]:
    """Return the prototypes of the three scales as arrays."""
    arrays: dict[str, np.ndarray] = {}
    for name, each in zip(settings.layer_names[:SCALES], prototypes, strict=True):
        arrays[f"prototypes.{name}"] = each.maps.numpy()
        arrays[f"counts.{name}"] = each.counts
    arrays["radius"] = np.array([each.radius for each in prototypes], np.float32)
    return arrays


def prototypes_of(settings: PrnSettings, content: TemplateContent) -> list[Prototypes]:
    """Return the prototypes of a content; ``TemplateError`` where there are none, or more than its room."""
    found = []
    missing = {f"prototypes.{name}" for name in settings.layer_names[:SCALES]} - content.tensors.keys()
    if missing:
        raise TemplateError(f"prn: expected tensors {', '.join(sorted(missing))}, found none: calibrate again")
    for scale, name in enumerate(settings.layer_names[:SCALES]):
        maps = torch.from_numpy(content.tensors[f"prototypes.{name}"])
        if maps.shape[0] > content.capacity:
            raise TemplateError(
                f"prn: expected at most {content.capacity} prototypes of {name}, found {maps.shape[0]}: calibrate again"
            )
        counts, radius = content.tensors[f"counts.{name}"], float(content.tensors["radius"][scale])
        found.append(Prototypes(maps, counts, radius, 0.0))
    return found


def network_of(settings: PrnSettings, tensors: Mapping[str, np.ndarray]) -> Network:
    """Return the network of a content in eval mode, norms merged; ``TemplateError`` where it does not fit."""
    with torch.device("meta"):  # no start that would be overwritten at once
        network = Network(settings)
    network = network.to_empty(device="cpu")
    state = {
        name.removeprefix(_NETWORK): torch.from_numpy(array)
        for name, array in tensors.items()
        if name.startswith(_NETWORK)
    }
    try:
        load(network, state)
    except RuntimeError as error:
        raise TemplateError(f"prn: the template's network does not fit its settings: {error}") from error
    network.requires_grad_(requires_grad=False).eval()
    fold(network)
    return network


def bank_of(settings: PrnSettings, content: TemplateContent) -> dict[str, Tensor]:
    """Lay a content out as the graph's inputs, every row of the capacity there.

    For each scale ``prototypes.<layer>`` float32 [K, C, H, W], and ``norms.<layer>`` float32 [K], squared; ``EMPTY``
    where a row holds none.
    """
    tensors = bank_tensors(prototypes_of(settings, content), content.capacity, "cpu")
    names = [f"{kind}.{name}" for name in settings.layer_names[:SCALES] for kind in ("prototypes", "norms")]
    return dict(zip(names, tensors, strict=True))


def inserted(prototypes: Prototypes, tap: Tensor) -> Prototypes:
    """Return the prototypes with one more good frame, its map ``tap`` float32 [C, H, W].

    Within the radius of its nearest prototype it moves that one, which stays the mean of its frames; beyond, it
    becomes a prototype of its own.
    """
    distances = (prototypes.maps - tap).double().square().flatten(1).sum(1).sqrt()
    row = int(distances.argmin())
    counts = prototypes.counts.copy()
    if float(distances[row]) > prototypes.radius:
        maps = torch.cat((prototypes.maps, tap[None]))
        return replace(prototypes, maps=maps, counts=np.append(counts, np.int32(1)))
    counts[row] += 1
    maps = prototypes.maps.clone()
    maps[row] += (tap - maps[row]) / int(counts[row])
    return replace(prototypes, maps=maps, counts=counts)
