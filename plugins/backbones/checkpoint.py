"""From a published state dict into a trunk: by key, only what the trunk has, every shape checked."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgead import WeightsError
from plugins.backbones.layers import Conv, Norm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The distributed DenseNet file spells the parts of a dense layer "norm.1"; torchvision and timm both say "norm1".
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
# What torch.load was seen to raise on cut, flipped and foreign files.
_UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
# Not a tensor of the function, and older files do not have it.
_COUNTER = "num_batches_tracked"


def read(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a published file; tensors of the newer (zip) format stay on disk until used.

    ``WeightsError`` when it is not a state dict: nothing but tensors is ever unpickled.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [""])[0]  # torch adds a page of advice to load it unsafely
        raise WeightsError(f"{path}: expected a torch state dict, found {type(error).__name__}: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: expected a state dict of tensors, found {type(content).__name__}")
    return content


def keys_of(trunk: nn.Module) -> dict[str, tuple[str, torch.Size]]:
    """List what an unfolded trunk needs: own tensor name -> (published key, shape)."""
    needed: dict[str, tuple[str, torch.Size]] = {}
    for where, part in trunk.named_modules():
        if isinstance(part, Conv | Norm):
            for name, value in part.state_dict().items():
                if name != _COUNTER:
                    needed[f"{where}.{name}"] = (f"{part.key}.{name}", value.shape)
    return needed


def fill(trunk: nn.Module, published: Mapping[str, Tensor], origin: str) -> None:
    """Give the trunk (built on the meta device) the published tensors it needs, copied, as float32.

    ``origin`` names the source in errors. ``WeightsError`` names every key that is absent or has another shape.
    """
    respelt = {_DENSE.sub(r"\1\2.", key): key for key in published}
    tensors: dict[str, Tensor] = {}
    faults: list[str] = []
    for own, (key, shape) in keys_of(trunk).items():
        found = published[respelt[key]] if key in respelt else None
        if found is None or found.shape != shape:
            faults.append(f"{key}: expected {tuple(shape)}, found {None if found is None else tuple(found.shape)}")
        else:
            # Copied, because a mapped file that is replaced on disk would pull the tensors away (SIGBUS);
            # converted, because the published wide ResNet files store half precision.
            tensors[own] = found.to(torch.float32, copy=True)
    if faults:
        raise WeightsError(f"{origin} is not the file of this backbone: {'; '.join(faults[:3])} ({len(faults)} in all)")
    _assign(trunk, tensors)


def randomise(trunk: nn.Module, seed: int) -> None:
    """Give the trunk (built on the meta device) weights drawn from ``seed``: He-scaled, norms close to the identity."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for own, (key, shape) in keys_of(trunk).items():
        drawn = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            tensors[own] = drawn * (2 / shape[1:].numel()) ** 0.5
        elif key.endswith((".running_mean", ".bias")):
            tensors[own] = drawn * 0.1
        else:  # running variance and gain of a norm
            tensors[own] = 1 + 0.1 * drawn.clamp(-3, 3)
    _assign(trunk, tensors)


def _assign(trunk: nn.Module, tensors: dict[str, Tensor]) -> None:
    counters = {own: torch.zeros((), dtype=torch.int64) for own in trunk.state_dict() if own.endswith(_COUNTER)}
    trunk.load_state_dict(tensors | counters, strict=True, assign=True)
    trunk.requires_grad_(requires_grad=False)
