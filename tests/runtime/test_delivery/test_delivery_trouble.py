"""What goes wrong is told and passes: damaged messages, silent peers, a ledger in trouble, a stopping host."""

from __future__ import annotations

import time

import pytest
import zmq

from runtime.delivery.messages import MAX_CREDIT, Closed, Heartbeat, Refused, Subscribed, encode
from runtime.delivery.server import BEAT_NS
from runtime.delivery.window import MOST_UNANSWERED
from runtime.ledger import LedgerError
from tests.runtime.test_delivery.reading import seqs, subscription


@pytest.mark.parametrize("damage", ["flipped", "cut", "topic", "many", "name", "empty"])
def test_damaged_messages_are_counted_and_answered(station, peer, damage):
    """Bytes that are no message are refused with their word; subscribers and their deliveries go on."""
    mes = peer(station)
    mes.receive(Subscribed)
    topic, header = encode(subscription("x"))
    parts, word = {
        "flipped": ([topic, bytes([header[0] ^ 1]) + header[1:]], "header_crc"),
        "cut": ([topic, header[:3]], "header_size"),
        "topic": ([b"ead.v1.frame", header], "topic"),
        "many": ([topic, header, *[b"x"] * 2000], "parts"),
        "name": (encode(subscription("a.b")), "field"),
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
