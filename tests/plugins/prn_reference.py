"""PRN's building blocks as their definitions read, slowly, in float64: sums over taps, patches and pixels."""

import math

import numpy as np


def enlarged(maps, side):
    """Bilinear [C, h, h] -> [C, side, side], corner pixels on corners: row i lies at i (h-1)/(side-1)."""
    height = maps.shape[1]
    at = [i * (height - 1) / (side - 1) for i in range(side)]
    out = np.zeros((maps.shape[0], side, side))
    for row, y in enumerate(at):
        for column, x in enumerate(at):
            top, left = min(int(y), height - 1), min(int(x), height - 1)
            bottom, right = min(top + 1, height - 1), min(left + 1, height - 1)
            v, h = y - top, x - left
            out[:, row, column] = (1 - v) * ((1 - h) * maps[:, top, left] + h * maps[:, top, right]) + v * (
                (1 - h) * maps[:, bottom, left] + h * maps[:, bottom, right]
            )
    return out


def convolved(maps, weight, bias, stride=1, groups=1):
    """Return the correlation of [C, H, W] with [O, C / groups, k, k], zeros around it, plus the bias."""
    out_channels, _, kernel, _ = weight.shape
    pad = kernel // 2
    height, width = maps.shape[1:]
    ringed = np.zeros((maps.shape[0], height + 2 * pad, width + 2 * pad))
    ringed[:, pad : pad + height, pad : pad + width] = maps
    rows, columns = (height + 2 * pad - kernel) // stride + 1, (width + 2 * pad - kernel) // stride + 1
    out = np.zeros((out_channels, rows, columns))
    each_in, each_out = maps.shape[0] // groups, out_channels // groups
    for o in range(out_channels):
        first = o // each_out * each_in
        for dy in range(kernel):
            for dx in range(kernel):
                window = ringed[
                    first : first + each_in, dy : dy + stride * rows : stride, dx : dx + stride * columns : stride
                ]
                out[o] += (weight[o, :, dy, dx, None, None] * window).sum(0)
        out[o] += bias[o]
    return out


