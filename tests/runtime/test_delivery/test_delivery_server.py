"""The host's side, message by message: order, windows, takeovers, gaps, refusals, and what it costs."""

from __future__ import annotations

import threading
import time

import pytest
import zmq

from runtime.delivery.maps import stored_maps
from runtime.delivery.messages import (
    MAX_CREDIT,
    Closed,
    Gap,
    Heartbeat,
    Refused,
    Start,
    Subscribed,
    Unsubscribe,
    encode,
    inspection_of,
)
from runtime.delivery.server import BEAT_NS, MOST_SUBSCRIBERS
from runtime.delivery.window import MOST_UNANSWERED, WINDOW_BYTES
from runtime.inspection import Verdict
from runtime.ledger import LedgerError, Reader, Retention, evidence, prune


def seqs(deliveries):
    """Return the sequence numbers of deliveries."""
    return [each.seq for each in deliveries]


def test_live_results_come_at_once_and_old_ones_are_historical(station, peer):
    """What was there before comes first, marked historical; what is inspected from then on is not."""
    station.produce(3)
    mes = peer(station, start=Start.OLDEST)
    assert mes.receive(Subscribed) == Subscribed(
        name="mes", acked=0, last_seq=3, credit=100, fresh=True, heartbeat_ms=1000
    )
    old = mes.deliveries(3)
    station.produce(2)
    live = mes.deliveries(2)
    assert seqs(old + live) == [1, 2, 3, 4, 5]
    assert [each.historical for each in old + live] == [True] * 3 + [False] * 2
    assert [inspection_of(each).historical for each in old + live] == [True] * 3 + [False] * 2


def test_a_new_name_begins_with_the_next_result(station, peer):
    """A name never seen before is owed nothing that was there before it, unless it asks for it."""
    station.produce(3)
    mes = peer(station)
    assert mes.receive(Subscribed).acked == 3
    station.produce(1)
    assert seqs(mes.deliveries(1)) == [4]


def test_a_result_is_delivered_as_it_is_stored(station, peer, path):
    """The header that travels is the ledger's, byte for byte, live and historical."""
    mes = peer(station, start=Start.OLDEST)
    mes.receive(Subscribed)
    station.produce(1)
    station.produce(1, offer=False)
    with Reader(path) as reader:
        assert [each.result for each in mes.deliveries(2)] == [each.header for each in reader.inspections()]


def test_results_not_offered_come_too(station, peer):
    """What the host forgot to offer is found in the ledger with the next heartbeat, and stays in order."""
    mes = peer(station)
    mes.receive(Subscribed)
    station.produce(2, offer=False)
    station.produce(1)
    assert seqs(mes.deliveries(3)) == [1, 2, 3]
    station.produce(1, offer=False)
    assert seqs(mes.deliveries(1)) == [4]


def test_the_window_holds_what_is_not_acknowledged(station, peer):
    """No more deliveries are on their way than the credit; each acknowledgement lets as many more go."""
    mes = peer(station, credit=4)
    mes.receive(Subscribed)
    station.deliveries._beat_ns = 2**63  # no heartbeat comes to help
    station.produce(10)
    assert seqs(mes.deliveries(4)) == [1, 2, 3, 4]
    assert mes.silent()
    mes.ack(1)
    assert seqs(mes.deliveries(1)) == [5]
    assert mes.silent()
    mes.ack(5)
    assert seqs(mes.deliveries(4)) == [6, 7, 8, 9]


def test_credit_has_a_limit(station, peer):
    """Who asks for more credit than there is gets the most there is, and is told."""
    assert peer(station, credit=2**40).receive(Subscribed).credit == MAX_CREDIT


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


def test_a_second_connection_takes_the_name_over(station, peer):
    """The older of two connections under a name is told so and gets nothing more; the newer gets all unacknowledged."""
    old = peer(station)
    old.receive(Subscribed)
    station.produce(3)
    assert seqs(old.deliveries(3)) == [1, 2, 3]
    old.ack(1)
    station.turn(100)
    new = peer(station, session=8)
    assert new.receive(Subscribed).acked == 1
    assert old.receive(Closed).reason == "replaced"
    assert seqs(new.deliveries(2)) == [2, 3]
    station.produce(1)
    assert seqs(new.deliveries(1)) == [4]
    old.ack(3)
    assert old.receive().reason == "not_subscribed"
    assert station.deliveries.status()["subscribers"]["mes"]["acked"] == 1


