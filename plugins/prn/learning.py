"""From good frames to everything that is learnt: the kind of product, prototypes, the network, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgead import ConfigError, Frame, MaskedFrame
from plugins.prn.features import BATCH, Features, encode, resized
from plugins.prn.foreground import Foregrounds, find_foregrounds
from plugins.prn.left_out import Compared
from plugins.prn.prototypes import Prototypes, count_of, learn_prototypes, squared_norms
from plugins.prn.settings import SCALES, score_pixels_of
from plugins.training.sparing import spared

if TYPE_CHECKING:
    from edgead import DetectorContext
    from plugins.prn.network import Network
    from plugins.prn.settings import PrnSettings

#: Most references that are clustered, spread evenly over all of them: their maps are in memory together.
MOST_CLUSTERED = 512
#: Sets too small for the shared rule spare every fifth reference, those below this number none.
FEWEST, SPARED_EVERY = 5, 5


@dataclass(frozen=True)
class GoodFrames:
    """The good frames, and what is told of them at once.

    ``images``: all references at the working size, uint8; ``usable``, ``unseen``: numbers of those that are learnt from
    and of those that nothing sees. ``foregrounds`` bool [N, S, S] or None. ``settings`` are resolved.
    """

    settings: PrnSettings
    images: Sequence[np.ndarray]
    usable: Sequence[int]
    unseen: Sequence[int]
    foregrounds: np.ndarray | None


@dataclass(frozen=True)
class Prepared:
    """What the network is trained on; ``bank``: prototypes and squared norms of each scale, on the context's device."""

    good: GoodFrames
    features: Features
    bank: tuple[Compared, ...]


@dataclass(frozen=True)
class Learnt:
    """All that was learnt: prototypes of the three scales, on the CPU, and the network in eval mode."""

    prototypes: tuple[Prototypes, ...]
    network: Network


def learn(
    settings: PrnSettings, references: Sequence[Frame], features: Features, context: DetectorContext
) -> tuple[PrnSettings, Learnt, dict[str, Any]]:
    """Return the settings with every "auto" decided, what was learnt, and statistics (JSON).

    Raises ``ConfigError`` for what training or synthetic defects cannot do.
    """
    from plugins.prn.training import train_network

    good, found = _good(settings, references, context)
    settings = good.settings
    prototypes, members = _prototypes(good, features, context)
    bank = tuple(Compared.of(each, own, context.device) for each, own in zip(prototypes, members, strict=True))
    network, trained = train_network(Prepared(good, features, bank), context)
    statistics = {
        "references": len(good.images),
        "defects": len(context.defects),
        "unseen": good.unseen,
        "prototypes": [len(each.maps) for each in prototypes],
        "alignment": round(prototypes[0].alignment, 4),
        "training": trained,
    }
    if found is not None:
        shares = {"area": round(found.area, 3), "spread": round(found.spread, 3)}
        statistics["foreground"] = {**shares, "reason": found.reason}
    return settings, Learnt(tuple(prototypes), network), statistics


def training_pictures(
    settings: PrnSettings, references: Sequence[Frame], context: DetectorContext, count: int
) -> list[MaskedFrame]:
    """Return the first ``count`` pictures that the network is trained on, each named for what was planted there."""
    from plugins.prn.training import planned

    _, pictures = planned(_good(settings, references, context)[0], context)
    drawn = [pictures.draw(number) for number in range(count)]
    return [MaskedFrame(Frame(each.image, each.kind), each.mask) for each in drawn]


def _good(
    settings: PrnSettings, references: Sequence[Frame], context: DetectorContext
) -> tuple[GoodFrames, Foregrounds | None]:
    """Read the references and decide every "auto"; return them, and how the foregrounds were told."""
    if not references:
        raise ConfigError("prn: expected at least one good frame, found none")
    images = _resized(references, settings.image_size, context)
    unseen = spare(len(images))
    usable = sorted(set(range(len(images))) - set(unseen))
    found = None if settings.kind == "texture" else find_foregrounds(images)
    settings = _decided(settings, found)
    masks = found.masks if found is not None and settings.kind == "object" else None
    return GoodFrames(settings, images, usable, unseen, masks), found


def spare(count: int) -> list[int]:
    """Return which references nothing sees, neither prototypes nor network: by the shared rule, or every fifth."""
    return spared(count) or (list(range(0, count, SPARED_EVERY)) if count >= FEWEST else [])


def bank_tensors(prototypes: Sequence[Prototypes], capacity: int, device: str) -> tuple[Tensor, ...]:
    """Return prototypes float32 [capacity, C, H, W] and squared norms [capacity] of every scale in turn."""
    bank: list[Tensor] = []
    for each in prototypes:
        room = capacity - each.maps.shape[0]
        padding = each.maps.new_zeros((room, *each.maps.shape[1:]))
        bank += [torch.cat((each.maps, padding)).to(device), squared_norms(each.maps, capacity).to(device)]
    return tuple(bank)


def _resized(references: Sequence[Frame], size: int, context: DetectorContext) -> list[np.ndarray]:
    images = []
    for number in range(len(references)):
        images.append(resized(references[number].image, size))
        context.progress(number + 1, len(references), "reading references")
    return images


def _prototypes(
    good: GoodFrames, features: Features, context: DetectorContext
) -> tuple[list[Prototypes], list[np.ndarray]]:
    """Learn each scale's prototypes, and which one each reference is part of, int [N], -1 = of none."""
    images, usable = good.images, good.usable
    places = np.unique(np.linspace(0, len(usable) - 1, min(len(usable), MOST_CLUSTERED)).round().astype(int))
    chosen = [usable[place] for place in places]
    encoded = []
    for first in range(0, len(chosen), BATCH):
        batch = [images[number] for number in chosen[first : first + BATCH]]
        encoded += [encode([image], features, context.device) for image in batch]
        context.progress(first + len(batch), len(chosen), "encoding references for the prototypes")
    count = count_of(len(usable), good.settings)
    learnt, members = [], []
    for scale in range(SCALES):
        maps = torch.cat([taps[scale] for taps in encoded])
        each, groups = learn_prototypes(maps, min(count, len(chosen)), context.seed)
        learnt.append(Prototypes(each.maps.cpu(), each.counts, each.radius, each.alignment))
        members.append(np.full(len(images), -1))
        members[-1][chosen] = groups
    return learnt, members


def _decided(settings: PrnSettings, found: Foregrounds | None) -> PrnSettings:
    """Decide the kind: "auto" is an object where there are foregrounds; a kind that was named stays."""
    kind = settings.kind
    if kind == "auto":
        kind = "texture" if found is None or found.masks is None else "object"
    return settings.model_copy(update={"kind": kind, "score_pixels": score_pixels_of(settings)})
