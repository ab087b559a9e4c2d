"""A stuck subscriber costs only itself."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from runtime.delivery.messages import MAX_CREDIT
from runtime.delivery.window import WINDOW_BYTES

HEALTHY = ("display", "historian", "mes")
PARTS_PER_S = 200
PARTS = 1700
QUIET, BLOCK = 800, 200


def p99_ms(rows, first, last):
    """Return the delay from publication to a subscriber's file, 99th percentile of the parts first..last.

    The least over blocks of a second: what the machine did besides spoils some blocks, a frozen subscriber all of them.
    """
    blocks = []
    for begin in range(first, last - BLOCK + 2, BLOCK):
        delays = sorted(delay_us for seq, _, _, delay_us in rows if begin <= seq < begin + BLOCK)
        blocks.append(delays[int(0.99 * (BLOCK - 1))] / 1000)
    return min(blocks)


@pytest.mark.slow
def test_one_frozen_three_healthy(processes, until):
    """The healthy ones' delay does not change, the frozen one's lag shows, and thawed it gets everything in order."""

    def status():
        return json.loads((processes.folder / "station").read_text())

    def seqs(name):
        return [seq for seq, _, _, _ in processes.lines(name)]

    processes.serve(parts_per_s=PARTS_PER_S, parts=PARTS)
    for name in (*HEALTHY, "frozen"):
        processes.subscribe(name)
    until(lambda: all(seqs(name)[-1:] >= [QUIET] for name in (*HEALTHY, "frozen")))
    before = status()
    processes.tell("signal", "frozen", int(signal.SIGSTOP))
    until(lambda: all(seqs(name)[-1] == PARTS for name in HEALTHY))
    until(lambda: [status()["subscribers"][name]["acked"] for name in HEALTHY] == [PARTS] * 3)
    until(lambda: not status()["subscribers"]["frozen"]["responds"])
    after, frozen_at = status(), seqs("frozen")[-1]
    assert QUIET <= frozen_at < QUIET + BLOCK

    for name in HEALTHY:
        assert seqs(name) == list(range(1, PARTS + 1))
        rows = processes.lines(name)
        quiet, beside = p99_ms(rows, BLOCK, QUIET), p99_ms(rows, frozen_at + 1, PARTS)
        sys.stdout.write(f"{name}: p99 {quiet:.1f} ms with four healthy, {beside:.1f} ms beside a frozen one\n")
        assert beside < 3 * quiet + 5, "three times and 5 ms: what a busy machine makes of one and the same thing"
    lag = after["subscribers"]["frozen"]
    assert lag["acked"] <= frozen_at
    assert lag["lag"] == PARTS - lag["acked"]
    assert lag["oldest_unacked_s"] > 1
    assert lag["in_flight"] <= MAX_CREDIT
    assert lag["in_flight_bytes"] <= WINDOW_BYTES
    assert lag["connected"]
    assert after["resident_bytes"] - before["resident_bytes"] < 16 * 2**20

    processes.tell("signal", "frozen", int(signal.SIGCONT))
    until(lambda: seqs("frozen")[-1] == PARTS)
    assert seqs("frozen") == list(range(1, PARTS + 1))
    until(lambda: status()["subscribers"]["frozen"]["lag"] == 0)
