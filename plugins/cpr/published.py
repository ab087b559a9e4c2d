"""Trained local heads as the authors publish them: a state dict whose names begin with ``lrb.conv.`` (section 4).

Read strictly: a head with a missing or foreign tensor, or of another width, is refused. What else the file holds (their
frozen backbone) is not read; that one comes from its own pinned file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from edgead import WeightsError
from plugins.backbones.checkpoint import read
from plugins.cpr.lrb import LocalHeads

#: scale, number in their sequence, the rest; theirs has no name of its own for ``layers``.
_NAME = re.compile(r"(?:module\.)?lrb\.conv\.(\d+)\.(.+)")
_COUNTER = "num_batches_tracked"


def load_heads(path: Path, channels: tuple[int, ...], width: int) -> LocalHeads:
    """Return the heads of a published checkpoint in eval mode, float32.

    Raises ``WeightsError`` for a file that is missing, is none, or was trained for other channels or another width.
    """
    if not path.is_file():
        raise WeightsError(f"head_file: expected a checkpoint at {path}, found none: give its path")
    return heads_of(read(path), channels, width, str(path))


def heads_of(published: Mapping[str, Tensor], channels: tuple[int, ...], width: int, origin: str) -> LocalHeads:
    """Return heads filled with published tensors; ``origin`` names them in errors. See ``load_heads``."""
    heads = LocalHeads(channels, width)
    given = {
        f"{match[1]}.layers.{match[2]}": tensor
        for name, tensor in published.items()
        if (match := _NAME.fullmatch(name)) and not name.endswith(_COUNTER)
    }
    needed = {name: tensor for name, tensor in heads.state_dict().items() if not name.endswith(_COUNTER)}
    faults = [f"{name} is foreign" for name in sorted(given.keys() - needed.keys())]
    for name, tensor in needed.items():
        found = tuple(given[name].shape) if name in given else None
        if found != tuple(tensor.shape):
            faults.append(f"{name}: expected {tuple(tensor.shape)}, found {found}")
    if faults:
        raise WeightsError(
            f"{origin}: expected local heads lrb.conv.0 to .{len(channels) - 1}, {channels} channels to width {width}, "
            f"found: {'; '.join(faults[:3])} ({len(faults)} in all): set backbone and local_width to those of the file"
        )
    heads.load_state_dict({name: tensor.float() for name, tensor in given.items()}, strict=False)
    return heads.requires_grad_(requires_grad=False).eval()
