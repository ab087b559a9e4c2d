"""Measures matching beside the plain ways to compute the same distances, and the whole detector on EfficientNet-Lite0.

Everything alternates in one run, because machines are noisy: read the ratios. Features are random unit vectors at the
paper's shapes (specification, section 13): the time depends on shapes only. A program other than ``edgead`` should have
torch's threads wait asleep (``OMP_WAIT_POLICY=PASSIVE``) before it imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgead import DetectorContext, Frame
from plugins.hetmm import Hetmm
from plugins.hetmm.formulations import shifted, shifted_in_place, unfolded
from plugins.hetmm.graph import HetmmGraph
from plugins.hetmm.settings import HetmmSettings
from plugins.matching import TILE, MutualMatch, pack

Progress = Callable[[int, int, str], None]
Action = Callable[[], Any]

#: Times each of our forms runs while each of the others runs once.
OURS = 3
#: Sheets the unfolding form is measured on; its time is linear in them, and is scaled.
UNFOLD_SHEETS = 1


@dataclass(frozen=True)
class Layer:
    """A matched layer: a map of ``channels`` x ``side`` x ``side``, half-widths of the windows in feature pixels."""

    channels: int
    side: int
    ahead: int
    back: int

    @property
    def name(self) -> str:
        """Return such as "256 x 64 x 64, windows 13 x 7"."""
        return f"{self.channels} x {self.side} x {self.side}, windows {2 * self.ahead + 1} x {2 * self.back + 1}"


@dataclass(frozen=True)
class Sizes:
    """How much is measured: layers per case, rounds over all forms, side of the peak's matrices, of frames, frames."""

    cases: dict[str, tuple[Layer, ...]]
    rounds: int
    matrix: int
    image: int
    frames: int


#: WideResNet101-2 at 256 x 256 pixels with the widest windows of the paper's table (capsule's), and its narrowest
#: (bottle's).
PAPER = Sizes(
    {
        "wide_resnet101_2, heavy windows": (Layer(256, 64, 6, 3), Layer(512, 32, 4, 2), Layer(1024, 16, 3, 1)),
        "wide_resnet101_2, light windows": (Layer(256, 64, 2, 1), Layer(512, 32, 2, 1), Layer(1024, 16, 3, 1)),
    },
    rounds=3,
    matrix=2048,
    image=256,
    frames=20,
)
#: Shows within seconds that everything runs; its figures mean nothing.
QUICK = Sizes({"quick": (Layer(16, 12, 2, 1), Layer(24, 6, 1, 1))}, rounds=1, matrix=128, image=64, frames=3)


