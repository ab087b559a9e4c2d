"""A subscriber as a process to be stopped and killed: each result is a line of a file before it is acknowledged.

``python -P -m runtime.sim.follower ADDRESS NAME FILE``: the durable subscriber NAME, or with ``-`` one who watches what
is live. A line is ``seq result_id trigger_id verdict error historical`` (``read`` gives them back); ``trigger_id`` is
- where the result has none. It ends when the process that started it does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.client.subscriber import Subscriber
from runtime.delivery.client import subscribe
from runtime.inspection import Inspection

#: The name of a subscriber who has none.
LIVE = "-"
_FIELDS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One result as it arrived. ``verdict`` is its number, ``error`` its word."""

    seq: int
    result_id: str
    trigger_id: int | None
    verdict: int
    error: str
    historical: bool


def line_of(inspection: Inspection, *, historical: bool) -> bytes:
    """Return what is written down of one result."""
    trigger = "-" if inspection.trigger_id is None else inspection.trigger_id
    words = (inspection.seq, inspection.result_id, trigger, int(inspection.verdict), inspection.error, int(historical))
    return (" ".join(map(str, words)) + "\n").encode()


def read(path: Path) -> Iterator[Line]:
    """Yield the lines of a file, in the order of arrival; a line cut short by a kill was not acknowledged: left out."""
    with path.open(encoding="ascii", errors="replace") as stream:
        for text in stream:
            words = text.split()
            if len(words) != _FIELDS or not text.endswith("\n"):
                continue
            seq, result_id, trigger, verdict, error, historical = words
            number = None if trigger == "-" else int(trigger)
            yield Line(int(seq), result_id, number, int(verdict), error, historical == "1")


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it dies, stopped or not."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of <linux/prctl.h>


def main() -> None:
    """Receive until killed."""
    die_with_parent()
    address, name, file = sys.argv[1:]
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(out, b"\n")  # ends the line a killed predecessor may have left unfinished
    if name == LIVE:
        with Subscriber(address) as watching:
            for each in watching.results():
                os.write(out, line_of(each.inspection, historical=False))
    else:
        with subscribe(address, name, from_oldest=True) as results:
            for result in results:
                os.write(out, line_of(result.inspection, historical=result.historical))


if __name__ == "__main__":
    main()
