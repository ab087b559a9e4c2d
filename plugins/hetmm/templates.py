"""What a template keeps of its references' sheets: all of them, or the K that PTS chooses at every pixel.

Sheets come and are kept in the bank's number format, [N, C, H, W] per layer. A selection is made of what is kept, so it
can be made again, and extended, from the template alone.

| tensor | of | in |
|---|---|---|
| ``sheets.<layer>`` [T, C, H, W] | what frames are matched against | bank |
| ``slots.<layer>`` int16 [K, H, W] | the reference each vector came from (PTS) | bank |
| ``sheets.<layer>`` [N, C, H, W] | every reference (PTS) | pool |
| ``centres.<layer>`` int16 [H, W] | how many leading slots are cluster centres (PTS) | pool |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgead import ConfigError
from plugins.hetmm import pts

if TYPE_CHECKING:
    from torch import Tensor

    from edgead import TemplateContent
    from plugins.hetmm.settings import HetmmSettings

#: Slots are kept as int16.
MOST_REFERENCES = 32_767

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Kept:
    """The arrays of a template, its room and number of sheets, and what its statistics say about them."""

    tensors: dict[str, np.ndarray]
    capacity: int
    valid: int
    pool: dict[str, np.ndarray] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)


def keep(settings: HetmmSettings, sheets: Sequence[Tensor], progress: Progress) -> Kept:
    """Keep the sheets of all references, or choose from them."""
    count = sheets[0].shape[0]
    if not _chooses(settings, count):
        room = settings.sheets if settings.templates == "pts" else count + settings.spare
        tensors = {f"sheets.{name}": each.numpy() for name, each in zip(settings.layer_names, sheets, strict=True)}
        return Kept(tensors, max(room, count), count)
    selections = [
        pts.select(each, settings.sheets, rule=settings.hard, cluster=settings.easy, progress=_told(progress, name))
        for name, each in zip(settings.layer_names, sheets, strict=True)
    ]
    return _selected(settings, sheets, selections, clustered=count)


def add(settings: HetmmSettings, content: TemplateContent, added: Sequence[Tensor], progress: Progress) -> Kept:
    """Keep what a template keeps and the sheets of new references, [n, C, H, W] per layer.

    The same bits as ``keep`` on all sheets, except where a selection keeps its clusters (``pts.insert``): then the same
    as choosing again from all sheets around those clusters. Clusters are found anew when enough has changed.
    """
    before = content.pool or content.tensors
    old = [torch.from_numpy(before[f"sheets.{name}"]) for name in settings.layer_names]
    sheets = [torch.cat(pair) for pair in zip(old, added, strict=True)]
    count, new = sheets[0].shape[0], added[0].shape[0]
    if not _chooses(settings, count):
        return Kept(keep(settings, sheets, progress).tensors, max(content.capacity, count), count)
    clustered = int(content.statistics["clustered"]) if content.pool else 0
    if not content.pool or pts.cluster_needed(clustered, count, settings.sheets):
        return keep(settings, sheets, progress)
    selections = []
    for name, each in zip(settings.layer_names, sheets, strict=True):
        slots = torch.from_numpy(content.tensors[f"slots.{name}"])
        centres = torch.from_numpy(content.pool[f"centres.{name}"])
        present = pts.restore(each[: count - new], slots, centres, rule=settings.hard)
        selections.append(pts.insert(each, present, new, rule=settings.hard, progress=_told(progress, name)))
    return _selected(settings, sheets, selections, clustered=clustered)


def _chooses(settings: HetmmSettings, count: int) -> bool:
    """Tell whether PTS has anything to choose; no more references than sheets are all kept (section 10, 4)."""
    if settings.templates == "all" or count <= settings.sheets:
        return False
    if count > MOST_REFERENCES:
        raise ConfigError(f"hetmm: expected at most {MOST_REFERENCES} references for templates=pts, found {count}")
    return True


def _selected(
    settings: HetmmSettings, sheets: Sequence[Tensor], selections: Sequence[pts.Selection], *, clustered: int
) -> Kept:
    tensors: dict[str, np.ndarray] = {}
    pool: dict[str, np.ndarray] = {}
    for name, each, selection in zip(settings.layer_names, sheets, selections, strict=True):
        tensors[f"sheets.{name}"] = pts.gather(each, selection.slots).numpy()
        tensors[f"slots.{name}"] = selection.slots.to(torch.int16).numpy()
        pool[f"sheets.{name}"] = each.numpy()
        pool[f"centres.{name}"] = selection.centres.numpy()
    statistics = {"clustered": clustered, "centres": [_mean(each.centres) for each in selections]}
    return Kept(tensors, settings.sheets, settings.sheets, pool, statistics)


def _mean(centres: Tensor) -> float:
    return round(float(centres.double().mean()), 3)


def _told(progress: Progress, layer: str) -> Progress:
    return lambda done, total, what: progress(done, total, f"{what}, {layer}")
