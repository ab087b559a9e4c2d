"""The client that raises triggers, against a station played on a socket."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from runtime.client.triggers import MOST_WAITING, SEND_HIGH_WATER, TriggerClient
from runtime.errors import StationError, WireError
from runtime.inspection import ErrorWord, Verdict
from runtime.local import free_addresses
from runtime.wire.messages import Receipt, decode_trigger, encode_receipt

WAIT_S = 20.0


class Played:
    """A station's frame socket, bound at ``address``."""

    def __init__(self, address: str) -> None:
        self.context: zmq.Context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        self.socket.bind(address)

    def take(self):
        """Return the next trigger and the connection it came by."""
        identity, *parts = self.socket.recv_multipart()
        return identity, decode_trigger(parts)

    def tell(self, identity: bytes, header, **fields) -> None:
        """Send the receipt of a trigger."""
        values = {"accepted": True, "seq": 1, "verdict": Verdict.OK} | fields
        receipt = Receipt(
            camera=header.camera, session=0, frame_id=0, message="trigger", trigger_id=header.trigger_id, **values
        )
        self.socket.send_multipart([identity, *encode_receipt(receipt)])


@pytest.fixture(autouse=True)
def _no_farewell(monkeypatch) -> None:
    """Let a client that has no station close at once."""
    monkeypatch.setattr("runtime.client.triggers.LINGER_MS", 0)


@pytest.fixture
def address() -> str:
    """Return a free address."""
    return free_addresses(1)[0]


@contextmanager
def pair(address) -> Iterator[tuple[Played, TriggerClient]]:
    """Lend a played station and a client connected to it."""
    station = Played(address)
    try:
        with TriggerClient(address) as client:
            yield station, client
    finally:
        station.context.destroy(linger=0)


def test_a_trigger_carries_what_was_asked(address):
    """Every field arrives, the time is now unless one is given, and the receipt comes back."""
    with pair(address) as (station, client):
        before = time.time_ns()
        raised = client.raise_trigger("top", 7, part_id="SN-7", recipe="m4", deadline_ms=50, simulated=True)
        identity, header = station.take()
        assert header == raised
        assert before <= header.raised_ns <= time.time_ns()
        assert (header.part_id, header.recipe, header.deadline_ms, header.simulated) == ("SN-7", "m4", 50, True)
        assert client.waiting == 1
        station.tell(identity, header, verdict=Verdict.NOT_DECIDABLE, error=ErrorWord.CAMERA_LOST)
        receipt = client.ask(raised, WAIT_S)
        assert (receipt.trigger_id, receipt.error, client.waiting) == (7, ErrorWord.CAMERA_LOST, 0)


def test_a_refusal_is_a_receipt_too(address):
    """A trigger that is refused waits no longer, and its reason is told."""
    with pair(address) as (station, client):
        raised = client.raise_trigger("side", 1, raised_ns=5)
        identity, header = station.take()
        station.tell(identity, header, accepted=False, reason="unknown_camera", seq=0, verdict=Verdict.UNDEFINED)
        assert (client.ask(raised, WAIT_S).reason, client.waiting) == ("unknown_camera", 0)


def test_what_has_no_receipt_is_sent_again(address):
    """A station that went away and came back gets the open triggers again, unchanged; a second receipt is left out."""
    with pair(address) as (station, client):
        answered, opened = client.raise_trigger("top", 1), client.raise_trigger("top", 2)
        (identity, first), _ = station.take(), station.take()
        station.tell(identity, first)
        assert client.ask(answered, WAIT_S).trigger_id == 1
        station.context.destroy(linger=0)
        again = Played(address)
        assert client.receive(1.0) is None
        identity, header = again.take()
        assert header == opened
        again.tell(identity, header)
        again.tell(identity, header)
        assert client.receive(WAIT_S).trigger_id == 2
        assert client.receive(0.1) is None
        again.context.destroy(linger=0)


def test_all_that_has_no_receipt_is_sent_again(address):
    """More triggers than the socket holds at once wait when the station goes: every one comes again."""
    most = 5 * SEND_HIGH_WATER
    with pair(address) as (station, client):
        for number in range(most):
            client.raise_trigger("top", number)
            station.take()
        station.context.destroy(linger=0)
        again, taken = Played(address), set()
        give_up = time.monotonic() + WAIT_S
        while len(taken) < most and time.monotonic() < give_up:
            client.receive(0.01)
            while again.socket.poll(0):
                taken.add(again.take()[1].trigger_id)
        again.context.destroy(linger=0)
    assert taken == set(range(most))


def test_the_receipt_of_another_camera_is_not_this_triggers(address):
    """Two cameras may use one id: the one asked for is waited for."""
    with pair(address) as (station, client):
        client.raise_trigger("side", 1)
        raised = client.raise_trigger("top", 1)
        for _ in range(2):
            identity, header = station.take()
            station.tell(identity, header)
        assert client.ask(raised, WAIT_S).camera == "top"


def test_an_id_that_waits_cannot_be_raised_again(address):
    """Two triggers of one id could not be told apart by their receipts: the second is refused here."""
    with TriggerClient(address) as client:
        client.raise_trigger("top", 1)
        client.raise_trigger("side", 1)
        with pytest.raises(StationError, match="found 1 and 2 waiting"):
            client.raise_trigger("top", 1)


def test_a_station_that_is_not_there(address):
    """What cannot be sent is an error when the socket is full, and no receipt is one after its time."""
    with TriggerClient(address) as client:
        raised = client.raise_trigger("top", 0)
        with pytest.raises(StationError, match="left trigger 0 without a receipt"):
            client.ask(raised, 0.05)
        with pytest.raises(StationError, match="takes no triggers"):
            deque((client.raise_trigger("top", number) for number in range(1, MOST_WAITING)), maxlen=0)


def test_what_a_message_cannot_carry_is_an_error_of_the_caller(address):
    """A number beyond 64 bits is refused before it is sent, and nothing waits for it."""
    with TriggerClient(address) as client:
        with pytest.raises(WireError):
            client.raise_trigger("top", 2**64)
        assert client.waiting == 0
