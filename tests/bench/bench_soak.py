"""Soaks a station: memory, open files and sizes over many inspections, with ledger and deliveries on.

``python tests/bench/bench_soak.py --inspections 1000000 [--json FILE]``; exit code 1 if something grows. Rules and
limits: ``runtime/sim/soak.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from runtime.sim.soak import machine, soak

STEPS = 50


def main() -> int:
    """Soak and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inspections", type=int, default=20_000)
    parser.add_argument("--json", type=Path, help="also write every sample to this file")
    options = parser.parse_args()
    told = 0
    began = time.monotonic()

    def progress(done: int, total: int, _what: str) -> None:
        nonlocal told
        if done * STEPS // total > told:
            told = done * STEPS // total
            print(f"{done} of {total} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        record = soak(options.inspections, Path(folder), progress) | {"machine": machine()}
    if options.json:
        options.json.write_text(json.dumps(record), encoding="utf-8")
    samples = record.pop("samples")
    print(json.dumps(record | {"first": samples[0], "samples": len(samples)}, indent=1))
    return 1 if record["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
