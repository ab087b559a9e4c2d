"""Operations that TensorRT's converters refuse, or convert into something else without a word, found before any build.

Every rule was found by converting the operation with torch-tensorrt 2.13 and evaluating the network that came out,
layer by layer, beside eager (docs/tensorrt.md): a graph that passes here still has to pass the parity gate, one that
does not would waste hours or, worse, inspect wrongly. Shapes are taken from the program: they are static.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

_aten = torch.ops.aten
#: TensorRT takes the top of at most so many.
MOST_TOP_K = 3840


@dataclass(frozen=True)
class Finding:
    """One operation. ``is_wrong``: it converts and gives other numbers; else it is refused or splits the engine."""

    operation: str
    node: str
    why: str
    instead: str
    is_wrong: bool

    def __str__(self) -> str:
        verdict = "converts wrongly" if self.is_wrong else "has no engine"
        return f"{self.operation} ({self.node}) {verdict}: {self.why}; write {self.instead} instead"


Rule = Callable[[Node], "tuple[str, str, bool] | None"]


def lint(program: ExportedProgram) -> list[Finding]:
    """Return what in ``program`` TensorRT would refuse or convert wrongly, in the order of the graph; empty: nothing.

    Looks at the program as exported, in-place operations made functional, before any backend's decompositions.
    """
    findings = []
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - its class
            continue
        found = _judge(node)
        if found is not None:
            why, instead, is_wrong = found
            findings.append(Finding(str(node.target), node.name, why, instead, is_wrong))
    return findings


def _judge(node: Node) -> tuple[str, str, bool] | None:
    name = str(node.target).split(".")[1].rstrip("_")
    if name in _NEVER:
        return (*_NEVER[name], False)
    if name in _WRONG:
        return (*_WRONG[name], True)
    rule = _RULES.get(name)
    found = rule(node) if rule else None
    return found or _judge_dtype(node, name)


#: Operation -> (why, instead): whatever its arguments.
_NEVER: Mapping[str, tuple[str, str]] = {
    "_upsample_bilinear2d_aa": ("no converter for antialiased resizing", "two products with fixed matrices"),
    "_upsample_bicubic2d_aa": ("no converter for antialiased resizing", "two products with fixed matrices"),
    "adaptive_max_pool2d": ("no converter", "a max_pool2d of fixed window"),
    "affine_grid_generator": ("no converter", "a grid computed beforehand"),
    "argsort": ("its validator fails on the default axis", "topk"),
    "baddbmm": ("no converter", "bmm and add"),
    "bincount": ("no converter", "comparisons and sums"),
    "bucketize": ("no converter", "comparisons and sums"),
    "col2im": ("no converter for fold", "slices and sums"),
    "cumsum": ("a TensorRT loop, refused by TensorRT-RTX", "a product with a triangle of ones"),
    "erfc": ("no converter", "1 - erf"),
    "erfinv": ("no converter", "a table or a polynomial"),
    "isfinite": ("a product of booleans, which TensorRT refuses", "abs() < 3e38"),
    "kthvalue": ("no converter", "topk and its last value"),
    "median": ("no converter", "topk"),
    "nonzero": ("its size depends on the data: no CUDA graphs", "a mask and where"),
    "quantile": ("no converter", "topk and an interpolation"),
    "searchsorted": ("no converter", "comparisons and sums"),
    "unique": ("no converter", "comparisons"),
}
_WRONG: Mapping[str, tuple[str, str]] = {
    "log_softmax": ("decomposed into log(softmax), minus infinity for small shares", "x - x.logsumexp(-1, True)"),
    "expm1": ("becomes exp - 1: no accuracy near zero", "exp - 1, if that is meant"),
    "log1p": ("becomes log(1 + x): no accuracy near zero", "(1 + x).log(), if that is meant"),
}


def _argument(node: Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _value(node: Any) -> Any:
    return node.meta.get("val") if isinstance(node, Node) else None


def _adaptive_pool(node: Node) -> tuple[str, str, bool] | None:
    source, sizes = _value(node.args[0]), node.args[1]
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)  # type: ignore[arg-type]
    sides = list(source.shape[-len(sizes) :])
    if all(size is None or side % size == 0 for side, size in zip(sides, sizes, strict=True)):
        return None
    return (
        f"{sides} does not divide into {sizes}: one window size and stride are used for all, up to 30 % off",
        "a product with fixed averaging matrices",
        True,
    )


def _divide(node: Node) -> tuple[str, str, bool] | None:
    operands = [_value(each) for each in node.args[:2]]
    if any(isinstance(each, torch.Tensor) and each.dtype.is_floating_point for each in operands):
        return None
    if _argument(node, 2, "rounding_mode", None) is not None:
        return None
    return "integer / integer becomes an integer division", "a division of what was cast to float first", True


def _pool(node: Node) -> tuple[str, str, bool] | None:
    is_max = "max" in str(node.target)
    ceil_mode = _argument(node, 5 if is_max else 4, "ceil_mode", False)
    dilation = _argument(node, 4, "dilation", 1) if is_max else 1
    divisor = None if is_max else _argument(node, 6, "divisor_override", None)
    if not ceil_mode and dilation in (1, [1, 1], (1, 1)) and divisor is None:
        return None
    return "ceil_mode, dilation and divisor_override are refused", "padding and a plain pool", False


def _top(node: Node) -> tuple[str, str, bool] | None:
    source, count = _value(node.args[0]), node.args[1]
    if source is not None and source.ndim < 2:  # noqa: PLR2004 - what TensorRT asks for
        return "TensorRT wants at least two dimensions", "x[None].topk(k)", False
    if isinstance(count, int) and count > MOST_TOP_K:
        return f"k = {count}, TensorRT takes at most {MOST_TOP_K}", "several topk in turn", False
    return None


def _sort(node: Node) -> tuple[str, str, bool] | None:
    source, axis = _value(node.args[0]), _argument(node, 1, "dim", -1)
    if len(node.args) > 1 and isinstance(axis, int) and axis >= 0 and source.shape[axis] <= MOST_TOP_K:
        return None
    return f"a stable sort, the default axis, or more than {MOST_TOP_K} values", "topk, or sort(dim=<positive>)", False


def _extreme_with_index(node: Node) -> tuple[str, str, bool] | None:
    read = [user for user in node.users if user.users]  # values, indices
    if "dim" not in str(node.target) or len(read) < 2:  # noqa: PLR2004 - both
        return None
    return "values and indices of one max or min", "amax and argmax, or topk(1)", False


def _resize(node: Node) -> tuple[str, str, bool] | None:
    factors = _argument(node, len(node.args) - 1, "scale_factors", None)
    if not isinstance(factors, (list, tuple)) or all(float(each).is_integer() for each in factors):
        return None
    return f"a scale of {list(factors)}: TensorRT's rule for coordinates differs", "size=", True


def _cast(node: Node) -> tuple[str, str, bool] | None:
    value = _value(node)
    if isinstance(value, torch.Tensor) and value.dtype in (torch.float64, torch.uint8, torch.int16):
        return f"no cast to {value.dtype}", "float32 or int32", False
    return None


_RULES: Mapping[str, Rule] = {
    "adaptive_avg_pool1d": _adaptive_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "div": _divide,
    "true_divide": _divide,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "topk": _top,
    "sort": _sort,
    "max": _extreme_with_index,
    "min": _extreme_with_index,
    "upsample_bilinear2d": _resize,
    "upsample_nearest2d": _resize,
    "upsample_bicubic2d": _resize,
    "to": _cast,
    "_to_copy": _cast,
}
#: What may read uint8 is a cast alone: TensorRT knows it as the format of an input, not of anything computed.
_MOVES = {
    "permute", "transpose", "t", "slice", "select", "reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze",
    "expand", "flip", "upsample_nearest2d", "cat", "stack", "index", "index_select", "gather", "clone",
}  # fmt: skip


def _judge_dtype(node: Node, name: str) -> tuple[str, str, bool] | None:
    source = _value(node.args[0]) if node.args else None
    if name in _MOVES and isinstance(source, torch.Tensor) and source.dtype == torch.uint8:
        return "uint8 is the format of an input only", ".float() first, then the move", False
    return None
