"""What each TensorRT layer computes, in PyTorch, by TensorRT's documentation: {kind: function(layer, inputs)}.

Said nothing of: kernels, fusion, reduced precision. A kind that is not here, or a use of one that is not, raises
``NotEvaluatedError`` instead of guessing.
"""

import numpy as np
import torch
from torch.nn import functional


class NotEvaluatedError(AssertionError):
    """A layer this evaluation does not know."""


def word(value):
    """Return the last word of one of TensorRT's enumerations: TopKOperation.MAX -> MAX."""
    return str(value).rpartition(".")[2]


def sides(dims):
    """Return dimensions as a tuple, None where they are not set (TensorRT says so with a length of -1)."""
    try:
        return tuple(map(int, tuple(dims)))  # the inner tuple asks for the length, and so raises
    except ValueError:
        return None


def axes_of(mask, rank):
    """Return the axes of a bit mask."""
    return [axis for axis in range(rank) if mask >> axis & 1]


def weights(value, dtype):
    """Return weights as a flat tensor; empty ones are None."""
    array = np.array(value)
    return torch.from_numpy(array.copy()).to(dtype) if array.size else None


def given(inputs, place, other):
    """Return a tensor of numbers given as an input as a list, or the layer's own."""
    found = inputs[place] if len(inputs) > place else None
    return list(other or ()) if found is None else [int(each) for each in found]


def elementwise(layer, inputs):
    """Combine two tensors of one format, whatever their (broadcastable) shapes."""
    left, right = inputs
    if left.dtype != right.dtype:
        raise AssertionError(f"{layer.name}: {left.dtype} with {right.dtype}")
    whole = not left.dtype.is_floating_point
    operations = {
        "SUM": torch.add, "PROD": torch.mul, "SUB": torch.sub, "MAX": torch.maximum, "MIN": torch.minimum,
        "POW": torch.pow, "AND": torch.logical_and, "OR": torch.logical_or, "XOR": torch.logical_xor,
        "EQUAL": torch.eq, "GREATER": torch.gt, "LESS": torch.lt, "FLOOR_DIV": torch.floor_divide,
        "DIV": lambda a, b: torch.div(a, b, rounding_mode="trunc") if whole else a / b,
    }  # fmt: skip
    return operations[word(layer.op)](left, right)


def unary(layer, inputs):
    """Apply a function of one number."""
    named = {"RECIP": torch.reciprocal, "NOT": torch.logical_not}
    name = word(layer.op)
    return (named.get(name) or getattr(torch, name.lower()))(inputs[0])


def activation(layer, inputs):
    """Apply an activation with its two constants."""
    a, b = layer.alpha, layer.beta
    known = {
        "RELU": functional.relu,
        "SIGMOID": torch.sigmoid,
        "TANH": torch.tanh,
        "LEAKY_RELU": lambda x: functional.leaky_relu(x, a),
        "ELU": lambda x: functional.elu(x, a),
        "CLIP": lambda x: x.clamp(a, b),
        "HARD_SIGMOID": lambda x: (a * x + b).clamp(0, 1),
        "GELU_ERF": functional.gelu,
        "GELU_TANH": lambda x: functional.gelu(x, approximate="tanh"),
        "SOFTPLUS": lambda x: a * torch.log1p(torch.exp(b * x)),
    }
    name = word(layer.type)
    if name not in known:
        raise NotEvaluatedError(f"activation {name}")
    return known[name](inputs[0])


def shuffle(layer, inputs):
    """Transpose, reshape, transpose."""
    x = inputs[0]
    first, second = tuple(layer.first_transpose), tuple(layer.second_transpose)
    x = x.permute(first[: x.dim()]) if x.dim() else x
    shape = given(inputs, 1, sides(layer.reshape_dims))
    if shape or (len(inputs) > 1 and inputs[1] is not None) or sides(layer.reshape_dims) == ():
        if layer.zero_is_placeholder:
            shape = [x.shape[axis] if side == 0 else side for axis, side in enumerate(shape)]
        x = x.reshape(shape)
    return x.permute(second[: x.dim()]).contiguous() if x.dim() else x