def bench_hetmm(
    progress: Progress, *, threads: int = 2, sheets: int = 60, quick: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Return {"cases": [...], "end_to_end": {...}, "machine": {...}} as plain JSON values; takes some minutes and 2 GB.

    Times are medians in milliseconds. Per layer: ``matching_ms`` and ``matching_float16_ms`` (ours, by number format of
    the bank), ``shifted_ms``, ``shifted_in_place_ms`` and ``unfold_ms`` (``formulations``; the last measured on
    ``unfold_sheets`` sheets and scaled to ``sheets``), what each of them is to ours (``.._ratio``, float32), the
    multiply-adds our products execute and the pairs within the windows need (2 each, ``.._gflop``), the share of the
    machine's matrix-product peak the executed ones reach, and the largest difference between our distances and shifted
    dot products. ``quick`` takes tiny sizes. On ``device`` "cuda" CUDA events are read; that path waits for a machine
    with a GPU to be tried on.
    """
    sizes = QUICK if quick else PAPER
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            return _measure(progress, sizes, sheets, torch.device(device))
    finally:
        torch.set_num_threads(threads_before)


def _measure(progress: Progress, sizes: Sizes, sheets: int, device: torch.device) -> dict[str, Any]:
    total = sum(len(layers) for layers in sizes.cases.values()) + 1
    cases: list[dict[str, Any]] = []
    peaks, done = [], 0
    for name, layers in sizes.cases.items():
        records = []
        for layer in layers:
            progress(done, total, layer.name)
            record, peak = _layer(layer, sizes, sheets, device)
            records.append(record)
            peaks.append(peak)
            done += 1
        cases.append({"case": name, "sheets": sheets, "layers": records, "sum": _sum(records)})
    peak = max(peaks)  # of all moments: what the machine can do when left alone
    for case in cases:
        for record in (*case["layers"], case["sum"]):
            record["share_of_peak"] = record["executed_gflop"] / record["matching_ms"] * 1e3 / peak
    progress(done, total, "whole detector")
    end_to_end = _end_to_end(sizes, sheets, device)
    progress(total, total, "whole detector")
    return {"cases": cases, "end_to_end": end_to_end, "machine": _machine(device, peak)}


def _layer(layer: Layer, sizes: Sizes, sheets: int, device: torch.device) -> tuple[dict[str, Any], float]:
    """Return one layer's figures and the best matrix product seen meanwhile in GFLOP/s."""
    query, bank = (_unit_vectors(count, layer, device) for count in (1, sheets))
    match = MutualMatch(layer.side, layer.side, layer.ahead, layer.back).to(device)
    packed = pack(bank)
    half = packed.half()
    by_pixel, pixels = bank.permute(2, 3, 0, 1).contiguous(), query[0].permute(1, 2, 0).contiguous()
    few = bank[:UNFOLD_SHEETS].clone()
    del bank
    square = torch.rand(sizes.matrix, sizes.matrix, device=device)
    ours: dict[str, Action] = {
        "matching": lambda: match(query, packed),
        "matching_float16": lambda: match(query, half),
    }
    others: dict[str, Action] = {
        "shifted": partial(shifted, pixels, by_pixel, layer.ahead, layer.back),
        "shifted_in_place": partial(shifted_in_place, pixels, by_pixel, layer.ahead, layer.back),
        "unfold": partial(unfolded, query[0], few, layer.ahead, layer.back),
        "peak": lambda: square @ square,
    }
    times = _alternate([*[ours] * OURS, others], sizes.rounds, device)
    times["unfold"] = [each * sheets / len(few) for each in times["unfold"]]
    peak = 2 * sizes.matrix**3 / min(times.pop("peak")) / 1e6
    found, expected = match(query, packed), others["shifted"]()
    record: dict[str, Any] = {"layer": layer.name, "unfold_sheets": len(few)}
    record |= {f"{name}_ms": median(each) for name, each in times.items()}
    record |= _work(layer, match, sheets)
    record["largest_difference"] = max(float((a[0] - b).abs().max()) for a, b in zip(found, expected, strict=True))
    return _compared(record), peak


def _work(layer: Layer, match: MutualMatch, sheets: int) -> dict[str, Any]:
    """Return what one layer computes (GFLOP, 2 per multiply-add) and keeps in memory (bytes)."""
    rows, around = sheets * TILE * TILE, match.halo * match.halo
    tiles, rows_at_once = match.pieces(1, layer.channels, rows)
    count = match.halo_index.shape[0]
    tiles = min(tiles, count)
    return {
        "useful_gflop": 2e-9 * layer.channels * sheets * pairs(layer.side, max(layer.ahead, layer.back)),
        "executed_gflop": 2e-9 * layer.channels * count * rows * around,
        "bank_bytes": 4 * count * rows * layer.channels,
        "bank_float16_bytes": 2 * count * rows * layer.channels,
        "scores_bytes": 4 * tiles * rows_at_once * around,
    }


def pairs(side: int, half: int) -> int:
    """Count a sheet's (query pixel, template pixel) pairs within ``half`` on a ``side`` x ``side`` map (I-19)."""
    half = min(half, side - 1)
    return (side * (2 * half + 1) - half * (half + 1)) ** 2


def _sum(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up the layers' times, work and banks."""
    summed = [name for name in records[0] if name.endswith(("_ms", "_gflop")) or name.startswith("bank")]
    return _compared({name: sum(record[name] for record in records) for name in summed})


def _compared(record: dict[str, Any]) -> dict[str, Any]:
    """Add what the other forms' times are to ours."""
    for name in ("shifted", "shifted_in_place", "unfold"):
        record[f"{name}_ratio"] = record[f"{name}_ms"] / record["matching_ms"]
    return record


def _end_to_end(sizes: Sizes, sheets: int, device: torch.device) -> dict[str, Any]:
    """Inspect frames of noise with EfficientNet-Lite0 and a template made of ``sheets`` of them."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (sizes.image, sizes.image, 3), np.uint8) for _ in range(sheets)]
    references = [Frame(image, f"noise {index}") for index, image in enumerate(noise)]
    detector = Hetmm()
    context = DetectorContext(device=str(device))
    content = detector.calibrate(references, HetmmSettings(image_size=sizes.image), context)
    graph = cast("HetmmGraph", detector.graph(content, noise[0].shape).eval().to(device))
    bank = tuple(each.to(device) for each in detector.bank(content).values())
    frame = torch.from_numpy(noise[0])[None].to(device)
    taps = graph.features(graph.resize(frame))
    actions = {
        "frame": lambda: graph(frame, *bank),
        "features": lambda: graph.features(graph.resize(frame)),
        "matching": lambda: graph.matching(taps, bank),
    }
    times = {name: median(each) for name, each in _alternate([actions], sizes.frames, device).items()}
    return {
        "case": f"efficientnet_lite0, {sizes.image} x {sizes.image} pixels",
        "sheets": sheets,
        **{f"{name}_ms": each for name, each in times.items()},
        "fps": 1e3 / times["frame"],
        "bank_bytes": sum(each.nbytes for each in bank),
    }


def _unit_vectors(count: int, layer: Layer, device: torch.device) -> Tensor:
    """Draw float32 [count, C, S, S] of norm 1 over C."""
    drawn = torch.empty((count, layer.channels, layer.side, layer.side), device=device)
    for sheet in drawn:  # sheet by sheet: the whole bank is in memory often enough
        sheet.copy_(functional.normalize(torch.randn(sheet.shape, device=device), dim=0))
    return drawn


def _alternate(turns: Sequence[dict[str, Action]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Run every action once untimed, then the turns in order, ``rounds`` times; return each action's milliseconds."""
    times: dict[str, list[float]] = {name: [] for turn in turns for name in turn}
    for name, action in {name: action for turn in turns for name, action in turn.items()}.items():
        if not name.startswith(("shifted", "unfold")):  # seconds each: the first one is as good as any
            action()
    for _ in range(rounds):
        for turn in turns:
            for name, action in turn.items():
                times[name].append(_milliseconds(action, device))
    return times


def _milliseconds(action: Action, device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        action()
        return (time.perf_counter() - started) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call] # torch's
    torch.cuda.synchronize(device)
    begin.record()
    action()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end))


def _machine(device: torch.device, peak: float) -> dict[str, Any]:
    cpu = device.type == "cpu"
    return {
        "device": str(device) if cpu else torch.cuda.get_device_name(device),
        "capability": torch.backends.cpu.get_cpu_capability() if cpu else str(torch.cuda.get_device_capability(device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matrix_product_gflops": peak,
    }