def test_a_late_subscribe_of_an_older_connection_is_nothing(station, peer):
    """A subscribe that arrives after the same subscriber's next one does not take the name back."""
    new = peer(station, attempt=5)
    new.receive(Subscribed)
    late = peer(station, attempt=4)
    assert late.silent()
    station.produce(1)
    assert seqs(new.deliveries(1)) == [1]


def test_one_connection_is_one_name(station, peer):
    """A connection that subscribes under another name gets that one's results only, and the first is not connected."""
    mes = peer(station)
    mes.receive(Subscribed)
    mes.send(peer_subscribe("historian"))
    assert mes.receive(Subscribed).name == "historian"
    station.produce(1)
    assert seqs(mes.deliveries(1)) == [1]
    assert mes.silent()
    connected = {name: each["connected"] for name, each in station.deliveries.status()["subscribers"].items()}
    assert connected == {"mes": False, "historian": True}


def peer_subscribe(name, attempt=2):
    """Return a subscribe message."""
    from runtime.delivery.messages import Subscribe

    return Subscribe(name=name, session=7, attempt=attempt, credit=10)


def test_the_number_of_names_is_bounded(station, peer):
    """One name too many is refused with the list of those there are, until one is forgotten; known ones come in."""
    peers = [peer(station, f"name-{number}") for number in range(MOST_SUBSCRIBERS)]
    for each in peers:
        each.receive(Subscribed)
    late = peer(station, "late")
    refused = late.receive(Refused)
    assert (refused.reason, "name-0" in refused.detail) == ("too_many", True)
    assert peer(station, "name-3", session=9).receive(Subscribed).fresh is False
    peers[0].send(Unsubscribe(forget=True))
    assert peers[0].receive(Closed).reason == "forgotten"
    late.send(peer_subscribe("late"))
    assert late.receive(Subscribed).fresh
    assert "name-0" not in station.outbox.names()


def test_who_leaves_is_owed_what_comes(station, peer):
    """Leaving ends the deliveries and nothing else: the name's lag grows, and all of it comes when it is back."""
    mes = peer(station)
    mes.receive(Subscribed)
    mes.send(Unsubscribe())
    assert mes.receive(Closed).reason == "left"
    station.produce(3)
    assert mes.silent()
    figures = station.deliveries.status()["subscribers"]["mes"]
    assert (figures["connected"], figures["lag"], figures["oldest_unacked_s"] > 0) == (False, 3, True)
    back = peer(station, attempt=2)
    assert seqs(back.deliveries(3)) == [1, 2, 3]


def test_acknowledgements_hold_over_a_kill_and_everything_else_comes_again(stations, peer):
    """After a killed host the next one goes on behind the last acknowledgement it wrote."""
    station = stations()
    mes = peer(station)
    mes.receive(Subscribed)
    station.produce(6)
    mes.deliveries(6)
    mes.ack(4)
    while station.deliveries.status()["subscribers"]["mes"]["acked"] < 4:
        station.turn(10)
    station.ledger.commit()
    mes.socket.close(0)
    station.kill()
    station = stations()
    again = peer(station)
    answer = again.receive(Subscribed)
    assert (answer.acked, answer.last_seq, answer.fresh) == (4, 6, False)
    assert [(each.seq, each.historical) for each in again.deliveries(2)] == [(5, True), (6, True)]


def test_what_retention_removed_is_a_gap(station, peer, tmp_path):
    """A subscriber away for too long is told the gap on every connection until it acknowledges it, then never again."""
    mes = peer(station)
    mes.receive(Subscribed)
    station.produce(50)
    mes.deliveries(50)
    mes.ack(10)
    mes.socket.close(0)
    station.turn(100)
    station.turn(100)
    assert station.deliveries.status()["subscribers"]["mes"]["acked"] == 10
    while prune(station.ledger, tmp_path, Retention(most_ns=0), time.time_ns() + 10**12, limit=60):
        if station.outbox.lag("mes").gap:
            break
    gap = station.outbox.lag("mes").gap
    assert gap.from_seq == 11
    for attempt in (2, 3):
        mes = peer(station, attempt=attempt)
        assert mes.receive(Gap) == Gap(from_seq=11, to_seq=gap.to_seq)
        assert station.deliveries.status()["subscribers"]["mes"]["gap"] == [11, gap.to_seq]
        if gap.to_seq < 50:
            assert seqs(mes.deliveries(1)) == [gap.to_seq + 1]
    mes.ack(gap.to_seq)
    station.turn(100)
    assert station.deliveries.status()["subscribers"]["mes"]["gap"] is None
    station.produce(1)
    mes = peer(station, attempt=4)
    assert isinstance(mes.receive(), Subscribed)
    assert mes.receive().seq == gap.to_seq + 1


