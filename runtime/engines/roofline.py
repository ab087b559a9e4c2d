"""What a graph must calculate and move, and how fast this machine could: the floor under an engine's time.

Counted are convolutions and matrix products, which no compiler merges with each other: twice their multiplications, and
the bytes of what each reads and writes, once. All else is taken as merged into them. An operation takes at least the
longer of its arithmetic at the peak of a large matrix product and its bytes at the bandwidth of a large copy, both
measured in the same run (Williams, Waterman and Patterson 2009). Caches are faster than the memory the copy is made of:
a graph whose tensors fit into them can beat its floor.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils.flop_counter import flop_registry

#: Side of the matrix products, and bytes of the copy: beyond every cache of the processors this runs on.
_SIDE = 1024
_COPIED = 128 << 20
_REPEATS = 10
_FORMATS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Operation:
    """One convolution or matrix product: ``flop`` multiplications and additions, ``moved`` bytes, number format."""

    flop: float
    moved: float
    precision: str


@dataclass(frozen=True)
class Ceilings:
    """Floating-point (int8: integer) operations a second by number format, and bytes a second."""

    peaks: Mapping[str, float]
    bandwidth: float

    def floor_ms(self, operations: Iterable[Operation]) -> float:
        """Return the least milliseconds of all operations, one after the other."""
        return 1000 * sum(
            max(each.flop / self.peaks[each.precision], each.moved / self.bandwidth) for each in operations
        )

    def as_json(self) -> dict[str, float]:
        """Return plain values, in thousand millions a second."""
        peaks = {f"{name}_gflops": round(value / 1e9, 1) for name, value in self.peaks.items()}
        return {**peaks, "memory_gb_s": round(self.bandwidth / 1e9, 1)}


def operations_of(program: ExportedProgram) -> list[Operation]:
    """Return the convolutions and matrix products of an exported program, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 copies its own tree specs by a deprecated name
        nodes = program.run_decompositions().graph.nodes
    return [_operation(node) for node in nodes if getattr(node.target, "_overloadpacket", None) in flop_registry]


def measure_ceilings(device: str, threads: int) -> Ceilings:
    """Return the best of ten matrix products in each number format and of ten copies, on ``device``.

    ``threads``: CPU threads, which the process keeps from then on. A format the device has no product for is left out.
    """
    torch.set_num_threads(threads)
    peaks = {}
    for precision, multiply in _products(device).items():
        try:
            peaks[precision] = 2 * _SIDE**3 / _best_s(multiply)
        except RuntimeError:  # torch's word for a product that was never written for this device
            continue
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    return Ceilings(peaks, 2 * _COPIED / _best_s(lambda: target.copy_(source)))


def _operation(node: Node) -> Operation:
    read = [source for source in node.all_input_nodes if isinstance(source.meta.get("val"), torch.Tensor)]
    values = [source.meta["val"] for source in read]
    out = node.meta["val"]
    precision = "int8" if _is_rounded(read[0]) else _FORMATS[out.dtype]
    width = {"int8": 1}.get(precision, out.element_size())
    count = flop_registry[node.target._overloadpacket]  # type: ignore[union-attr] # noqa: SLF001 - its only name
    flop = count(*_values(node), out_val=out)
    moved = sum(value.numel() * width for value in values[:2]) + out.numel() * out.element_size()
    return Operation(float(flop), float(moved), precision)


def _values(node: Node) -> tuple[object, ...]:
    """Return an operation's arguments with tensors in the place of nodes, as its counter takes them."""
    return tuple(torch.fx.node.map_arg(node.args, lambda source: source.meta["val"]))


def _is_rounded(node: Node) -> bool:
    return "dequantize" in str(node.target)


def _products(device: str) -> dict[str, Callable[[], object]]:
    def multiply(dtype: torch.dtype) -> Callable[[], object]:
        a, b = (torch.rand((_SIDE, _SIDE), device=device).to(dtype) for _ in range(2))
        return lambda: a @ b

    codes = torch.ones((_SIDE, _SIDE), dtype=torch.int8, device=device)
    halves = {"bf16": torch.bfloat16} | ({"fp16": torch.float16} if device != "cpu" else {})
    return {
        "fp32": multiply(torch.float32),
        **{name: multiply(dtype) for name, dtype in halves.items()},
        "int8": lambda: torch._int_mm(codes, codes),  # noqa: SLF001 - torch has no other product of int8
    }


def _best_s(action: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best
