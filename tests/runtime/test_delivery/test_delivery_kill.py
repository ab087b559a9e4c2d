"""Stations and subscribers killed at any moment: every result arrives, in order."""

from __future__ import annotations

import random
import signal
import time

import pytest

from runtime.delivery.client import subscribe
from runtime.ledger import Reader


def stored(path):
    """Return seq and result_id of everything on record, in order."""
    with Reader(path) as reader:
        return [(each.seq, each.result_id) for each in reader.inspections()]


def kill_stations(processes, rounds, until):
    """Kill a busy station again and again under one subscriber; return what it received and the repetitions."""
    rng = random.Random(rounds)
    received = []
    with subscribe(processes.address, "mes", from_oldest=True) as results:
        for _ in range(rounds):
            processes.serve(parts_per_s=400)
            until((processes.folder / "ledger.db").exists)
            stop, before = time.monotonic() + rng.uniform(0.05, 1.2), len(received)
            # A round ends at its random moment, on a slow machine not before it delivered something.
            while (left_s := stop - time.monotonic()) > 0 or len(received) == before:
                if (each := results.receive(max(left_s, 0.05))) is not None:
                    received.append((each.seq, each.inspection.result_id))
                    each.ack()
            processes.kill("station")
        processes.serve()
        while (each := results.receive(4)) is not None:
            received.append((each.seq, each.inspection.result_id))
            each.ack()
        return received, results.repetitions


@pytest.mark.slow
def test_a_station_killed_at_random_moments_delivers_everything(processes, until):
    """After each kill the next station goes on: the subscriber has every committed result, once, in order."""
    received, _ = kill_stations(processes, 8, until)
    assert received == stored(processes.folder / "ledger.db")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_station_killed_a_hundred_times_delivers_everything(processes, until):
    """The same holds for a hundred kills."""
    received, _ = kill_stations(processes, 100, until)
    assert received == stored(processes.folder / "ledger.db")


def test_a_subscriber_killed_at_random_moments_gets_everything(processes, until):
    """What a killed subscriber had written before it acknowledged is all there is, in order, repetitions aside."""
    rng = random.Random(5)
    processes.serve(parts_per_s=400, parts=1500)
    for _ in range(6):
        written = len(processes.lines("mes"))
        processes.subscribe("mes")
        until(lambda before=written: len(processes.lines("mes")) > before)
        time.sleep(rng.uniform(0, 0.4))
        processes.kill("mes")
    processes.subscribe("mes")
    until(lambda: processes.lines("mes")[-1][0] == 1500)
    seqs = [seq for seq, _, _, _ in processes.lines("mes")]
    fresh = [seq for at, seq in enumerate(seqs) if seq > max(seqs[:at], default=0)]
    assert fresh == list(range(1, 1501)), "nothing left out, and nothing before what precedes it"
    assert len(seqs) < 1500 + 7 * 400, "only what was not acknowledged in time is repeated"


def test_results_of_a_killed_station_are_historical(processes, until):
    """What was committed and not sent before the kill comes from the next station's record, and says so."""
    processes.serve(parts_per_s=1000, parts=50)
    until(
        lambda: (processes.folder / "station").exists() and '"made": 50' in (processes.folder / "station").read_text()
    )
    processes.kill("station")
    processes.serve()
    processes.subscribe("mes")
    until(lambda: len(processes.lines("mes")) == 50)
    assert {historical for _, _, historical, _ in processes.lines("mes")} == {True}
    assert processes.tell("signal", "mes", int(signal.SIGCONT)) == "done"
