"""CPR's arithmetic from its definition, in float64 numpy, pixel by pixel where that is what the definition says.

Shares no code with plugins.cpr. Arrays are channels first, [C, H, W], unless a docstring says otherwise.
"""

from __future__ import annotations

import math

import numpy as np


def codes(tap, centres):
    """Return the number of each pixel's nearest centre, [H, W], by squared distance, ties to the lowest."""
    distance = ((tap.astype(float)[None] - centres.astype(float)[:, :, None, None]) ** 2).sum(1)
    return distance.argmin(0)


def histograms(code, words, grid=5):
    """Count words in blocks, [grid^2, bins]; void pixels, at the top and left, fill bin 0."""
    side = code.shape[0]
    block = math.ceil(side / grid)
    void = block * grid - side
    counted = np.zeros((grid * grid, words + 1))
    for y in range(block * grid):
        for x in range(block * grid):
            inside = y >= void and x >= void
            bin_ = 1 + code[y - void, x - void] if inside else 0
            counted[(y // block) * grid + x // block, bin_] += 1 / block**2
    return counted if void else counted[:, 1:]


def distance(query, reference, keep=20):
    """Return the sum of the ``keep`` smallest block divergences, query first, of histograms [blocks, bins]."""
    q, r = query + 1e-8, reference + 1e-8
    return np.sort((q * np.log(q / r)).sum(1))[:keep].sum()


def ranking(query, references, count):
    """Return the ``count`` nearest references' numbers, ascending by distance, then by number."""
    return sorted(range(len(references)), key=lambda n: (distance(query, references[n]), n))[:count]


def unit(local):
    """Divide [D, H, W] by (norm + 1e-8)."""
    local = local.astype(float)
    return local / (np.sqrt((local**2).sum(0)) + 1e-8)


def retrieve(query, references, reach):
    """Return A [H, W]: smallest 1 - cosine over references [K, D, H, W] and offsets inside the map."""
    query, references = unit(query), [unit(each) for each in references]
    _, height, width = query.shape
    found = np.full((height, width), np.inf)
    for y in range(height):
        for x in range(width):
            for reference in references:
                for v in range(max(0, y - reach), min(height, y + reach + 1)):
                    for h in range(max(0, x - reach), min(width, x + reach + 1)):
                        found[y, x] = min(found[y, x], 1 - query[:, y, x] @ reference[:, v, h])
    return found


def enlarge(plane, side):
    """Resize [H, H] bilinearly between half-pixel centres, clamped at the border."""

    def along(values):
        at = np.clip((np.arange(side) + 0.5) * values.shape[0] / side - 0.5, 0, values.shape[0] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, values.shape[0] - 1)
        return values[low] * (1 - (at - low))[:, None] + values[high] * (at - low)[:, None]

    return along(along(plane.astype(float)).T).T


def blur(plane, sigma, size):
    """Gaussian with reflected borders, the edge not repeated."""
    taps = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    taps /= taps.sum()
    reach = size // 2

    def along(values):
        padded = np.pad(values, ((reach, reach), (0, 0)), mode="reflect") if len(values) > 1 else values
        if len(values) == 1:
            return values
        return sum(tap * padded[at : at + len(values)] for at, tap in enumerate(taps))

    return along(along(plane).T).T


def head(state, x):
    """Run one local head on [C, H, W] in eval mode; ``state``: name -> array, as ``LocalHead.state_dict``."""

    def conv(name, values):
        weight = state[f"{name}.weight"].astype(float)
        reach = weight.shape[2] // 2
        padded = np.pad(values, ((0, 0), (reach, reach), (reach, reach)))
        height, width = values.shape[1:]
        out = np.zeros((weight.shape[0], height, width))
        for v in range(weight.shape[2]):
            for h in range(weight.shape[3]):
                out += np.einsum("oc,chw->ohw", weight[:, :, v, h], padded[:, v : v + height, h : h + width])
        bias = state.get(f"{name}.bias")
        return out if bias is None else out + bias.astype(float)[:, None, None]

    def norm(name, values, eps):
        mean, var, gain, bias = (
            state[f"{name}.{part}"].astype(float)[:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (values - mean) / np.sqrt(var + eps) * gain + bias

    def basic(name, values):
        return np.maximum(norm(f"{name}.bn", conv(f"{name}.conv", values), 1e-3), 0)

    def mean_of_inside(values):
        _, height, width = values.shape
        out = np.zeros_like(values)
        for y in range(height):
            for x in range(width):
                out[:, y, x] = values[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean((1, 2))
        return out

    x = x.astype(float)
    stem = np.maximum(norm("layers.1", conv("layers.0", x), 1e-5), 0)
    branches = [
        basic("layers.3.branch0", stem),
        basic("layers.3.branch1.1", basic("layers.3.branch1.0", stem)),
        basic("layers.3.branch2.0", stem),
        basic("layers.3.branch3.1", mean_of_inside(stem)),
    ]
    out = conv("layers.4", np.concatenate(branches))
    return out + conv("shortcut", x) if "shortcut.weight" in state else out


def beside_raw(local, raw, share):
    """Return vectors whose cosines are the two cosines' mean, ``raw``'s weighted with ``share``, [C + D, H, W]."""
    if not share:
        return local
    units = [each / (np.sqrt((each**2).sum(0)) + 1e-8) for each in (raw.astype(float), local)]
    return np.concatenate((np.sqrt(share) * units[0], np.sqrt(1 - share) * units[1]))


def answer(taps, content, side, settings):
    """Return (map [S, S], score, chosen references) for a frame's maps and a content's arrays.

    ``taps``: [C, H, W] per layer. ``settings``: nearest, layers, raw_share, foreground, blur_sigma, blur_kernel,
    score_pixels.
    """
    tensors = content
    counted = histograms(codes(taps[0], tensors["codebook.centres"]), len(tensors["codebook.centres"]))
    chosen = ranking(counted, tensors["histograms"].astype(float), settings["nearest"])
    total = None
    for level in reversed(range(len(taps))):
        name = settings["layers"][level]
        state = {
            key.removeprefix(f"head.{name}."): value
            for key, value in tensors.items()
            if key.startswith(f"head.{name}.")
        }
        share = settings["raw_share"][level]
        local = beside_raw(head(state, taps[level]), taps[level], share) if state else taps[level]
        references = [tensors[f"local.{name}"][n].transpose(2, 0, 1) for n in chosen]
        found = retrieve(local, references, 0 if level else 1)
        total = found if total is None else found + enlarge(total, found.shape[0])
    large = enlarge(total, side)
    if settings["foreground"] == "on":
        weight = tensors["foreground.weight"].astype(float)
        own = np.clip(
            np.einsum("c,chw->hw", weight, taps[0].astype(float)) + float(tensors["foreground.bias"][0]), 0, 1
        )
        maps = [own, *(tensors["foreground.maps"][n].astype(float) for n in chosen)]
        large = large * np.max([enlarge(each, side) for each in maps], axis=0)
    if settings["blur_sigma"]:
        large = blur(large, settings["blur_sigma"], settings["blur_kernel"])
    return large, float(np.sort(large.ravel())[-settings["score_pixels"] :].mean()), chosen
