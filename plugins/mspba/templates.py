"""What a template keeps of its references, and how it becomes the bank of the graph.

| tensor of the content | is |
|---|---|
| ``heads.*``, ``backbone.*`` float32 | the trained heads, and the backbone where it was trained |
| ``mean_image`` float32 [S, S, 3] | the mean of the references, where it is subtracted |
| ``rows.<side>`` float32 [M, D] | the embeddings kept of a scale |
| ``owners.<side>`` int32 [M] | the number of the reference each came from |
| ``radius`` float32 [3] | how far any embedding of the references is from a kept one, at most |
| ``weights`` float32 [3] | what each scale's map is multiplied with |
| ``room`` int32 [1] | the rows of the bank at each scale, those kept and those free |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgead import TemplateError
from plugins.mspba.coreset import additions, cover
from plugins.mspba.graph import Comparison
from plugins.mspba.nearest import EMPTY, halves_of
from plugins.mspba.settings import SIDES

if TYPE_CHECKING:
    from edgead import DetectorContext, Frame, TemplateContent
    from plugins.mspba.embedding import Encoder, Resizes
    from plugins.mspba.settings import MspbaSettings

#: References whose maps balance the scales.
_BALANCED = 32
#: Number of the random stream of the sample that covers are chosen from.
_SAMPLE = 7


def embed(levels: Tensor, encoder: Encoder, context: DetectorContext) -> list[Tensor]:
    """Return per scale the embeddings of references uint8 [N, C, S, S]: float32 [N, grid^2, D] on the CPU.

    One by one, so that a later one gets the same bits.
    """
    found: list[Tensor] = []
    count = len(levels)
    for number in range(count):
        embeddings = encoder(levels[number].to(context.device, torch.float32)[None])
        if not found:
            found = [torch.empty((count, *each.shape[1:])) for each in embeddings]
        for scale, each in zip(found, embeddings, strict=True):
            scale[number] = each[0].cpu()
        context.progress(number + 1, count, "encoding references")
    return found


def levels_of(references: Sequence[Frame], resize: Resizes, context: DetectorContext) -> Tensor:
    """Return the references resized: uint8 [N, 1 or 3, S, S] on the device, grey ones replicated beside others."""
    found = []
    for number, reference in enumerate(references):
        found.append(resize(reference.image)[0].to(torch.uint8))
        context.progress(number + 1, len(references), "reading references")
    channels = max(each.shape[0] for each in found)
    return torch.stack([each.expand(channels, -1, -1) for each in found])


def mean_image(levels: Tensor) -> np.ndarray:
    """Return the mean over the references, float32 [S, S, 3] of 0..255."""
    total = torch.zeros(levels.shape[1:], dtype=torch.float64, device=levels.device)
    for each in levels:
        total += each
    mean = (total / len(levels)).expand(3, -1, -1).permute(1, 2, 0)
    return mean.to(torch.float32).cpu().numpy().copy()


def bank_tensors(
    settings: MspbaSettings, embeddings: Sequence[Tensor], held: Sequence[int], context: DetectorContext
) -> dict[str, np.ndarray]:
    """Choose the rows kept of all references' embeddings and the scales' weights.

    ``held``: references nothing was trained on; the weights are taken of these, or of a few others, left out.
    """
    arrays: dict[str, np.ndarray] = {}
    radius = []
    for level, (side, each) in enumerate(zip(SIDES, embeddings, strict=True)):
        context.progress(level + 1, len(SIDES), "choosing embeddings")
        flat = each.flatten(0, 1)
        covered = cover(flat, settings.bank_rows, int(np.random.default_rng([context.seed, _SAMPLE]).integers(1 << 31)))
        arrays[f"rows.{side}"] = flat[covered.chosen].numpy()
        arrays[f"owners.{side}"] = (covered.chosen // each.shape[1]).to(torch.int32).numpy()
        radius.append(covered.radius)
    arrays["radius"] = np.array(radius, np.float32)
    arrays["room"] = np.array([used(arrays) + settings.spare_rows], np.int32)
    arrays["weights"] = np.ones(len(SIDES), np.float32)
    if settings.balance and len(embeddings[0]) > 1:
        arrays["weights"] = _balance(settings, embeddings, arrays, held)
    return arrays


def _balance(
    settings: MspbaSettings, embeddings: Sequence[Tensor], arrays: Mapping[str, np.ndarray], held: Sequence[int]
) -> np.ndarray:
    """Return 1 / mean of each scale's map over references left out of the bank, float32 [3], of mean 1 together."""
    count = len(embeddings[0])
    among = list(held) or list(range(count))
    numbers = [among[round(at)] for at in np.linspace(0, len(among) - 1, min(_BALANCED, len(among)))]
    comparison = Comparison(settings)
    means = []
    for number in numbers:
        rows = [part for side in SIDES for part in _rows_without(arrays, side, number)]
        maps = comparison.maps([each[number : number + 1] for each in embeddings], rows)
        means.append([float(each.mean()) for each in maps])
    weights = 1 / np.maximum(np.mean(means, 0), 1e-6)
    return np.asarray(len(weights) * weights / weights.sum(), np.float32)


