"""Measures the hot update of HETMM on a data set: time, what the bits equal, and which scores move.

    python tests/bench/bench_extend.py DATASET [--first 400] [--frames 60]

For templates of all references and of 60 sheets, and for 1, 10 and 100 new references: seconds to extend, whether the
tensors are those of a calibration on everything, and how the scores of test frames moved.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as the station does

from calibration.calibrate import spread
from calibration.dataset import read_dataset
from calibration.references import References
from edgead import DetectorContext
from plugins.hetmm import Hetmm
from plugins.hetmm.settings import HetmmSettings
from runtime.engines.engine import Engine


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--first", type=int, default=400, help="references of the template that is extended")
    parser.add_argument("--frames", type=int, default=60, help="test frames scored before and after")
    options = parser.parse_args()
    dataset = read_dataset(options.dataset)
    references = References(dataset.references)
    test = References(dataset.test).only(spread(len(dataset.test), options.frames))
    detector, context = Hetmm(), DetectorContext()
    counts = [count for count in (1, 10, 100) if options.first + count <= len(references)]
    for templates in ("all", "pts"):
        settings = HetmmSettings(templates=templates)
        started = time.perf_counter()
        content = detector.calibrate(references.only(range(options.first)), settings, context)
        print(f"{templates}: calibrated on {options.first} in {time.perf_counter() - started:.1f} s")
        before = scores(detector, content, test)
        for count in counts:
            new = references.only(range(options.first, options.first + count))
            started = time.perf_counter()
            extended = detector.extend(content, new, context)
            seconds = time.perf_counter() - started
            whole = detector.calibrate(references.only(range(options.first + count)), settings, context)
            after = scores(detector, extended, test)
            known = max(scores(detector, extended, new.only(range(min(count, 10)))))
            moved = [b - a for a, b in zip(before, after, strict=True)]
            same = digest(extended) == digest(whole)
            clustered = extended.statistics.get("clustered")
            how = "appended" if clustered is None else "clusters kept" if clustered == options.first else "chosen anew"
            print(
                f"{templates} + {count:3d}: {seconds:6.2f} s, {how}, "
                f"{'same bits as' if same else 'other bits than'} a calibration on everything; "
                f"test scores: {sum(m != 0 for m in moved)} of {len(moved)} moved, by {min(moved):+.4f} to "
                f"{max(moved):+.4f}; new frames score at most {known:.4f}"
            )
            sys.stdout.flush()


def scores(detector, content, frames):
    """Return every frame's image score."""
    engine = Engine(detector, content)
    return [engine.infer(frames[index].image).score for index in range(len(frames))]


def digest(content):
    """Return the sha256 of everything learnt."""
    found = hashlib.sha256()
    for arrays in (content.tensors, content.pool):
        for name in sorted(arrays):
            found.update(name.encode() + arrays[name].tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
