"""Lowering a program's convolutions to 16 bits; everything else keeps its numbers.

Precision lives in the program, for every backend alike: the casts are part of the graph. Convolutions and what lies
between them (activations, padding, residual sums) take nearly all of a backbone's time and lose little in 16 bits;
norms, cosines, distances, top-k and scores lose what they are for, so they stay float32.
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
#: Operations that stay in 16 bits where all they read is: they choose or clip values, or add two of them.
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
}


def lower(program: ExportedProgram, precision: str) -> ExportedProgram:
    """Return the program with its convolutions in ``precision``; fp32: the program itself.

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
            if source not in down:
                with graph.inserting_after(source):
                    down[source] = graph.call_function(_aten.to.dtype, (source, dtype))
            node.replace_input_with(source, down[source])
        readers = [user for user in node.users if user not in low]
        if readers:
            with graph.inserting_after(node):
                up = graph.call_function(_aten.to.dtype, (node, torch.float32))
            for user in readers:
                user.replace_input_with(node, up)
    graph.lint()
    module.recompile()
    return sum(node.target in CONVOLUTIONS for node in low)


def _lowered(graph: Graph) -> set[Node]:
    """Return the convolutions, and what reads nothing but lowered values and may carry them on."""
    low: set[Node] = set()
    for node in graph.nodes:
        if not is_float32(node):
            continue
        carries = node.target in _CARRIERS and all(each in low for each in node.all_input_nodes)
        if carries or node.target in CONVOLUTIONS:
            low.add(node)
    return low


def is_float32(node: Node) -> bool:
    """Tell whether a node's result is a float32 tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32
