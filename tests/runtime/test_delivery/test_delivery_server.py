"""The host's side, message by message: order, windows, gaps, and what an acknowledgement does."""

from __future__ import annotations

import time

from runtime.delivery.messages import MAX_CREDIT, Gap, Refused, Start, Subscribed, inspection_of
from runtime.ledger import Reader, Retention, prune
from tests.runtime.test_delivery.reading import seqs


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
