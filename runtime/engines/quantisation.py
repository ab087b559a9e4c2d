"""Convolutions in 8 bits: scales from the golden frames, rounding written into the program.

Weights are rounded per output channel, symmetrically (int8); what a convolution reads is rounded per tensor between the
least and largest value seen (uint8). Every rounding is an operation of the program, followed by its inverse, so the
eager program computes what the engine will; AOTInductor merges them into oneDNN's 8-bit convolutions, and with the
rounding of the next one. Everything that is no convolution keeps its float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed as _decomposed  # registers quantized_decomposed
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from runtime.engines.precision import CONVOLUTIONS, is_float32
from runtime.errors import EngineError

#: Part of every 8-bit engine's key: raised when scales or roundings are chosen otherwise.
VERSION = "1"
_LEVELS = 255
_WEIGHT_LEVELS = 127
#: Convolutions whose sums run over fewer input channels stay in float32. Depthwise ones (1 channel) have a span of
#: their own in every channel, and one scale for all of them rounds the quiet ones away. EfficientNet-Lite0 with all in
#: 8 bits was off by 1.3 (CPR-faster) and 3.9 (HETMM) of what the gate allows; by 0.4 and 0.6 without depthwise ones and
#: the first layer (3 channels).
LEAST_CHANNELS = 8
#: Least step: of a tensor that is all zeros.
_LEAST = 1e-8
_ops = torch.ops.quantized_decomposed


def quantise(program: ExportedProgram, examples: Sequence[tuple[Tensor, ...]]) -> tuple[ExportedProgram, int]:
    """Return the program with its convolutions in 8 bits, and how many those are.

    ``examples``: inputs of the program, frame and bank; they set the scales. Inputs and outputs keep their dtypes.
    Raises ``EngineError`` where there is no convolution whose weights are constants, or no example.
    """
    if not examples:
        raise EngineError("precision int8: expected golden frames to choose scales from, found none: use fp32 or bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 copies its own tree specs by a deprecated name
        module = program.run_decompositions({}).module()
    if not isinstance(module, GraphModule):
        raise TypeError(f"expected a graph module, found {type(module).__name__}")
    with torch.no_grad():
        count = _rewrite(module, examples)
        if not count:
            raise EngineError(
                f"precision int8: expected convolutions with constant weights over at least {LEAST_CHANNELS} channels, "
                "found none; set worker.precision to fp32"
            )
        return torch.export.export(module, tuple(examples[0])), count


@dataclass(frozen=True)
class _Scale:
    """A uint8 code is value / ``step`` + ``zero``."""

    step: float
    zero: int


def _rewrite(module: GraphModule, examples: Sequence[tuple[Tensor, ...]]) -> int:
    graph = module.graph
    found = [node for node in graph.nodes if node.target in CONVOLUTIONS and is_float32(node)]
    weights: dict[Node, Any] = {node: _constant(module, node.args[1]) for node in found}
    found = [node for node in found if weights[node] is not None and weights[node].shape[1] >= LEAST_CHANNELS]
    scales = _scales(module, {node.args[0] for node in found}, examples)
    codes: dict[Node, Node] = {}
    for number, node in enumerate(found):
        source, weight = node.args[0], weights[node]
        scale = scales[source]
        span = (scale.step, scale.zero, 0, _LEVELS, torch.uint8)
        if source not in codes:
            with graph.inserting_after(source):
                codes[source] = graph.call_function(_ops.quantize_per_tensor.default, (source, *span))
        with graph.inserting_before(node):
            # One for each reader: the compiler merges a rounding's inverse with what reads it.
            read = graph.call_function(_ops.dequantize_per_tensor.default, (codes[source], *span))
            held = [graph.get_attr(name) for name in _hold(module, f"int8_{number}", weight)]
            levels = (0, -_WEIGHT_LEVELS - 1, _WEIGHT_LEVELS, torch.int8)
            kernel = graph.call_function(_ops.dequantize_per_channel.default, (*held, *levels))
        node.args = (read, kernel, *node.args[2:])
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return len(found)


def _hold(module: GraphModule, name: str, weight: Any) -> list[str]:
    """Register a weight float32 [Cout, ...] as int8 codes, steps float32 [Cout] and zeros; return their names."""
    steps = weight.abs().flatten(1).amax(1).clamp_min(_LEAST) / _WEIGHT_LEVELS
    codes = torch.round(weight / steps.view(-1, *[1] * (weight.ndim - 1))).clamp(-_WEIGHT_LEVELS, _WEIGHT_LEVELS)
    parts = {"codes": codes.to(torch.int8), "steps": steps, "zeros": torch.zeros_like(steps, dtype=torch.int64)}
    for part, value in parts.items():
        module.register_buffer(f"{name}_{part}", value)
    return [f"{name}_{part}" for part in parts]


def _constant(module: GraphModule, node: Any) -> Tensor | None:
    """Return the value of a node that depends on nothing but constants, as a padded weight does; else None."""
    if node.op == "get_attr":
        held: Any = module
        for part in str(node.target).split("."):
            held = getattr(held, part)
        return held.detach() if isinstance(held, Tensor) else None
    if node.op != "call_function":
        return None
    sources = {each: _constant(module, each) for each in node.all_input_nodes}
    if any(value is None for value in sources.values()):
        return None
    value = node.target(
        *torch.fx.node.map_arg(node.args, sources.__getitem__),
        **torch.fx.node.map_arg(node.kwargs, sources.__getitem__),
    )
    return value if isinstance(value, Tensor) else None


def _scales(module: GraphModule, sources: set[Any], examples: Sequence[tuple[Tensor, ...]]) -> dict[Any, _Scale]:
    """Return the scale of each source: from the least to the largest value in all examples, zero included.

    Zero has a code of its own, so that padding stays exact.
    """
    watched = _Watched(module, sources)
    for inputs in examples:
        watched.run(*inputs)
    scales = {}
    for node, (least, most) in watched.spans.items():
        step = max((most - least) / _LEVELS, _LEAST)
        scales[node] = _Scale(step, round(-least / step))
    return scales


class _Watched(Interpreter):
    """Runs a graph and notes the span of some nodes' values over all runs: (at most 0, at least 0)."""

    def __init__(self, module: GraphModule, sources: set[Any]) -> None:
        super().__init__(module)
        self.sources = sources
        self.spans: dict[Any, tuple[float, float]] = {}

    def run_node(self, n: Node) -> Any:
        """Evaluate one node."""
        value = super().run_node(n)
        if n in self.sources:
            least, most = self.spans.get(n, (0.0, 0.0))
            self.spans[n] = min(least, float(value.min())), max(most, float(value.max()))
        return value
