"""Measures what preparing a second worker costs the one that inspects: latency with and without, in one run.

    python tests/bench/bench_swap.py [--rate 10] [--swaps 6] [--ways idle core none]

HETMM on the simulated product: two template versions, exchanged again and again at a steady rate of parts. ``ways``:
how the loading worker is held back: idle (SCHED_IDLE until it takes over), core (one core until then), none.
Printed for each: percentiles of the latency, arrival to publication, while a swap was being prepared and while none
was, their ratio, and how long a swap took.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runtime.client.ask import ask
from runtime.local import edgead_command, running_host, wait_until
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.paced_line import PacedLine, percentile_ms
from runtime.testing.product import SimulatedProduct, write_dataset
from runtime.testing.station import PRODUCT, LocalStation, write_station
from runtime.testing.swapping import with_threshold

#: What each way replaces in the host before it runs.
WAYS = {
    "idle": "",
    "core": "import runtime.lane.courtesy as c\nc.may_return = lambda: False\n",
    "none": "import runtime.lane.supervisor as s\ns.hold_back = s.let_go = lambda pid: None\n",
}
CALM_S, SWAP_S = 10.0, 600.0
GUARD = {"parts": 5, "verdict": None, "latency": None}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=10, help="parts a second")
    parser.add_argument("--swaps", type=int, default=6, help="swaps in each run")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="how the loading worker is held")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        product = SimulatedProduct(0)
        write_dataset(folder / "data", product, references=12, good=1, defects_per_kind=0)
        calibrate(folder)
        store = Store(folder / "store")
        templates = [with_threshold(store, threshold, "hetmm") for threshold in (1e3, 1e4)]
        parts = [product.draw(index).image for index in range(1000, 1016)]
        camera = {"product": PRODUCT, "detector": "hetmm", "deadline_ms": 60_000, "queue": 64, "guard": GUARD}
        camera |= {"repeat_limit": None}  # sixteen pictures go round
        for way in options.ways:
            path = write_station(folder, {"top": camera}, worker={"threads": 0})
            print(f"{way:5} {measure(path, way, templates, parts, options)}", flush=True)


def calibrate(folder):
    """Put a template of the simulated product into the folder's store."""
    command = edgead_command(
        "calibrate", str(folder / "data"), "--product", PRODUCT, "--detector", "hetmm",
        "--store", str(folder / "store"), "--activate",
    )  # fmt: skip
    subprocess.run(command, timeout=900, check=True)


def measure(path, way, templates, parts, options):
    """Return the figures of one run as a line."""
    program = (
        f"{WAYS[way]}import sys\nfrom pathlib import Path\nfrom runtime.station.config import load_station\n"
        "from runtime.host.loop import Host\npath = Path(sys.argv[1])\n"
        "Host(load_station(path), ('plugins.hetmm',), path).run()"
    )
    command, log = [sys.executable, "-P", "-c", program, str(path)], path.with_suffix(".log")
    station, store = load_station(path), Store(path.parent / "store")
    took, spans = [], []
    with running_host(command, station.status, log) as process:
        running = LocalStation(path, station, process, log)
        with PacedLine(running, options.rate, lambda number: parts[number % len(parts)]) as line:
            time.sleep(CALM_S)
            for number in range(options.swaps):
                store.activate(templates[number % 2], who="bench")
                began = time.monotonic()
                ask(station.status, {"op": "apply", "who": "bench"})
                count = number + 1
                reached = functools.partial(is_over, count=count)
                status = wait_until(station.status, reached, process, log, SWAP_S)
                took.append(time.monotonic() - began)
                swap = status["swaps"][-1]
                if swap["state"] != "kept":
                    raise SystemExit(f"swap {swap['id']} {swap['state']}: {swap['why']}")
                spans.append((swap["begun_ns"], swap["flipped_ns"]))
                time.sleep(CALM_S)
    found = {True: [], False: []}
    for each in line.inspections:
        found[any(begun <= each.published_ns <= flipped for begun, flipped in spans)].append(each)
    during, without = found[True], found[False]
    undecided = {each.error_detail for each in line.inspections if each.score is None}
    if undecided:
        raise SystemExit(f"expected every part decided, found {sorted(undecided)[:3]}")
    p99, calm = percentile_ms(during, 99), percentile_ms(without, 99)
    return (
        f"p99 {p99:.1f} ms during ({len(during)} parts), {calm:.1f} ms without ({len(without)}), "
        f"ratio {p99 / calm:.2f}; p50 {percentile_ms(during, 50):.1f}, {percentile_ms(without, 50):.1f} ms; "
        f"a swap took {max(took):.1f} s at most"
    )


def is_over(status, count):
    """Tell whether so many swaps were begun and the newest has come to its end."""
    return len(status["swaps"]) == count and status["swaps"][-1]["state"] not in {"preparing", "guarded"}


if __name__ == "__main__":
    main()
