"""Measures every detector's engines on a simulated product: `edgead bench detector` over all four, and the whole line.

    python tests/bench/bench_engines.py FOLDER [--detectors cpr-faster ...] [--frames 100] [--batch 4]

Calibrates in FOLDER what is not there yet, builds fp32, bf16 and int8 (minutes each, once; what the gate refuses is
told and left out), then prints Markdown: one table a detector, and the line with the fastest of cpr-faster. DenseNet201
comes with random weights where its file is not on this machine: as fast, and its scores mean nothing (it is told).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from runtime.process_defaults import set_process_defaults

set_process_defaults()  # as a station does, and before torch is loaded

from calibration.calibrate import CalibrationOptions, calibrate, save  # noqa: E402
from calibration.dataset import read_dataset  # noqa: E402
from calibration.references import References  # noqa: E402
from runtime.commands.figures import print_markdown  # noqa: E402
from runtime.end_to_end import bench_end_to_end  # noqa: E402
from runtime.engines.ahead import build_station, with_choice  # noqa: E402
from runtime.engines.bench import bench_detector  # noqa: E402
from runtime.engines.precision import PRECISIONS  # noqa: E402
from runtime.engines.settings import EngineSettings  # noqa: E402
from runtime.errors import EngineError, TemplateError  # noqa: E402
from runtime.registry import load_plugins  # noqa: E402
from runtime.station.config import load_station  # noqa: E402
from runtime.store import Store  # noqa: E402
from runtime.store.manifest import DetectorIdentity  # noqa: E402
from runtime.testing.product import SimulatedProduct, write_dataset  # noqa: E402
from runtime.testing.station import PRODUCT, write_station  # noqa: E402

DETECTORS = ("hetmm", "cpr-faster", "cpr-fast", "cpr")
#: Settings that leave the arithmetic of inspecting what it is and calibration short: heads, as good as untrained.
#: The most work training may decide for cpr-faster: heads beside raw features in every layer.
SETTINGS = {"hetmm": {}, "cpr-faster": {"train_steps": 1, "raw_share": 0.5}}
OTHERS = {"train_steps": 1}
PLUGINS = ("plugins.hetmm", "random_backbones")
#: The plugin modules are imported by worker processes as well: its folder must be on their path.
HERE = str(Path(__file__).parent)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    parser.add_argument("--frames", type=int, default=100, help="frames each engine answers")
    parser.add_argument("--batch", type=int, default=1, help="frames at once, for one more throughput")
    parser.add_argument("--references", type=int, default=24)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(exist_ok=True)
    registry = load_plugins(PLUGINS)
    store = Store(folder / "store") if (folder / "store").exists() else Store.create(folder / "store")
    for name in options.detectors:
        path = station_of(folder, registry, store, name, options.references)
        build_all(path, registry)
        figures = bench_detector(
            load_station(path), registry, PLUGINS, lambda *_: None, rounds=options.frames, batch=options.batch
        )
        print_markdown(name, figures)
        best = min(figures["engines"], key=lambda row: row["p50_ms"])["engine"].split()
        if name == "cpr-faster":
            station = load_station(path)
            worker = station.worker.model_copy(update={"backend": best[1], "precision": best[2]})
            line = bench_end_to_end(
                station.model_copy(update={"worker": worker}), PLUGINS, options.frames, lambda *_: None
            )
            print_markdown(f"end to end, {' '.join(best)}", line)


def station_of(folder, registry, store, name, references):
    """Return the station file of one detector, calibrated if it was not yet."""
    place = folder / name
    place.mkdir(exist_ok=True)
    try:
        store.active(PRODUCT, name)
    except TemplateError:
        put_template(folder / "data", registry.detector(name), store, references)
    worker = {"threads": 0, "engines": str(folder / "engines"), "engines_mb": 8192}
    cameras = {"top": {"product": PRODUCT, "detector": name}}
    return write_station(place, cameras, store=str(store.root), worker=worker)


def put_template(data, detector, store, references):
    """Calibrate on a simulated product, 320 x 320, and activate."""
    if not data.exists():
        write_dataset(data, SimulatedProduct(0), references=references, good=1, defects_per_kind=0)
    settings = detector.settings_model(**SETTINGS.get(detector.name, OTHERS))
    frames, few = References(read_dataset(data).references), CalibrationOptions(held_out=12)
    identity = DetectorIdentity(name=detector.name, version=detector.version, distribution="edgead")
    made = calibrate(detector, frames, settings, few, lambda *_: None)
    template = save(made, store, product=PRODUCT, detector=identity, who="bench", why="bench")
    store.activate(template.digest, who="bench")


def build_all(path, registry):
    """Build every precision; tell what is refused."""
    station = load_station(path)
    for precision in PRECISIONS["cpu"]:
        wish = with_choice(EngineSettings.of(station.worker), precision)
        try:
            for record in build_station(station, registry, lambda *_: None, wish=wish):
                told = f"{record.detector} {precision}: {'compiled' if record.compiled else 'found'}"
                print(f"{told} in {record.seconds} s", file=sys.stderr, flush=True)
        except EngineError as error:
            print(f"not measured: {error}\n", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HERE, os.environ.get("PYTHONPATH"))))
    main()
