"""MSPBA's arithmetic from its definition, in float64 numpy, patch by patch and pixel by pixel.

Shares no code with plugins.mspba. Arrays are channels first, [C, H, W], unless a docstring says otherwise.
"""

from __future__ import annotations

import math

import numpy as np


def spread(scores, size, side, step):
    """Return the map of [grid, grid] patch scores: every pixel the mean over the patches that cover it, else 0."""
    total, count = np.zeros((size, size)), np.zeros((size, size))
    for i, row in enumerate(scores):
        for j, score in enumerate(row):
            total[i * step : i * step + side, j * step : j * step + side] += score
            count[i * step : i * step + side, j * step : j * step + side] += 1
    return np.where(count > 0, total / np.maximum(count, 1), 0.0)


def nearest(queries, rows):
    """Return the Euclidean distance of each query [n, D] to its nearest row [M, D]."""
    return np.array([min(math.dist(query, row) for row in rows) for query in queries.astype(float)])


def convolve(x, weight, bias):
    """Convolve [C, H, W] without padding."""
    side = weight.shape[2]
    height, width = x.shape[1] - side + 1, x.shape[2] - side + 1
    out = np.zeros((weight.shape[0], height, width))
    for y in range(side):
        for z in range(side):
            out += np.einsum("oc,chw->ohw", weight[:, :, y, z].astype(float), x[:, y : y + height, z : z + width])
    return out + bias.astype(float)[:, None, None]


def leaky(x):
    """Return max(x, x / 10)."""
    return np.where(x > 0, x, 0.1 * x)


def head(state, window):
    """Embed one patch's window [C, n, n] with a head's arrays (``0.weight``, ``0.bias``, ``2.weight``, ...): [D]."""
    x, places = window.astype(float), sorted({int(name.split(".")[0]) for name in state})
    for place in places:
        x = convolve(x, state[f"{place}.weight"], state[f"{place}.bias"])
        x = leaky(x) if place != places[-1] else np.tanh(x)
    return x[:, 0, 0]


def classify(state, first, second, *, fixed_last):
    """Return the 12 logits of two embeddings [D]."""
    x = first.astype(float) - second.astype(float)
    for place in (0, 2, 4):
        x = leaky(state[f"hidden.{place}.weight"].astype(float) @ x + state[f"hidden.{place}.bias"])
    weight = state["last.weight"].astype(float)
    if fixed_last:
        weight = weight / np.sqrt((weight**2).sum(0, keepdims=True))
    return weight @ x + state["last.bias"]


def position_loss(logits, directions):
    """Return the mean cross-entropy of [B, 12]."""
    return np.mean([math.log(np.exp(row).sum()) - row[d] for row, d in zip(logits, directions, strict=True)])


def cosine(a, b):
    """Return the cosine of two vectors."""
    return a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b))


def similarity_loss(anchor, near, far):
    """Return mean ||a - n|| + mean(-cos(a, n) + cos(a, f)) of [B, D] each."""
    triplets = list(zip(anchor.astype(float), near.astype(float), far.astype(float), strict=True))
    distance = np.mean([math.dist(a, n) for a, n, _ in triplets])
    return distance + np.mean([-cosine(a, n) + cosine(a, f) for a, n, f in triplets])


def offset(side, direction, down, across):
    """Return a position pair's offset, halves rounded to even."""
    cosines = [
        1,
        math.sqrt(3) / 2,
        0.5,
        0,
        -0.5,
        -math.sqrt(3) / 2,
        -1,
        -math.sqrt(3) / 2,
        -0.5,
        0,
        0.5,
        math.sqrt(3) / 2,
    ]
    dy, dx = cosines[direction], cosines[(direction - 3) % 12]
    return round(dy * (down + 3 * side / 4)), round(dx * (across + 3 * side / 4))


def vgg(state, x, last):
    """Run VGG-16's features 0 .. ``last`` on [3, H, W]; ``state``: published names to arrays."""
    plan = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512]
    place, x = 0, x.astype(float)
    for item in plan:
        if item == "pool":
            x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
            x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
            place += 1
        else:
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            x = np.maximum(convolve(padded, state[f"features.{place}.weight"], state[f"features.{place}.bias"]), 0)
            place += 2
        if place - 1 >= last:
            return x
    raise AssertionError(last)


def answer(embeddings, content, size, scales):
    """Return (map, score) of a frame's embeddings [n, D] per scale; ``scales``: (side, step) each."""
    total = np.zeros((size, size))
    for (side, step), weight, each in zip(scales, content["weights"], embeddings, strict=True):
        grid = 1 + (size - side) // step
        found = nearest(each, content[f"rows.{side}"].astype(float)).reshape(grid, grid)
        total += weight * spread(found, size, side, step)
    return total, total.max()
