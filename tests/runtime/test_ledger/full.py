"""A station on a disk that fills up: run as ``python full.py FOLDER`` on a file system of twelve megabytes.

Prints how many bytes of evidence made room and how many problems the check found in the end; exits 1 if the disk never
was full or the ledger ever forgot something.
"""

from __future__ import annotations

import sys
from pathlib import Path

import line as simulator

from runtime.inspection import Verdict
from runtime.ledger import Ledger, LedgerFull, check, evidence, make_room


def main() -> int:
    """Fill the disk with evidence, and go on recording."""
    root = Path(sys.argv[1])
    path, folder = root / "ledger.db", root / "evidence"
    clock = simulator.Clock()
    freed = full = 0
    with Ledger(path, simulator.STATION, clock=clock, checkpoint_s=0.01) as ledger:
        line = simulator.Line(ledger, clock)
        for seq in line.parts(300):
            try:
                ledger.keep(evidence.write(folder, seq, Verdict.NOT_OK, {"frame": bytes(40_000)}))
                ledger.commit()
            except LedgerFull:
                full += 1
                break
        for _ in range(500):
            line.answer(*line.arrive())
            try:
                ledger.commit()
            except LedgerFull:
                full += 1
            if ledger.short_of_room:
                try:
                    freed += make_room(ledger, folder, 100_000)
                except LedgerFull:
                    full += 1
        freed += make_room(ledger, folder, 500_000)  # to close takes room too, and the last turn may have left none
        whole = ledger.written_seq == 800
    problems = check(path, folder=folder, now_ns=0)
    sys.stderr.write("\n".join(map(str, problems)))
    sys.stdout.write(f"{freed} {len(problems)}\n")
    return 0 if full and whole else 1


if __name__ == "__main__":
    sys.exit(main())
