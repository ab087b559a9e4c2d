"""Measures a worker's warm start: from process start to the first inspection, and what the time goes into.

    python tests/bench/bench_start.py STATION [--starts 10] [--builtins plugins.cpr ...]

Starts a fresh process as the host starts a worker (imports, plugins, template, engine, golden frames) and inspects one
frame, again and again; engines and templates are there and in the page cache. Printed: seconds, least and median, of
each detector of the station, beside the bare `import torch` in the same turns; then the slowest imports once.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from runtime.engines.first_result import first_result
from runtime.lane.assignment import assignments
from runtime.station.config import load_station
from runtime.store import Store

#: Imports that take at least this long are listed, microseconds of their own.
LISTED_US = 20_000
LOAD = "from runtime.engines import choice, engine, selftest; from runtime.worker import inspector, process"


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("station", type=Path)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--builtins", nargs="+", default=["plugins.hetmm", "plugins.cpr"])
    options = parser.parse_args()
    station = load_station(options.station)
    store = Store(station.store)
    for name, camera in station.cameras.items():
        template = store.active(camera.product, camera.detector)
        lane = assignments(station, {(each, ""): template for each in station.cameras}, tuple(options.builtins))
        setup = lane[name, ""].setup
        first_result(setup)  # the page cache
        found, torch = [], []
        for _ in range(options.starts):
            found.append(first_result(setup)[0])
            torch.append(imported("import torch"))
        print(
            f"{camera.detector} {station.worker.backend} {station.worker.precision}: first inspection after "
            f"{min(found):.2f} s at least, {statistics.median(found):.2f} s median; import torch alone "
            f"{min(torch):.2f}, {statistics.median(torch):.2f} s; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    command = [sys.executable, "-P", "-X", "importtime", "-c", LOAD]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[1:]
    times = sorted(((int(line[12:].split("|")[0]), line.rsplit("|")[-1].strip()) for line in lines[1:]), reverse=True)
    for own_us, module in times:
        if own_us >= LISTED_US:
            print(f"  {own_us / 1000:.0f} ms {module}")


def imported(statement):
    """Return the seconds a process takes that imports and ends."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", statement], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