def _rows_without(arrays: Mapping[str, np.ndarray], side: int, number: int) -> tuple[Tensor, Tensor]:
    """Return a scale's rows and halves with those of one reference void."""
    rows = torch.from_numpy(arrays[f"rows.{side}"])
    return rows, halves_of(rows, torch.from_numpy(arrays[f"owners.{side}"] == number))


def used(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the rows of the scale that keeps most."""
    return max(len(arrays[f"rows.{side}"]) for side in SIDES)


def added(tensors: Mapping[str, np.ndarray], embeddings: Sequence[Tensor], references: int) -> dict[str, np.ndarray]:
    """Return rows and owners with what new references bring: all that lies farther from the bank than its radius.

    ``references``: the number of the first new one. What is there stays where it is: no score can rise.
    """
    arrays: dict[str, np.ndarray] = {}
    for level, (side, each) in enumerate(zip(SIDES, embeddings, strict=True)):
        kept, flat = torch.from_numpy(tensors[f"rows.{side}"]), each.flatten(0, 1)
        chosen = additions(kept, float(tensors["radius"][level]), flat).sort().values
        owners = references + (chosen // each.shape[1]).to(torch.int32).numpy()
        arrays[f"rows.{side}"] = np.concatenate((tensors[f"rows.{side}"], flat[chosen].numpy()))
        arrays[f"owners.{side}"] = np.concatenate((tensors[f"owners.{side}"], owners.astype(np.int32)))
    arrays["room"] = np.maximum(tensors["room"], np.int32(used(arrays)))
    return arrays


def bank_of(content: TemplateContent) -> dict[str, Tensor]:
    """Lay a content out as the graph's inputs, every row there is room for.

    ``weights`` float32 [3]; per side ``rows.<side>`` float32 [room, D] and ``halves.<side>`` float32 [room], ``EMPTY``
    where a row holds nothing.
    """
    bank: dict[str, Tensor] = {"weights": torch.from_numpy(content.tensors["weights"])}
    room, most = int(content.tensors["room"][0]), used(content.tensors)
    if room < most:
        raise TemplateError(f"mspba: expected room for {most} rows of embeddings, found {room}: calibrate again")
    for side in SIDES:
        rows = torch.from_numpy(content.tensors[f"rows.{side}"])
        bank[f"rows.{side}"] = torch.cat((rows, rows.new_zeros((room - rows.shape[0], rows.shape[1]))))
        bank[f"halves.{side}"] = halves_of(bank[f"rows.{side}"], torch.arange(room) >= rows.shape[0])
    return bank


def without(content: TemplateContent, bank: Mapping[str, Tensor], index: int) -> dict[str, Any]:
    """Return the bank with the rows of one reference void."""
    left = dict(bank)
    for side in SIDES:
        halves = bank[f"halves.{side}"].clone()
        gone = torch.from_numpy(content.tensors[f"owners.{side}"] == index)
        halves[: gone.shape[0]][gone.to(halves.device)] += EMPTY
        left[f"halves.{side}"] = halves
    return left
