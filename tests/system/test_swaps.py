"""A hundred swaps during a replay at 50 parts a second: no gap, and every part inspected by exactly one template."""

from __future__ import annotations

import functools
import itertools

import pytest

from runtime.client.ask import ask
from runtime.client.subscriber import ask_status
from runtime.inspection import ErrorWord
from runtime.ledger import Reader, check
from runtime.local import wait_until
from runtime.store import Store
from runtime.testing.paced_line import PacedLine, percentile_ms
from runtime.testing.station import PATIENCE_S, PRODUCT, local_station
from runtime.testing.swapping import PLUGINS, edit, make_station, part, with_threshold

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(3600)]
RATE = 50
#: Parts without any swap, for comparison, before and after.
CALM_S = 15.0
#: A worker loads at the lowest priority: on a machine that others keep busy that takes long.
SWAP_S = 600.0


@pytest.mark.parametrize("swaps", [6, pytest.param(100, marks=pytest.mark.endurance)])
def test_swaps_in_a_stream(swaps, tmp_path, capsys):
    """Sequence gap-free, one detector version and digest each, both detectors and both versions of each seen."""
    guard = {"parts": 10, "latency": None}
    worker = {"threads": 1, "start_timeout_s": SWAP_S}
    path = make_station(tmp_path, guard=guard, deadline_ms=60_000, queue=256, worker=worker)
    store = Store(tmp_path / "store")
    versions = {
        name: [store.active(PRODUCT, name).digest, with_threshold(store, 0.9, name)] for name in ("faulty", "nothing")
    }
    # Another detector and another version in turn: every second step leaves the station file alone.
    steps = itertools.cycle([("nothing", 1), ("nothing", 0), ("faulty", 0), ("faulty", 1)])
    parts = [part(number) for number in range(200)]
    with local_station(path, PLUGINS) as station:
        address = station.station.status
        with PacedLine(station, RATE, lambda number: parts[number % len(parts)]) as line:
            station.wait(lambda status: status["inspections"] >= RATE * CALM_S)
            calm = line.sent
            for detector, version in itertools.islice(steps, swaps):
                store.activate(versions[detector][version], who="test")
                edit(path, detector=detector)
                request = ask(address, {"op": "apply", "who": "test"}, PATIENCE_S)["id"]
                reached = functools.partial(is_over, request=request)
                status = wait_until(address, reached, station.process, station.log, SWAP_S)
                assert status["swaps"][-1]["state"] == "kept", status["swaps"][-1]
                assert status["cameras"]["top"]["template"] == versions[detector][version]
            swapped = line.sent
            goal = line.sent + RATE * CALM_S
            station.wait(lambda status: status["inspections"] >= goal)
        status = ask_status(address)
        ledger = station.station.ledger
    found = line.inspections
    assert [each.seq for each in found] == [*range(1, line.sent + 1)]
    assert line.receipts == line.sent == status["inspections"]
    assert {each.error for each in found} == {ErrorWord.NONE}
    assert {(each.detector, each.detector_version, each.template) for each in found} == {
        (name, "1", digest) for name, digests in versions.items() for digest in digests
    }
    assert check(ledger.file, folder=ledger.evidence_folder) == []
    with Reader(ledger.file) as reader:
        kept = [each.detail for each in reader.events(kind="swap") if each.detail["step"] == "kept"]
    assert len(kept) == swaps
    during, without = found[calm:swapped], found[:calm] + found[swapped:]
    with capsys.disabled():
        p99, calm_p99 = percentile_ms(during, 99), percentile_ms(without, 99)
        print(  # noqa: T201 -- the figure is asserted nowhere: it depends on who else uses the machine
            f"\n{swaps} swaps, {len(found)} parts: p99 {p99:.2f} ms during, {calm_p99:.2f} ms without, "
            f"ratio {p99 / calm_p99:.2f}; p50 {percentile_ms(during, 50):.2f}, {percentile_ms(without, 50):.2f} ms"
        )


def is_over(status, request) -> bool:
    """Tell whether the request was checked and its swap has come to its end."""
    fate = next((each for each in status["applies"] if each["id"] == request), None)
    assert fate is None or fate["state"] != "refused", fate
    swaps = [each for each in status["swaps"] if each["apply"] == request]
    return bool(swaps) and all(each["state"] not in {"preparing", "guarded"} for each in swaps)
