"""Maps travel with results where they are asked for, live and from evidence, and hold nothing else back."""

from __future__ import annotations

import threading

from runtime.delivery.maps import stored_maps
from runtime.delivery.messages import Start, Subscribed, Unsubscribe, inspection_of
from runtime.delivery.window import WINDOW_BYTES
from runtime.inspection import Verdict
from runtime.ledger import evidence
from tests.runtime.test_delivery.reading import seqs


def test_large_maps_fill_the_window_by_bytes(stations, peer):
    """A window is full when its bytes are, however few deliveries they are."""
    station = stations(side=1024)
    mes = peer(station, maps=True)
    mes.receive(Subscribed)
    station.produce(5)
    assert seqs(mes.deliveries(2)) == [1, 2]
    assert mes.silent()
    figures = station.deliveries.status()["subscribers"]["mes"]
    assert WINDOW_BYTES <= figures["in_flight_bytes"] < WINDOW_BYTES + 2**21 + 2**13
    mes.ack(2)
    assert seqs(mes.deliveries(1)) == [3]


def test_maps_travel_where_asked_for_and_there(stations, peer, path, tmp_path, simulator):
    """A subscriber with maps gets the live map and, later, the one kept as evidence; others get none."""
    folder = tmp_path / "evidence"
    station = stations(evidence=stored_maps(path, folder))
    with_maps, without = peer(station, maps=True), peer(station, "display")
    for each in (with_maps, without):
        each.receive(Subscribed)
    station.produce(1)
    (live,) = with_maps.deliveries(1)
    assert bytes(live.map_payload) == simulator.map_of(1)
    assert inspection_of(live).map is not None
    assert [each.map_payload for each in without.deliveries(1)] == [None]
    station.produce(2, offer=False)
    station.ledger.keep(evidence.write(folder, 3, Verdict.OK, {"frame": b"f", "map": simulator.map_of(3)}))
    station.ledger.commit()
    plain, kept = with_maps.deliveries(2)
    assert (plain.map_payload, inspection_of(plain).map) == (None, None)
    assert bytes(kept.map_payload) == simulator.map_of(3)
    assert inspection_of(kept).map is not None


def test_damaged_evidence_does_not_hold_its_result_back(stations, peer, path, tmp_path):
    """A map whose file was changed is left out; the result comes."""
    folder = tmp_path / "evidence"
    station = stations(evidence=stored_maps(path, folder))
    mes = peer(station, maps=True)
    mes.receive(Subscribed)
    station.produce(1, offer=False)
    kept = evidence.write(folder, 1, Verdict.OK, {"map": b"m"})
    evidence.path_of(folder, 1).write_bytes(b"something else")
    station.ledger.keep(kept)
    station.ledger.commit()
    (delivery,) = mes.deliveries(1)
    assert (delivery.seq, delivery.map_payload) == (1, None)


def test_a_slow_disk_costs_only_who_wants_its_maps(stations, peer):
    """While stored maps are read, no turn waits for them and another subscriber has its results; then all come."""
    reading = threading.Event()

    def slow_map(seq):
        assert reading.wait(20)
        return bytes([seq])

    station = stations(evidence=slow_map)
    station.produce(0)
    with_maps, plain = peer(station, maps=True), peer(station, "display")
    for each in (with_maps, plain):
        each.receive(Subscribed)
    station.produce(5, offer=False)
    assert seqs(plain.deliveries(5)) == [1, 2, 3, 4, 5]
    assert station.deliveries.next_due_ns() > 0, "a host that waits for a map must not turn in place"
    assert with_maps.silent()
    reading.set()
    assert [(each.seq, bytes(each.map_payload)) for each in with_maps.deliveries(5)] == [
        (seq, bytes([seq])) for seq in range(1, 6)
    ]


def test_maps_of_a_subscriber_that_left_are_nobody_elses(stations, peer):
    """A subscriber that leaves while its maps are read gives the next one its turn, with that one's own maps."""
    reading = threading.Event()

    def slow_map(seq):
        assert reading.wait(20)
        return bytes([seq])

    station = stations(evidence=slow_map)
    first = peer(station, maps=True)
    first.receive(Subscribed)
    station.produce(3, offer=False)
    assert first.silent()
    second = peer(station, "historian", maps=True, start=Start.OLDEST)
    second.receive(Subscribed)
    first.send(Unsubscribe())
    assert second.silent()
    reading.set()
    assert [bytes(each.map_payload) for each in second.deliveries(3)] == [b"\x01", b"\x02", b"\x03"]


def test_a_batch_of_maps_is_bounded_and_whole_in_the_end(stations, peer):
    """Maps larger than a window together come in several batches, each result once and in order."""
    station = stations(evidence=lambda seq: seq.to_bytes(8, "little") + bytes(WINDOW_BYTES // 3))
    mes = peer(station, maps=True)
    mes.receive(Subscribed)
    station.produce(7, offer=False)
    for begin in (1, 4, 7):
        found = mes.deliveries(min(3, 8 - begin))
        assert [int.from_bytes(each.map_payload[:8], "little") for each in found] == seqs(found)
        assert seqs(found) == list(range(begin, min(begin + 3, 8)))
        mes.ack(found[-1].seq)


def test_a_map_that_cannot_be_read_at_all_is_left_out(stations, peer, caplog):
    """Whatever goes wrong in the reading thread, the result comes without its map and the log says so."""

    def broken(seq):
        raise RuntimeError(f"no map of {seq}")

    station = stations(evidence=broken)
    mes = peer(station, maps=True)
    mes.receive(Subscribed)
    station.produce(2, offer=False)
    assert [(each.seq, each.map_payload) for each in mes.deliveries(2)] == [(1, None), (2, None)]
    assert "no map of 1" in caplog.text