def test_a_gap_that_opens_under_a_connected_subscriber_is_told(station, peer, tmp_path):
    """Retention that overtakes a subscriber with a full window is told to it when it has room again, in order."""
    mes = peer(station, credit=5)
    mes.receive(Subscribed)
    station.produce(40)
    assert seqs(mes.deliveries(5)) == [1, 2, 3, 4, 5]
    prune(station.ledger, tmp_path, Retention(most_ns=0), time.time_ns() + 10**12, limit=60)
    gap = station.outbox.lag("mes").gap
    assert gap.from_seq == 1
    assert 5 < gap.to_seq < 40
    mes.ack(5)
    assert mes.receive(Gap) == Gap(from_seq=1, to_seq=gap.to_seq)
    assert seqs(mes.deliveries(2)) == [gap.to_seq + 1, gap.to_seq + 2]


def test_acknowledging_what_was_not_sent_is_refused(station, peer):
    """An acknowledgement beyond what went out on this connection is refused and changes nothing."""
    mes = peer(station, credit=2)
    mes.receive(Subscribed)
    station.produce(5)
    mes.deliveries(2)
    mes.ack(3)
    assert mes.receive(Refused).reason == "ahead"
    assert station.deliveries.status()["subscribers"]["mes"]["acked"] == 0
    mes.ack(2)
    assert seqs(mes.deliveries(2)) == [3, 4]


def test_a_stranger_is_told_to_subscribe(station, peer):
    """Whoever acknowledges without a subscription is refused; nothing is kept of it."""
    stranger = peer(station, "")
    stranger.ack(1)
    assert stranger.receive(Refused).reason == "not_subscribed"
    assert station.deliveries.status() == {"subscribers": {}, "refused": {"not_subscribed": 1}, "trouble": ""}


@pytest.mark.parametrize("damage", ["flipped", "cut", "topic", "many", "name", "empty"])
def test_damaged_messages_are_counted_and_answered(station, peer, damage):
    """Bytes that are no message are refused with their word; subscribers and their deliveries go on."""
    mes = peer(station)
    mes.receive(Subscribed)
    topic, header = encode(peer_subscribe("x"))
    parts, word = {
        "flipped": ([topic, bytes([header[0] ^ 1]) + header[1:]], "header_crc"),
        "cut": ([topic, header[:3]], "header_size"),
        "topic": ([b"ead.v1.frame", header], "topic"),
        "many": ([topic, header, *[b"x"] * 2000], "parts"),
        "name": (encode(peer_subscribe("a.b")), "field"),
        "empty": ([b""], "parts"),
    }[damage]
    mes.socket.send_multipart(parts)
    assert mes.receive(Refused).reason == word
    assert station.deliveries.status()["refused"] == {word: 1}
    station.produce(1)
    assert seqs(mes.deliveries(1)) == [1]


def test_heartbeats_tell_and_stop_where_nobody_reads(station, peer):
    """A heartbeat says where the record stands; unanswered ones stop after some, and the subscriber shows as silent."""
    mes = peer(station)
    mes.receive(Subscribed)
    station.produce(2)
    mes.deliveries(2)
    now_ns = time.monotonic_ns() + BEAT_NS
    for beat in range(3 * MOST_UNANSWERED):
        station.deliveries.turn(now_ns + beat * BEAT_NS)
    assert not station.deliveries.status()["subscribers"]["mes"]["responds"]
    received = []
    while mes.socket.poll(100):
        received.append(mes.socket.recv_multipart())
    assert MOST_UNANSWERED - 1 <= len(received) <= MOST_UNANSWERED, "the first may have come before"
    mes.ack(2)
    station.turn(100)
    assert station.deliveries.status()["subscribers"]["mes"]["responds"]
    station.deliveries.turn(now_ns + 10**12)
    assert mes.receive(Heartbeat) == Heartbeat(last_seq=2, acked=2)


