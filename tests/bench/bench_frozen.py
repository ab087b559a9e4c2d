"""Measures what a frozen subscriber costs the healthy ones: blocks with it and without it take turns in one run.

``python tests/bench/bench_frozen.py [--blocks 12] [--seconds 2]``. A station of the delivery tests (a real ledger and
ROUTER) makes 200 parts a second; three subscribers are healthy, a fourth is stopped and woken by signals. The delay is
from publication to the subscriber's file. What the woken one catches up with is left out of both sides.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runtime.local import free_addresses

STATION = Path(__file__).parents[1] / "runtime" / "test_delivery" / "station.py"
HEALTHY = ("display", "historian", "mes")
PARTS_PER_S = 200
SETTLE_S = 1.5


def rows_of(file: Path) -> list[tuple[int, int]]:
    """Return (seq, delay in microseconds) of each result a subscriber wrote down."""
    words = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
    return [(int(each[0]), int(each[3])) for each in words]


def p99_ms(rows: list[tuple[int, int]], blocks: list[tuple[int, int]]) -> float:
    """Return the 99th percentile of the delay over all results of the blocks (first, last), in milliseconds."""
    delays = sorted(delay for first, last in blocks for seq, delay in rows if first <= seq <= last)
    return delays[int(0.99 * (len(delays) - 1))] / 1000


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=12, help="of each kind")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each block")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        record = measure(Path(name), options.blocks, options.seconds)
    print(json.dumps(record, indent=1))
    return 0 if record["in_order"] else 1


def measure(folder: Path, blocks: int, seconds: float) -> dict:
    """Run the station and its subscribers in ``folder``; return the figures."""
    (address,) = free_addresses(1)
    process = subprocess.Popen(
        [sys.executable, STATION, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def tell(*words: object) -> None:
        print(*words, file=process.stdin, flush=True)
        if process.stdout.readline().strip() != "done":
            raise SystemExit(f"{words}: a process has ended")

    def status() -> dict:
        return json.loads((folder / "station").read_text(encoding="ascii"))

    def block() -> tuple[int, int]:
        time.sleep(SETTLE_S)
        first = status()["last_seq"]
        time.sleep(seconds)
        return first + 1, status()["last_seq"]

    try:
        tell("serve", "station", address, PARTS_PER_S, 10**9)
        for name in (*HEALTHY, "frozen"):
            tell("subscribe", name, address)
        time.sleep(3)
        quiet, beside, lags = [], [], []
        for _ in range(blocks):
            quiet.append(block())
            tell("signal", "frozen", int(signal.SIGSTOP))
            beside.append(block())
            lags.append(status()["subscribers"]["frozen"]["lag"])
            tell("signal", "frozen", int(signal.SIGCONT))
        time.sleep(3)
        frozen = [seq for seq, _ in rows_of(folder / "frozen")]
        record = {"parts_per_s": PARTS_PER_S, "blocks": blocks, "seconds": seconds, "lag_when_frozen": lags}
        for name in HEALTHY:
            rows = rows_of(folder / name)
            without, frozen_ms = p99_ms(rows, quiet), p99_ms(rows, beside)
            record[name] = {"p99_ms_without": without, "p99_ms_beside_frozen": frozen_ms,
                            "ratio": round(frozen_ms / without, 3)}  # fmt: skip
        return record | {"in_order": frozen == list(range(1, len(frozen) + 1)) and len(frozen) >= beside[-1][1]}
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
