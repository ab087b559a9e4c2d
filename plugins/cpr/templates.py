"""What a template keeps of its references, and how it becomes the bank of the graph.

| tensor of the content | is |
|---|---|
| ``codebook.centres`` float32 [12, C1] | the words |
| ``foreground.weight`` float32 [C1], ``foreground.bias`` float32 [1] | the foreground map, if it is on |
| ``head.<layer>.*`` float32 | the trained local heads that are used, as ``LocalHead`` has them |
| ``histograms`` float32 [N, 25, bins] | every reference's words by block |
| ``foreground.maps`` float16 [N, H1, W1] | every reference's foreground, if it is on |
| ``local.<layer>`` float16 or float32 [N, H, W, D] | every reference's local features, norm 1 over D |

With a head and a ``raw_share`` the backbone's own channels come first in D, then the head's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgead import TemplateError
from plugins.cpr.feb import Foreground
from plugins.cpr.graph import REACH, Branches, Learnt
from plugins.cpr.grb import EMPTY, log_histograms
from plugins.cpr.lrb import LocalHeads, normalised
from plugins.cpr.retrieval import pack_shifted, pack_tiled
from plugins.cpr.settings import map_shapes

if TYPE_CHECKING:
    from edgead import TemplateContent
    from plugins.cpr.learning import Encoded
    from plugins.cpr.settings import CprSettings

_COUNTER = "num_batches_tracked"  # int64, and nothing depends on it


def learnt_tensors(settings: CprSettings, learnt: Learnt) -> dict[str, np.ndarray]:
    """Return what was learnt as the arrays of a content."""
    arrays = {"codebook.centres": learnt.centres.numpy()}
    if learnt.foreground is not None:
        arrays["foreground.weight"] = learnt.foreground.weight.cpu().numpy()
        arrays["foreground.bias"] = np.array([learnt.foreground.bias], np.float32)
    for name, head, share in zip(settings.layer_names, learnt.heads or (), settings.raw_shares, strict=False):
        if share == 1:
            continue
        state = head.state_dict().items()
        arrays |= {f"head.{name}.{key}": each.cpu().numpy() for key, each in state if not key.endswith(_COUNTER)}
    return arrays


def learnt_of(settings: CprSettings, tensors: Mapping[str, np.ndarray]) -> Learnt:
    """Return what was learnt from the arrays of a content; ``TemplateError`` where heads do not fit the settings."""
    foreground = None
    if settings.foreground == "on":
        weight = torch.from_numpy(tensors["foreground.weight"])
        foreground = Foreground(weight, float(tensors["foreground.bias"][0]))
    heads = None
    if any(name.startswith("head.") for name in tensors):
        channels = tuple(channels for channels, _ in map_shapes(settings))
        straight = any(name.startswith("head.") and name.endswith(".shortcut.weight") for name in tensors)
        heads = LocalHeads(channels, settings.local_width, shortcut=straight)
        for name, head, share in zip(settings.layer_names, heads, settings.raw_shares, strict=True):
            start = f"head.{name}."
            if share == 1:
                continue
            state = {
                key.removeprefix(start): torch.from_numpy(tensors[key]) for key in tensors if key.startswith(start)
            }
            counters = {key: each for key, each in head.state_dict().items() if key.endswith(_COUNTER)}
            try:
                head.load_state_dict(state | counters)
            except RuntimeError as error:
                raise TemplateError(f"cpr: the template's head of {name} does not fit its settings: {error}") from error
        heads.requires_grad_(requires_grad=False).eval()
    return Learnt(torch.from_numpy(tensors["codebook.centres"]), foreground, heads)


def encode(settings: CprSettings, branches: Branches, encoded: Encoded) -> dict[str, np.ndarray]:
    """Return what a template keeps of every reference; one at a time, so that a later one gets the same bits."""
    local_dtype = np.float32 if settings.bank_dtype == "float32" else np.float16
    arrays: dict[str, np.ndarray] = {}

    def put(name: str, number: int, value: Tensor, dtype: Any) -> None:
        if name not in arrays:
            arrays[name] = np.empty((len(encoded), *value.shape), dtype)
        arrays[name][number] = value.cpu().numpy()

    for number, taps in enumerate(encoded.maps("encoding references")):
        histograms, foreground, local = branches(taps)
        put("histograms", number, histograms[0], np.float32)
        if foreground is not None:
            put("foreground.maps", number, foreground[0], np.float16)
        for name, each in zip(settings.layer_names, local, strict=True):
            put(f"local.{name}", number, normalised(each)[0].permute(1, 2, 0), local_dtype)
    return arrays


def reference_names(settings: CprSettings) -> list[str]:
    """Return the names of the arrays that have a row for each reference, in the order of the bank."""
    maps = ["foreground.maps"] if settings.foreground == "on" else []
    return ["histograms", *maps, *(f"local.{name}" for name in settings.layer_names)]


def bank_of(settings: CprSettings, content: TemplateContent) -> dict[str, Tensor]:
    """Lay a content out as the graph's inputs, every row of the capacity there.

    ``log_histograms`` float32 [N, 25, bins]; ``empty`` float32 [N], 0 where a row holds a reference, else ``EMPTY``;
    ``foreground.maps`` float16 [N, H1, W1], if on; per layer ``local.<layer>`` as the form of the retrieval wants it.
    """
    pack = pack_tiled if settings.retrieval == "tiled" else pack_shifted
    bank: dict[str, Tensor] = {}
    for name in reference_names(settings):
        rows = torch.from_numpy(content.tensors[name])
        if rows.shape[0] != content.valid:
            raise TemplateError(f"cpr: expected {content.valid} rows in {name}, found {rows.shape[0]}: calibrate again")
        room = content.capacity - content.valid
        if room:
            rows = torch.cat((rows, rows.new_zeros((room, *rows.shape[1:]))))
        if name == "histograms":
            bank["log_histograms"] = log_histograms(rows)
            bank["empty"] = torch.full((content.capacity,), EMPTY)
            bank["empty"][: content.valid] = 0
        elif name == "foreground.maps":
            bank[name] = rows
        else:
            packed = pack(rows, REACH[0] if name == f"local.{settings.layer_names[0]}" else REACH[1])
            bank[name] = packed.to(torch.bfloat16) if settings.bank_dtype == "bfloat16" else packed
    return bank