def cut(layer, inputs):
    """Take a slice; what lies outside the tensor is filled, clamped, reflected or wrapped."""
    x, mode = inputs[0], word(layer.mode)
    start, size, stride = (
        given(inputs, place, sides(value)) for place, value in ((1, layer.start), (2, layer.shape), (3, layer.stride))
    )
    axes = given(inputs, 5, sides(layer.axes)) or list(range(x.dim()))
    outside = torch.zeros((1,) * x.dim(), dtype=torch.bool)
    for place, axis in enumerate(axes):
        length = x.shape[axis]
        at = start[place] + torch.arange(size[place]) * stride[place]
        bad = (at < 0) | (at >= length)
        if bad.any():
            if mode == "STRICT_BOUNDS":
                raise AssertionError(f"{layer.name}: a slice leaves axis {axis} of {length}")
            if mode == "REFLECT":
                at = at.remainder(2 * (length - 1))
                at = torch.where(at >= length, 2 * (length - 1) - at, at)
            elif mode == "WRAP":
                at = at.remainder(length)
            else:
                at = at.clamp(0, length - 1)
                outside = outside | bad.reshape([-1 if each == axis else 1 for each in range(x.dim())])
        x = x.index_select(axis, at)
    if mode == "FILL" and outside.any():
        filling = inputs[4] if len(inputs) > 4 and inputs[4] is not None else torch.zeros((), dtype=x.dtype)
        x = torch.where(outside, filling.to(x.dtype), x)
    return x


def gather(layer, inputs):
    """Take by indices along an axis, or element by element."""
    x, index, mode, axis = inputs[0], inputs[1].long(), word(layer.mode), layer.axis
    if layer.num_elementwise_dims and mode != "ELEMENT":
        raise NotEvaluatedError("gather with elementwise dimensions")
    if mode == "ND":
        return x[tuple(index.unbind(-1))]
    if index.numel() and not (-x.shape[axis] <= int(index.min()) <= int(index.max()) < x.shape[axis]):
        raise AssertionError(f"{layer.name}: an index is out of range")
    index = torch.where(index < 0, index + x.shape[axis], index)
    if mode == "ELEMENT":
        return x.gather(axis, index)
    return x.index_select(axis, index.reshape(-1)).reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


def reduce(layer, inputs):
    """Reduce over axes."""
    x, name = inputs[0], word(layer.op)
    axes = axes_of(layer.axes, x.dim())
    if name == "SUM":
        return x.sum(axes, keepdim=layer.keep_dims, dtype=x.dtype)
    known = {"MAX": x.amax, "MIN": x.amin, "AVG": x.mean}
    if name not in known:
        raise NotEvaluatedError(f"reduce {name}")
    return known[name](axes, keepdim=layer.keep_dims)


def topk(layer, inputs):
    """Take the largest or smallest along one axis; indices are int32."""
    (axis,) = axes_of(layer.axes, inputs[0].dim())
    count = given(inputs, 1, [layer.k])[0]
    values, index = inputs[0].topk(count, axis, largest=word(layer.op) == "MAX")
    return values, index


def matrix_multiply(layer, inputs):
    """Multiply matrices, each transposed or a vector."""
    left, right = inputs
    modes = word(layer.op0), word(layer.op1)
    left = left.unsqueeze(-2) if modes[0] == "VECTOR" else left.mT if modes[0] == "TRANSPOSE" else left
    right = right.unsqueeze(-1) if modes[1] == "VECTOR" else right.mT if modes[1] == "TRANSPOSE" else right
    product = left @ right
    product = product.squeeze(-1) if modes[1] == "VECTOR" else product
    return product.squeeze(-1 if modes[1] == "VECTOR" else -2) if modes[0] == "VECTOR" else product


def kernel(layer, inputs, shape):
    """Return kernel and bias, from inputs or from the layer."""
    dtype = inputs[0].dtype
    weight = inputs[1] if len(inputs) > 1 and inputs[1] is not None else weights(layer.kernel, dtype).reshape(shape)
    bias = inputs[2] if len(inputs) > 2 and inputs[2] is not None else weights(layer.bias, dtype)
    return weight, bias


