"""Who is connected under which name: takeovers, late messages, names that leave, and how many there may be."""

from __future__ import annotations

import time

from runtime.delivery.messages import Closed, Refused, Subscribed, Unsubscribe
from runtime.delivery.server import MOST_SUBSCRIBERS
from tests.runtime.test_delivery.reading import seqs, subscription


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
    mes.send(subscription("historian"))
    assert mes.receive(Subscribed).name == "historian"
    station.produce(1)
    assert seqs(mes.deliveries(1)) == [1]
    assert mes.silent()
    connected = {name: each["connected"] for name, each in station.deliveries.status()["subscribers"].items()}
    assert connected == {"mes": False, "historian": True}


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
    late.send(subscription("late"))
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


def test_a_stranger_is_told_to_subscribe(station, peer):
    """Whoever acknowledges without a subscription is refused; nothing is kept of it."""
    stranger = peer(station, "")
    stranger.ack(1)
    assert stranger.receive(Refused).reason == "not_subscribed"
    assert station.deliveries.status() == {"subscribers": {}, "refused": {"not_subscribed": 1}, "trouble": ""}
