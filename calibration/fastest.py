"""`edgead build --precision auto`: build every precision, let gate and metrics decide which may run, and time those."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from calibration.margin import Figures, shortfall, trial_of
from runtime.detector import Detector
from runtime.engines.ahead import build_station, wanted
from runtime.engines.build import Built, Progress
from runtime.engines.choice import choose
from runtime.engines.engine import Engine
from runtime.engines.precision import PRECISIONS
from runtime.engines.settings import EngineSettings
from runtime.engines.timing import take_turns
from runtime.errors import EngineError
from runtime.registry import Registry
from runtime.station.config import Station
from runtime.store.template import Template

#: Frames each engine answers.
ROUNDS = 40
#: A narrower format is taken only if it takes at most this share of fp32's time: less is not worth its rounding.
WORTH = 0.95


def fastest_precision(
    station: Station, registry: Registry, wish: EngineSettings, progress: Progress, camera: str | None = None
) -> tuple[str, list[Built], list[dict[str, Any]]]:
    """Return the precision that suits every template of the station, its engines, and what was found of each.

    A finding: {"detector", "precision", "passed", "p50_ms", "image_auroc", "pixel_ap", "note"}. A precision that the
    parity gate refuses for one template, or whose metrics fall by more than ``calibration.margin.MOST_LOST``, is out
    for the station, whose file names one for all; of the rest the one with the least total median wins. Raises
    ``EngineError`` where none is left.
    """
    found, threads = [], station.worker.threads
    lanes, built = list(wanted(station, registry, camera)), dict[str, list[Built]]()
    for precision in _tried(device for _, _, device in lanes):
        named = replace(wish, precision=precision, batch=1)
        try:
            built[precision] = build_station(station, registry, progress, camera=camera, wish=named)
        except EngineError as error:
            found.append(_finding("", precision, note=str(error)))
    totals = dict.fromkeys(built, 0.0)
    for detector, template, device in lanes:
        engines = dict[str, Engine]()
        for precision in built:
            try:
                engines[precision] = _compiled(
                    detector, template, replace(wish, precision=precision, batch=1), device, threads
                )
            except EngineError as error:  # such as one that the cache had no room to keep
                found.append(_finding(detector.name, precision, note=str(error)))
                totals[precision] = math.inf
        reference = Engine(detector, template.content(), device=device, threads=threads)
        for each in _judged(detector.name, template, reference, engines, progress):
            found.append(each)
            totals[each["precision"]] += each["p50_ms"] if each["passed"] else math.inf
    chosen = _least({precision: total for precision, total in totals.items() if total < math.inf}, found)
    if wish.batch > 1:  # engines for several frames are built for the winner alone
        built[chosen] = build_station(station, registry, progress, camera=camera, wish=replace(wish, precision=chosen))
    return chosen, built[chosen], found


def _tried(devices: Iterable[str]) -> list[str]:
    """Return the precisions that every one of the devices has."""
    offered = [PRECISIONS[device.partition(":")[0]] for device in devices]
    return [precision for precision in offered[0] if all(precision in each for each in offered)]


def _compiled(detector: Detector, template: Template, wish: EngineSettings, device: str, threads: int) -> Engine:
    """Return the compiled engine; ``EngineError`` where eager stands in, whose figures say nothing of a precision."""
    chosen = choose(detector, template, wish, device, threads)
    if chosen.note:
        raise EngineError(chosen.note)
    return chosen.engine


def _judged(
    name: str, template: Template, reference: Engine, engines: Mapping[str, Engine], progress: Progress
) -> Iterator[dict[str, Any]]:
    """Yield the finding of each engine: its metrics beside the eager reference's, and its median time."""
    trial, what, steps = trial_of(template), f"evaluate {name}", len(engines) + 2
    progress(0, steps, what)
    expected = trial.figures(reference)
    progress(1, steps, what)
    times = take_turns(engines, [each.frame for each in template.golden()], ROUNDS) if engines else {}
    for step, (precision, engine) in enumerate(engines.items(), 2):
        figures = trial.figures(engine)
        progress(step, steps, what)
        median = times[precision][len(times[precision]) // 2] / 1000
        yield _finding(name, precision, median, figures, shortfall(expected, figures))
    progress(steps, steps, what)


def _finding(
    detector: str, precision: str, p50_ms: float | None = None, figures: Figures | None = None, note: str = ""
) -> dict[str, Any]:
    metrics = asdict(figures or Figures(None, None))
    return {
        "detector": detector, "precision": precision, "passed": not note, "p50_ms": p50_ms, **metrics, "note": note,
    }  # fmt: skip


def _least(totals: dict[str, float], found: Sequence[dict[str, Any]]) -> str:
    if not totals:
        notes = "; ".join(f"{each['precision']}: {each['note']}" for each in found if each["note"])
        raise EngineError(f"no precision passes the parity gate and keeps the metrics of every template: {notes}")
    best = min(totals, key=totals.__getitem__)
    if "fp32" in totals and totals[best] > WORTH * totals["fp32"]:
        return "fp32"
    return best