def convolution(layer, inputs):
    """Convolve, padded on each side as the layer says."""
    x, groups = inputs[0], layer.num_groups
    shape = (layer.num_output_maps, x.shape[1] // groups, *layer.kernel_size_nd)
    weight, bias = kernel(layer, inputs, shape)
    before, after = tuple(layer.pre_padding), tuple(layer.post_padding)
    around = [each for axis in reversed(range(len(before))) for each in (before[axis], after[axis])]
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[len(before) - 1]
    padded = functional.pad(x, around)
    return run(padded, weight, bias, tuple(layer.stride_nd), 0, tuple(layer.dilation_nd), groups)


def deconvolution(layer, inputs):
    """Convolve transposed."""
    x, groups, padding = inputs[0], layer.num_groups, tuple(layer.pre_padding)
    if padding != tuple(layer.post_padding):
        raise NotEvaluatedError("deconvolution padded unevenly")
    weight, bias = kernel(layer, inputs, (x.shape[1], layer.num_output_maps // groups, *layer.kernel_size_nd))
    stride, dilation = tuple(layer.stride_nd), tuple(layer.dilation_nd)
    return functional.conv_transpose2d(x, weight, bias, stride, padding, 0, groups, dilation)


def pooling(layer, inputs):
    """Pool the largest or the mean."""
    padding = tuple(layer.pre_padding)
    if padding != tuple(layer.post_padding) or word(layer.padding_mode) != "EXPLICIT_ROUND_DOWN":
        raise NotEvaluatedError(f"pooling padded {padding} {tuple(layer.post_padding)} {layer.padding_mode}")
    window, stride = tuple(layer.window_size_nd), tuple(layer.stride_nd)
    if word(layer.type) == "MAX":
        return functional.max_pool2d(inputs[0], window, stride, padding)
    counted = not layer.average_count_excludes_padding
    return functional.avg_pool2d(inputs[0], window, stride, padding, count_include_pad=counted)


def resize(layer, inputs):
    """Resize the last two axes."""
    x, mode, rule = inputs[0], word(layer.resize_mode), word(layer.coordinate_transformation)
    factors = [int(side * factor) for side, factor in zip(x.shape, layer.scales or (), strict=False)]
    size = given(inputs, 1, sides(layer.shape)) or factors
    if mode == "NEAREST":
        return _nearest(layer, x, size, rule)
    if rule == "ASYMMETRIC":
        raise NotEvaluatedError("asymmetric interpolation")
    name = {"LINEAR": "bilinear", "CUBIC": "bicubic"}[mode]
    return functional.interpolate(x, size[2:], mode=name, align_corners=rule == "ALIGN_CORNERS")


def _nearest(layer, x, size, rule):
    for axis in range(2, x.dim()):
        source, at = x.shape[axis], torch.arange(size[axis], dtype=torch.float64)
        places = {"ASYMMETRIC": at * source / size[axis], "HALF_PIXEL": (at + 0.5) * source / size[axis] - 0.5}
        rounding = {
            "FLOOR": torch.floor, "CEIL": torch.ceil,
            "HALF_UP": lambda p: torch.floor(p + 0.5), "HALF_DOWN": lambda p: torch.ceil(p - 0.5),
        }[word(layer.nearest_rounding)]  # fmt: skip
        x = x.index_select(axis, rounding(places[rule]).long().clamp(0, source - 1))
    return x


def scale(layer, inputs):
    """Compute (x * scale + shift) ** power, a number or one for each channel."""
    x = inputs[0]
    shape = [1] * x.dim()
    if word(layer.mode) == "CHANNEL":
        shape[layer.channel_axis] = -1
    factor, shift, power = (weights(each, x.dtype) for each in (layer.scale, layer.shift, layer.power))
    x = x if factor is None else x * factor.reshape(shape)
    x = x if shift is None else x + shift.reshape(shape)
    return x if power is None else x ** power.reshape(shape)


def normalization(layer, inputs):
    """Normalise over axes, in groups."""
    x, gain, bias = inputs
    axes, groups, shape = axes_of(layer.axes, x.dim()), layer.num_groups, x.shape
    if groups > 1:
        x = x.reshape(shape[0], groups, shape[1] // groups, *shape[2:])
        axes = list(range(2, x.dim()))
    variance = x.var(axes, correction=0, keepdim=True)
    x = ((x - x.mean(axes, keepdim=True)) / (variance + layer.epsilon).sqrt()).reshape(shape)
    if groups > 1 and gain.shape[1] == groups:
        gain, bias = (each.repeat_interleave(shape[1] // groups, 1) for each in (gain, bias))
    return x * gain + bias


LAYERS = {
    "ACTIVATION": activation,
    "CONCATENATION": lambda layer, inputs: torch.cat(inputs, layer.axis),
    "CONVOLUTION": convolution,
    "DECONVOLUTION": deconvolution,
    "ELEMENTWISE": elementwise,
    "GATHER": gather,
    "IDENTITY": lambda _, inputs: inputs[0].clone(),
    "MATRIX_MULTIPLY": matrix_multiply,
    "NORMALIZATION": normalization,
    "POOLING": pooling,
    "REDUCE": reduce,
    "RESIZE": resize,
    "SCALE": scale,
    "SELECT": lambda _, inputs: torch.where(*inputs),
    "SHAPE": lambda _, inputs: torch.tensor(inputs[0].shape, dtype=torch.int64),
    "SHUFFLE": shuffle,
    "SLICE": cut,
    "SOFTMAX": lambda layer, inputs: inputs[0].softmax(axes_of(layer.axes, inputs[0].dim())[0]),
    "TOPK": topk,
    "UNARY": unary,
}