def test_a_connection_that_has_gone_costs_nothing(station, peer):
    """A closed connection is noticed when something is sent to it; its name stays, with what it is owed."""
    mes = peer(station)
    mes.receive(Subscribed)
    mes.socket.close(0)
    give_up = time.monotonic() + 10
    while station.deliveries.status()["subscribers"]["mes"]["connected"] and time.monotonic() < give_up:
        station.produce(1)
        station.turn(10)
    figures = station.deliveries.status()["subscribers"]["mes"]
    assert (figures["connected"], figures["in_flight"]) == (False, 0)
    assert figures["lag"] == station.ledger.written_seq
    assert station.deliveries.next_due_ns() is None


def test_trouble_with_the_ledger_is_shown_and_passes(station, peer, monkeypatch):
    """While the outbox cannot be read nothing is raised, the status says why, and deliveries go on afterwards."""
    mes = peer(station)
    mes.receive(Subscribed)

    def broken(*_, **__):
        raise LedgerError("cannot read ledger.db: disk I/O error")

    with monkeypatch.context() as patch:
        for method in ("pending", "lag", "ack", "names", "register"):
            patch.setattr(station.outbox, method, broken)
        station.produce(1, offer=False)
        station.produce(1)
        for _ in range(5):
            station.turn(1)
        assert "disk I/O error" in station.deliveries.status()["trouble"]
        other = peer(station, "other")
        assert other.receive(Refused).reason == "unavailable"
    assert seqs(mes.deliveries(2)) == [1, 2]
    station.deliveries.turn(time.monotonic_ns() + 2 * BEAT_NS)
    assert station.deliveries.status()["trouble"] == ""


def test_one_names_trouble_does_not_keep_another_ones_acknowledgements(station, peer, monkeypatch):
    """An acknowledgement the ledger does not take leaves those of other subscribers to be written."""
    peers = [peer(station, name) for name in ("crm", "mes")]
    for each in peers:
        each.receive(Subscribed)
    station.produce(1)
    take = station.outbox.ack

    def ack(name, seq):
        if name == "crm":
            raise LedgerError("expected a registered subscriber")
        take(name, seq)

    monkeypatch.setattr(station.outbox, "ack", ack)
    for each in peers:
        each.deliveries(1)
        each.ack(1)
        station.turn(1000)
    station.deliveries.turn(time.monotonic_ns() + 2 * BEAT_NS)
    station.ledger.commit()
    assert [station.outbox.lag(name).acked for name in ("crm", "mes")] == [0, 1]


def test_a_stopping_host_says_so_and_writes_the_acknowledgements(stations, peer):
    """Closing hands the last acknowledgements to the ledger and tells subscribers why nothing more comes."""
    with stations() as station:
        mes = peer(station)
        mes.receive(Subscribed)
        station.produce(3)
        mes.deliveries(3)
        mes.ack(2)
        station.router.poll(1000)
        station.deliveries.take()
        station.deliveries.close()
        assert mes.receive(Closed).reason == "stopping"
        mes.socket.close(0)
        station.ledger.commit()
    assert stations().outbox.lag("mes").acked == 2


def test_an_idle_turn_costs_microseconds(station, peer):
    """With subscribers connected and nothing due, a turn is a comparison or two."""
    for number in range(4):
        peer(station, f"name-{number}").receive(Subscribed)
    station.deliveries.turn(time.monotonic_ns() + BEAT_NS)
    now_ns = time.monotonic_ns()
    begun = time.perf_counter_ns()
    for _ in range(10_000):
        station.deliveries.turn(now_ns)
    assert (time.perf_counter_ns() - begun) / 10_000 < 20_000


def test_sending_never_waits(station, peer):
    """A subscriber whose connection takes nothing more does not hold the host up, and gets it all later."""
    frozen = peer(station, credit=MAX_CREDIT)
    frozen.receive(Subscribed)
    sock = station.deliveries._socket

    class Full:
        """A ROUTER whose every connection is full."""

        def send(self, *_):
            raise zmq.Again

    station.deliveries._socket = Full()
    station.produce(3)
    station.turn()
    station.deliveries._socket = sock
    assert seqs(frozen.deliveries(3)) == [1, 2, 3]
