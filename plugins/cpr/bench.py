"""Measures a CPR detector stage by stage, and beside it every stage as its definition reads.

Everything alternates in one run, because machines are noisy: read the ratios. Weights and bank are random: time depends
on shapes only. Frames are 320 x 320 and need no resizing, as in the paper. A program other than ``edgead`` should have
torch's threads wait asleep (``OMP_WAIT_POLICY=PASSIVE``) before it imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from plugins.backbones import random_backbone
from plugins.cpr import formulations as plain
from plugins.cpr.feb import Foreground
from plugins.cpr.graph import REACH, Branches, Comparison, CprGraph, Features, Learnt
from plugins.cpr.grb import WORDS, log_histograms
from plugins.cpr.lrb import LocalHeads, normalised
from plugins.cpr.retrieval import pack_shifted, pack_tiled
from plugins.cpr.settings import CprSettings, map_shapes
from plugins.resize import PlainResize

Progress = Callable[[int, int, str], None]
Action = Callable[[], Any]

#: What is measured has the paper's shapes, whatever a detector's defaults add: its two layers, ten references compared,
#: no raw features beside the heads'. docs/cpr.md says what the defaults of cpr-faster cost beside that.
PAPER = {"nearest": 10, "raw_share": 0.0}
#: References in the bank, rounds, and our runs in each; the plain forms keep fewer references, of which they compare as
#: many: what a frame costs does not depend on it, and theirs are four times as large.
REFERENCES = 200
PLAIN_REFERENCES = 12
ROUNDS = 5
OURS = 3


@dataclass
class Case:
    """Modules and tensors of one detector with random weights: what the stages are measured on."""

    settings: CprSettings
    graph: CprGraph
    heads: LocalHeads
    centres: Tensor
    bank: tuple[Tensor, ...]
    plain_histograms: Tensor
    plain_maps: Tensor
    plain_local: tuple[Tensor, ...]
    frame: Tensor


def bench_cpr(
    settings: CprSettings, progress: Progress, *, threads: int, quick: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Return {"case", "references", "nearest", "stages": [...], "sum": {...}, "machine"} as plain JSON values.

    Times are medians in milliseconds: per stage ``ours_ms``, ``plain_ms`` and ``ratio`` (plain over ours); ``frame_ms``
    is our whole graph called once, ``frame_bfloat16_ms`` the same with networks and bank in bfloat16, and ``sum`` the
    stages added up. ``largest_difference`` is between the two maps: the
    number format of the bank. ``quick`` takes a small size. On ``device`` "cuda" every stage is waited for; that path
    was never run.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            decided = _settings(settings, quick=quick)
            case, half = (_case(each, quick=quick, device=device) for each in (decided, _narrow(decided)))
            return _measure(case, half, progress, quick=quick)
    finally:
        torch.set_num_threads(before)


def _settings(settings: CprSettings, *, quick: bool) -> CprSettings:
    decided: dict[str, Any] = {"kind": "object", "foreground": "on", "layers": settings.layer_names[: len(REACH)]}
    decided |= PAPER
    if quick:
        decided |= {"image_size": 80, "nearest": 3}
    return settings.model_copy(update=decided)


def _narrow(settings: CprSettings) -> CprSettings:
    return settings.model_copy(update={"network_dtype": "bfloat16", "bank_dtype": "bfloat16"})


def _measure(case: Case, half: Case, progress: Progress, *, quick: bool) -> dict[str, Any]:
    found = _found(case)
    ours, theirs = _ours(case, found), _theirs(case, found)
    ours["frame in bfloat16"] = lambda: half.graph(half.frame, *half.bank)
    rounds = 1 if quick else ROUNDS
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):  # the first round is not kept
        progress(number, rounds + 1, "measuring")
        taken = {f"ours.{name}": _times(action, case.frame, OURS) for name, action in ours.items()}
        taken |= {f"plain.{name}": _times(action, case.frame, 1) for name, action in theirs.items()}
        if number:
            for name, each in taken.items():
                times.setdefault(name, []).extend(each)
    progress(rounds + 1, rounds + 1, "measuring")
    middle = {name: median(each) for name, each in times.items()}
    stages = [_compared(name, middle[f"ours.{name}"], middle[f"plain.{name}"]) for name in theirs if name != "map"]
    total = _compared("sum", *(sum(stage[f"{form}_ms"] for stage in stages) for form in ("ours", "plain")))
    difference = float((ours["frame"]()[0][0] - theirs["map"]()).abs().max())
    return {
        "case": f"{case.settings.backbone}, {case.settings.local_width} channels, {case.settings.image_size} pixels",
        "references": case.bank[0].shape[0],
        "nearest": case.settings.nearest,
        "frame_ms": middle["ours.frame"],
        "frame_bfloat16_ms": middle["ours.frame in bfloat16"],
        "stages": stages,
        "sum": total,
        "largest_difference": difference,
        "bank_bytes": sum(each.nbytes for each in case.bank),
        "machine": _machine(case.frame.device),
    }


def _compared(name: str, ours: float, theirs: float) -> dict[str, Any]:
    return {"stage": name, "ours_ms": ours, "plain_ms": theirs, "ratio": theirs / ours}


@dataclass
class Found:
    """What one frame gives from stage to stage: the input of each that is timed."""

    taps: tuple[Tensor, ...]
    local: tuple[Tensor, ...]
    plain_local: tuple[Tensor, ...]
    histograms: Tensor
    foreground: Tensor
    chosen: Tensor
    distances: list[Tensor]
    large: Tensor
    weighed: Tensor
    smooth: Tensor


def _found(case: Case) -> Found:
    branches, comparison = case.graph.branches, case.graph.comparison
    log_references, empty, maps, *banks = case.bank
    taps = case.graph.features(case.graph.resize(case.frame))
    histograms, foreground, local = branches(taps)
    chosen = comparison.ranked(histograms, log_references, empty)
    distances = comparison.distances(local, banks, chosen)
    large = comparison.enlarged(comparison.fused(distances))
    weighed = large * comparison.weight(foreground, maps, chosen)
    smooth = comparison.finished(weighed)
    return Found(taps, local, case.heads(taps), histograms, foreground, chosen, distances, large, weighed, smooth)


def _ours(case: Case, found: Found) -> dict[str, Action]:
    """Return our stages by name, and the whole graph as "frame"."""
    graph, branches, comparison = case.graph, case.graph.branches, case.graph.comparison
    log_references, empty, maps, *banks = case.bank
    taps, chosen = found.taps, found.chosen
    return {
        "frame": lambda: graph(case.frame, *case.bank),
        "backbone": lambda: graph.features(graph.resize(case.frame)),
        "heads": lambda: branches.local(taps),
        "codebook": lambda: branches.histograms(branches.codebook(taps[0])),
        "ranking": lambda: comparison.ranked(found.histograms, log_references, empty),
        "retrieval": lambda: comparison.distances(found.local, banks, chosen),
        "fusion": lambda: comparison.enlarged(comparison.fused(found.distances)),
        "foreground": lambda: found.large * comparison.weight(found.foreground, maps, chosen),
        "smoothing": lambda: comparison.finished(found.weighed),
        "score": lambda: comparison.score(found.smooth),
    }


def _theirs(case: Case, found: Found) -> dict[str, Action]:
    """Return the stages as they are defined, by the same names, and the map they give as "map"."""
    settings, graph, rows = case.settings, case.graph, found.chosen[0] % PLAIN_REFERENCES
    sigma, kernel, side = settings.blur_sigma, settings.blur_kernel, settings.image_size
    there = case.plain_maps[rows]

    def retrieve() -> list[Tensor]:
        pairs = zip(found.plain_local, case.plain_local, REACH, strict=True)
        return [plain.retrieved(query, bank, rows, reach) for query, bank, reach in pairs]

    def whole() -> Tensor:
        near, far = retrieve()
        large = plain.fused(near, far, side)
        return plain.blurred(plain.weighted(large, found.foreground, there), sigma, kernel)

    return {
        "backbone": lambda: graph.features(graph.resize(case.frame)),
        "heads": lambda: case.heads(found.taps),
        "codebook": lambda: plain.histograms(found.taps[0], case.centres),
        "ranking": lambda: plain.ranked(found.histograms[0], case.plain_histograms, settings.nearest),
        "retrieval": retrieve,
        "fusion": lambda: plain.fused(found.distances[0][0], found.distances[1][0], side),
        "foreground": lambda: plain.weighted(found.large[0], found.foreground, there),
        "smoothing": lambda: plain.blurred(found.weighed[0], sigma, kernel),
        "score": lambda: plain.scored(found.smooth[0], graph.comparison.top),
        "map": whole,
    }


def _case(settings: CprSettings, *, quick: bool, device: str) -> Case:
    """Draw weights, a frame and a bank in which rows repeat every ``PLAIN_REFERENCES`` ones."""
    torch.manual_seed(0)
    copies = 1 if quick else -(-REFERENCES // PLAIN_REFERENCES)
    shapes = map_shapes(settings)
    heads = LocalHeads(tuple(channels for channels, _ in shapes), settings.local_width).eval()
    heads = heads.to(device)
    centres = torch.randn(WORDS, shapes[0][0])
    learnt = Learnt(centres, Foreground(torch.randn(shapes[0][0]) / shapes[0][0], 0.5), heads)
    backbone = random_backbone(settings.backbone, settings.layer_names, 0)
    size = settings.image_size
    branches = Branches(settings, learnt)
    modules = (PlainResize((size, size, 3), size), Features(settings, backbone), branches, Comparison(settings))
    graph = CprGraph(*modules).eval().to(device)
    few = [graph.features(torch.rand(1, 3, size, size, device=device) * 255) for _ in range(PLAIN_REFERENCES)]
    found = [branches(taps) for taps in few]
    counted = torch.cat([each[0] for each in found])
    maps = torch.cat([each[1] for each in found if each[1] is not None]).half()
    pack = pack_tiled if settings.retrieval == "tiled" else pack_shifted
    dtype = getattr(torch, settings.bank_dtype)
    banks = []
    for level, reach in zip(range(len(shapes)), REACH, strict=False):
        rows = torch.cat([normalised(each[2][level]) for each in found]).permute(0, 2, 3, 1).to(dtype)
        packed = pack(rows.cpu(), reach).to(device)
        along = 1 if settings.retrieval == "tiled" else 0
        banks.append(torch.cat([packed] * copies, along))
    plain_local = zip(*(heads(taps) for taps in few), strict=True)
    return Case(
        settings, graph, heads, centres.to(device),
        (
            log_histograms(counted).repeat(copies, 1, 1), torch.zeros(len(few) * copies, device=device),
            maps.repeat(copies, 1, 1), *banks,
        ),
        counted.repeat(copies, 1, 1), maps.float(), tuple(normalised(torch.cat(each)) for each in plain_local),
        torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8, device=device),
    )  # fmt: skip


def _times(action: Action, frame: Tensor, count: int) -> list[float]:
    return [_milliseconds(action, frame) for _ in range(count)]


def _milliseconds(action: Action, frame: Tensor) -> float:
    on_gpu = frame.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(frame.device)
    started = time.perf_counter()
    action()
    if on_gpu:
        torch.cuda.synchronize(frame.device)
    return (time.perf_counter() - started) * 1e3


def _machine(device: torch.device) -> dict[str, Any]:
    cpu = device.type == "cpu"
    return {
        "device": str(device) if cpu else torch.cuda.get_device_name(device),
        "capability": torch.backends.cpu.get_cpu_capability() if cpu else str(torch.cuda.get_device_capability(device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