def normed(maps, state, name, eps=1e-5):
    """Apply a batch norm by its running statistics."""
    mean, var, gain, shift = (
        state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (maps - mean) / np.sqrt(var + eps) * gain + shift


def conv(maps, state, name, stride=1, groups=1):
    """Convolve with the weights of that name."""
    return convolved(maps, state[f"{name}.weight"], state[f"{name}.bias"], stride, groups)


def unit(maps, state, name, activates=True):
    """Convolve, norm and rectify."""
    found = normed(conv(maps, state, f"{name}.conv"), state, f"{name}.norm")
    return np.maximum(found, 0) if activates else found


def fused(maps, state, name):
    """Return the three fused maps: each its own input and two cross terms."""
    x, y, z = maps
    side = x.shape[1]
    return [
        x
        + conv(enlarged(y, side), state, f"{name}.middle_to_fine")
        + conv(enlarged(z, side), state, f"{name}.coarse_to_fine"),
        y
        + conv(x, state, f"{name}.fine_to_middle", 2, len(x))
        + conv(enlarged(z, side // 2), state, f"{name}.coarse_to_middle"),
        z + conv(x, state, f"{name}.fine_to_coarse", 4, len(x)) + conv(y, state, f"{name}.middle_to_coarse", 2, len(y)),
    ]


def attended(maps, patch, projections, linear=False):
    """Attention among patches: loops over patches; ``projections`` (weight, bias) of q, k, v."""
    channels, side, _ = maps.shape
    corners = [(y, x) for y in range(0, side, patch) for x in range(0, side, patch)]
    tokens = [maps[:, y : y + patch, x : x + patch].reshape(-1) for y, x in corners]
    query, key, value = ([weight * token + bias for token in tokens] for weight, bias in projections)
    length = channels * patch * patch
    scale = 1 / length if linear else 1 / math.sqrt(length)
    out = np.zeros_like(maps)
    for (y, x), q in zip(corners, query, strict=True):
        products = np.array([q @ k * scale for k in key])
        shares = np.exp(products - products.max())
        shares /= shares.sum()
        token = sum(share * v for share, v in zip(shares, value, strict=True))
        out[:, y : y + patch, x : x + patch] = token.reshape(channels, patch, patch)
    return out


def attention_block(maps, state, name, linear=False):
    """Four sizes side by side, then the residual block."""
    side = maps.shape[1]
    seen = []
    for number, division in enumerate((1, 2, 4, 8)):
        at = f"{name}.sizes.{number}"
        value = state[f"{at}.value.weight"], state[f"{at}.value.bias"]
        if division == 1:
            length = maps.size
            projections = [(np.zeros(length), np.zeros(length))] * 2 + [value]
        else:
            projections = [(state[f"{at}.{kind}.weight"], state[f"{at}.{kind}.bias"]) for kind in ("query", "key")] + [
                value
            ]
        seen.append(attended(maps, side // division, projections, linear))
    wide = np.concatenate(seen)
    second = unit(unit(wide, state, f"{name}.first"), state, f"{name}.second", activates=False)
    return np.maximum(second + conv(wide, state, f"{name}.shortcut"), 0)


def decoded(maps, deepest, state, name):
    """Climb the U: up, beside the fused map of that scale, twice filtered; then to the frame's size."""
    found = deepest
    for step, skip in enumerate(reversed(maps)):
        up = unit(enlarged(found, skip.shape[1]), state, f"{name}.up.{step}")
        found = np.concatenate((skip, up))
        found = unit(unit(found, state, f"{name}.merge.{step}.0"), state, f"{name}.merge.{step}.1")
    return conv(unit(enlarged(found, 4 * found.shape[1]), state, f"{name}.last"), state, f"{name}.logit")


def segmented(taps, residuals, state, blocks):
    """Return the logits [1, S, S] of one frame: reduce, fuse, attend, fuse, decode."""
    *maps, deepest = [unit(tap, state, f"reduce_features.{n}", activates=False) for n, tap in enumerate(taps)]
    apart = [unit(each, state, f"reduce_residuals.{n}", activates=False) for n, each in enumerate(residuals)]
    both = [
        np.concatenate(each)
        for each in zip(fused(maps, state, "fuse_features"), fused(apart, state, "fuse_features"), strict=True)
    ]
    for scale in range(3):
        for block in range(blocks):
            both[scale] = attention_block(both[scale], state, f"attention.{scale}.{block}")
    return decoded(fused(both, state, "fuse_again"), deepest, state, "decoder")


def nearest(tap, prototypes):
    """Return the number of the nearest prototype by plain Euclidean distance, the first of equal ones."""
    distances = [math.sqrt(((tap - each) ** 2).sum()) for each in prototypes]
    return distances.index(min(distances))


def loss(probability, mask):
    """Return smooth L1 + 5 focal, pixel by pixel."""
    smooth, focal = [], []
    for p, m in zip(probability, mask, strict=True):
        apart = abs(p - m)
        smooth.append(0.5 * apart**2 if apart < 1 else apart - 0.5)
        onehot = [min(max(each, 1e-5), 1 - 1e-5) for each in (1 - m, m)]
        true = onehot[0] * (1 - p) + onehot[1] * p + 1e-5
        focal.append(-0.5 * (1 - true) ** 4 * math.log(true))
    return sum(smooth) / len(smooth), focal, sum(smooth) / len(smooth) + 5 * sum(focal) / len(focal)


def lloyd(rows, members, count):
    """Plain k-means from given clusters until nobody moves."""
    while True:
        means = np.stack([rows[members == each].mean(0) for each in range(count)])
        moved = ((rows[:, None] - means[None]) ** 2).sum(2).argmin(1)
        if (moved == members).all():
            return members
        members = moved
