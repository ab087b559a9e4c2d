"""Saying the same in operations TensorRT has: uint8 becomes float before it is moved, fixed resizing becomes products.

Other backends keep the program as it is. A cast of uint8 to float32 is exact, so moves commute with it; an antialiased
resize is linear and separable, and its matrices are read off torch's own operator, so only the order of its sums
changes.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

_aten = torch.ops.aten
#: Operations that only move values: what they do to float32 they do to uint8.
_MOVES = {
    _aten.permute.default, _aten.transpose.int, _aten.t.default, _aten.view.default, _aten.reshape.default,
    _aten._unsafe_view.default, _aten.unsqueeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.slice.Tensor,  # noqa: SLF001
    _aten.select.int, _aten.expand.default, _aten.flip.default, _aten.index_select.default, _aten.index.Tensor,
    _aten.clone.default, _aten.alias.default, _aten.flatten.using_ints,
}  # fmt: skip
_CASTS = {_aten._to_copy.default, _aten.to.dtype}  # noqa: SLF001 - the operations' names
_ANTIALIASED = {
    _aten._upsample_bilinear2d_aa.default: "bilinear",  # noqa: SLF001
    _aten._upsample_bilinear2d_aa.vec: "bilinear",  # noqa: SLF001
    _aten._upsample_bicubic2d_aa.default: "bicubic",  # noqa: SLF001
    _aten._upsample_bicubic2d_aa.vec: "bicubic",  # noqa: SLF001
}


def fit(program: ExportedProgram) -> ExportedProgram:
    """Return a program with the same inputs and answers for TensorRT; the program itself where nothing is to be done.

    What cannot be said otherwise stays as it is: ``runtime.engines.lint`` names it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 copies its own tree specs by a deprecated name
        module = program.run_decompositions({}).module(check_guards=False)
    if not isinstance(module, GraphModule):
        return program
    for node in [each for each in module.graph.nodes if each.target == _aten._assert_tensor_metadata.default]:  # noqa: SLF001
        module.graph.erase_node(node)  # torch's own notes of the dtypes before each cast: some are to change
    changed = [_cast_first(module, node) for node in module.graph.nodes if node.op == "placeholder" and _is_uint8(node)]
    changed += [_multiply(module, node, mode) for node in list(module.graph.nodes) if (mode := _resize_of(node))]
    if not any(changed):
        return program
    module.graph.lint()
    module.recompile()
    inputs, _ = program.example_inputs or ((), {})
    with torch.no_grad():
        return torch.export.export(module, tuple(inputs))


def _is_uint8(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.uint8


def _cast_first(module: GraphModule, source: Node) -> bool:
    """Cast an input to float32 at once, if all that is done to it as uint8 is to move and to cast it."""
    waiting, seen = [source], {source}
    while waiting:
        node = waiting.pop()
        for user in node.users:
            if not _is_the_same_in_float(user, node):
                return False
            if user.target in _MOVES and user not in seen:
                seen.add(user)
                waiting.append(user)
    if len(seen) == 1:
        return False  # cast already
    with module.graph.inserting_after(source):
        cast = module.graph.call_function(_aten.to.dtype, (source, torch.float32))
    source.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)
    return True


def _is_the_same_in_float(user: Node, node: Node) -> bool:
    """Tell whether ``user`` only moves what ``node`` holds, or casts it to a format that holds 0..255."""
    others: list[Node] = []
    torch.fx.map_arg((user.args[1:], user.kwargs), others.append)
    if user.op == "output" or node in others:  # as an index or a mask a format has a meaning
        return False
    if user.target in _MOVES:
        return True
    value = _value(user)
    return user.target in _CASTS and value is not None and value.dtype not in (torch.int8, torch.uint8)


def _resize_of(node: Node) -> str | None:
    return _ANTIALIASED.get(node.target) if callable(node.target) else None  # type: ignore[call-overload]


def _multiply(module: GraphModule, node: Node, mode: str) -> bool:
    """Replace an antialiased resize of planes [B, C, H, W] by R X K^T."""
    source, result = _value(node.args[0]), _value(node)
    if source is None or result is None:
        return False
    align = bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("align_corners", False))  # noqa: PLR2004
    names = []
    for axis in (2, 3):
        matrix = resize_matrix(int(source.shape[axis]), int(result.shape[axis]), mode, align_corners=align)
        names.append(f"{node.name}_{'rows' if axis == 2 else 'columns'}")  # noqa: PLR2004
        module.register_buffer(names[-1], matrix if axis == 2 else matrix.T.contiguous())  # noqa: PLR2004
    graph = module.graph
    with graph.inserting_before(node):
        rows, columns = (graph.get_attr(name) for name in names)
        tall = graph.call_function(_aten.matmul.default, (node.args[0], columns))
        both = graph.call_function(_aten.matmul.default, (rows, tall))
    node.replace_all_uses_with(both)
    graph.erase_node(node)
    return True


def _value(node: Any) -> Tensor | None:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def resize_matrix(source: int, target: int, mode: str, *, align_corners: bool = False) -> Tensor:
    """Return R, float32 [target, source], such that R x is an axis x resized with antialiasing, as torch does it."""
    # All of an image, not a column of it: torch 2.13 resizes images one pixel wide wrongly (its rows repeat the first).
    corner = torch.eye(source, dtype=torch.float64)[None, None]
    resized = torch.nn.functional.interpolate(
        corner, size=(source, target), mode=mode, align_corners=align_corners, antialias=True
    )
    return resized[0, 0].T.float().contiguous()
