"""`edgead build --precision auto`: build every precision, let the gate decide which may run, and time those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runtime.engines.ahead import wanted
from runtime.engines.build import Built, Progress, build
from runtime.engines.choice import choose
from runtime.engines.settings import EngineSettings
from runtime.engines.timing import take_turns
from runtime.errors import EngineError
from runtime.registry import Registry
from runtime.station.config import Station

#: What is tried on which device: half the width in bytes is half the memory traffic, where the hardware has it.
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}
#: Frames each engine answers.
ROUNDS = 40
#: A narrower format is taken only if it takes at most this share of fp32's time: less is not worth its rounding.
WORTH = 0.95


def fastest_precision(
    station: Station, registry: Registry, wish: EngineSettings, progress: Progress, camera: str | None = None
) -> tuple[str, list[Built], list[dict[str, Any]]]:
    """Return the precision that suits every template of the station, its engines, and what was found of each.

    A finding: {"detector", "precision", "passed", "p50_ms", "note"}. A precision that the gate refuses for one template
    is out for the station, whose file names one for all; of the rest the one with the least total median wins. Raises
    ``EngineError`` where none is left.
    """
    device, found = station.worker.device, []
    pairs, cache = list(wanted(station, registry, camera)), wish.cache()
    built: dict[str, list[Built]] = {}
    for precision in PRECISIONS[device.partition(":")[0]]:
        target = replace(wish, precision=precision).target(device, station.worker.threads)
        try:
            built[precision] = [made for pair in pairs for made in build(*pair, target, cache, progress)]
        except EngineError as error:
            found.append(_finding("", precision, None, str(error)))
    totals: dict[str, float] = {}
    for detector, template in pairs:
        engines = {}
        for precision in built:
            named = replace(wish, backend=target.backend, precision=precision)
            engines[precision] = choose(detector, template, named, device, target.threads).engine
        frames = [each.frame for each in template.golden()]
        for precision, values in take_turns(engines, frames, ROUNDS).items():
            median = values[len(values) // 2] / 1000
            totals[precision] = totals.get(precision, 0.0) + median
            found.append(_finding(detector.name, precision, median, ""))
    chosen = _least(totals, found)
    return chosen, built[chosen], found


def _finding(detector: str, precision: str, p50_ms: float | None, note: str) -> dict[str, Any]:
    return {"detector": detector, "precision": precision, "passed": not note, "p50_ms": p50_ms, "note": note}


def _least(totals: dict[str, float], found: Sequence[dict[str, Any]]) -> str:
    if not totals:
        notes = "; ".join(str(each["note"]) for each in found)
        raise EngineError(f"no precision passes the parity gate for every template: {notes}")
    best = min(totals, key=totals.__getitem__)
    if "fp32" in totals and totals[best] > WORTH * totals["fp32"]:
        return "fp32"
    return best
