"""Lowering a program's convolutions to 16 bits, and the products that say they bear it; the rest keeps its numbers.

Precision lives in the program, for every backend alike: the casts are part of the graph. Convolutions and what lies
between them (activations, padding, residual sums) take nearly all of a backbone's time and lose little in 16 bits;
norms, cosines, distances, top-k and scores lose what they are for, so they stay float32. A detector that knows a matrix
product of its own to lose nothing that counts writes it under ``torch.fx.traceback.annotate({BEARS_16_BITS: True})``.
"""

from __future__ import annotations

import warnings

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from runtime.errors import EngineError

#: What is tried on which device: half the width in bytes is half the memory traffic, where the hardware has it.
PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16", "fp16")}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_aten = torch.ops.aten
#: Operations that are lowered.
CONVOLUTIONS = {_aten.conv2d.default, _aten.conv2d.padding, _aten.convolution.default}
#: What a detector annotates products with that may be lowered, too: their factors are rounded, and their results.
BEARS_16_BITS = "edgead.bears_16_bits"
_PRODUCTS = {_aten.bmm.default}
_CASTS = {_aten.to.dtype, _aten._to_copy.default}  # noqa: SLF001 - its name
_VIEWS = {
    _aten.view.default,
    _aten.reshape.default,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.slice.Tensor,
    _aten.select.int,
}
#: Operations that stay in 16 bits where all they read is: they choose, clip or move values, or add two of them.
_CARRIERS = {
    _aten.relu.default,
    _aten.relu_.default,
    _aten.relu6.default,
    _aten.hardtanh.default,
    _aten.hardtanh_.default,
    _aten.silu.default,
    _aten.silu_.default,
    _aten.pad.default,
    _aten.constant_pad_nd.default,
    _aten.max_pool2d.default,
    _aten.add.Tensor,
    _aten.add_.Tensor,
    _aten.slice.Tensor,
    _aten.cat.default,
}
#: Operations that do where, besides, whatever reads them rounds to 16 bits.
_MEANS = {_aten.avg_pool2d.default}


def lower(program: ExportedProgram, precision: str) -> ExportedProgram:
    """Return the program with its convolutions and annotated products in ``precision``; fp32: the program itself.

    int8: the program itself, too, because its scales take golden frames (``runtime.engines.quantisation``). Inputs and
    outputs keep their dtypes. Raises ``EngineError`` where there is no convolution to lower.
    """
    if precision in {"fp32", "int8"}:
        return program
    dtype = _DTYPES[precision]
    inputs, _ = program.example_inputs or ((), {})
    # Without in-place operations a cast put behind a node is a copy of what every later reader sees.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 copies its own tree specs by a deprecated name
        module = program.run_decompositions({}).module()
    if not isinstance(module, GraphModule) or not _lower_graph(module, dtype):
        raise EngineError(
            f"precision {precision}: expected convolutions to lower, found none; set worker.precision to fp32"
        )
    with torch.no_grad():
        return torch.export.export(module, tuple(inputs))


def _lower_graph(module: GraphModule, dtype: torch.dtype) -> int:
    """Rewrite in place; return how many convolutions were lowered."""
    graph = module.graph
    low = _lowered(graph)
    down: dict[Node, Node] = {}
    for node in [each for each in graph.nodes if each in low]:
        for source in [each for each in node.all_input_nodes if each not in low]:
            node.replace_input_with(source, _cast(graph, source, dtype, down))
        readers = [user for user in node.users if user not in low]
        if readers:
            with graph.inserting_after(node):
                up = graph.call_function(_aten.to.dtype, (node, torch.float32))
            for user in readers:
                user.replace_input_with(node, up)
    graph.lint()
    module.recompile()
    return sum(node.target in CONVOLUTIONS for node in low)


def _cast(graph: Graph, source: Node, dtype: torch.dtype, down: dict[Node, Node]) -> Node:
    """Return the cast of a float32 value, inserted behind it; ``down``: the casts there are.

    Of a view it is the view of a cast: what is written is laid out, and read, as it was. AOTInductor makes of float16,
    cast to float32 and on to bfloat16, one conversion without vectors (10 ms for a bank of 10 million numbers, as long
    as four copies of it): a bound that every float16 keeps stands between the two.
    """
    if source in down:
        return down[source]
    if source.target in _VIEWS:
        inner = _cast(graph, source.all_input_nodes[0], dtype, down)
        with graph.inserting_after(source):
            down[source] = graph.call_function(source.target, (inner, *source.args[1:]), source.kwargs)
        return down[source]
    value = source
    if dtype == torch.bfloat16 and source.target in _CASTS and _dtype(source.all_input_nodes[0]) == torch.float16:
        with graph.inserting_after(source):
            value = graph.call_function(_aten.clamp_min.default, (source, torch.finfo(torch.float16).min))
    with graph.inserting_after(value):
        down[source] = graph.call_function(_aten.to.dtype, (value, dtype))
    return down[source]


def _lowered(graph: Graph) -> set[Node]:
    """Return convolutions and annotated products, and what reads nothing but lowered values and may carry them on."""
    rounded = _rounded_by_readers(graph)
    low: set[Node] = set()
    for node in graph.nodes:
        if not is_float32(node):
            continue
        carries = node.target in _CARRIERS or (node.target in _MEANS and node in rounded)
        bears = node.target in _PRODUCTS and BEARS_16_BITS in node.meta.get("custom", {})
        if node.target in CONVOLUTIONS or bears or (carries and all(each in low for each in node.all_input_nodes)):
            low.add(node)
    return low


def _rounded_by_readers(graph: Graph) -> set[Node]:
    """Return what reaches nothing but convolutions, by way of operations that move or clip values: rounded anyway."""
    rounded: set[Node] = set()
    passing = _CARRIERS - {_aten.add.Tensor, _aten.add_.Tensor}
    for node in reversed(graph.nodes):
        readers = [user.target in CONVOLUTIONS or (user.target in passing and user in rounded) for user in node.users]
        if readers and all(readers):
            rounded.add(node)
    return rounded


def is_float32(node: Node) -> bool:
    """Tell whether a node's result is a float32 tensor."""
    return _dtype(node) == torch.float32


def _dtype(node: Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, torch.Tensor) else None
