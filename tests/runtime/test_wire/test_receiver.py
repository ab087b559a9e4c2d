"""No message can hold its reader, however many parts it has."""

import pytest
import zmq

from runtime.wire.receiver import DISCARD_PER_TURN, BoundedReceiver


@pytest.fixture
def ends():
    """Return a sender and a receiving socket."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender, context.socket(zmq.PULL) as taker:
        taker.bind("inproc://here")
        sender.connect("inproc://here")
        yield sender, taker


def test_messages_come_whole(ends):
    """A message within the bound comes as it was sent, and None when nothing is left."""
    sender, taker = ends
    receiver = BoundedReceiver(taker, 3)
    sender.send_multipart([b"a", b"b", b"c"])
    sender.send_multipart([b"d"])
    assert [part.bytes for part in receiver.receive()] == [b"a", b"b", b"c"]
    assert [part.bytes for part in receiver.receive()] == [b"d"]
    assert receiver.receive() is None


@pytest.mark.parametrize("parts", [4, 5, DISCARD_PER_TURN + 4, 10 * DISCARD_PER_TURN])
def test_an_overlong_message_is_cut_and_discarded_in_turns(ends, parts):
    """Of a message of too many parts one too many come, the rest goes a bounded number at a time, the next is whole."""
    sender, taker = ends
    receiver = BoundedReceiver(taker, 3)
    sender.send_multipart([b"x"] * parts)
    sender.send_multipart([b"next"])
    assert len(receiver.receive()) == 4
    turns = 1
    while (message := receiver.receive()) is None:
        turns += 1
    assert [part.bytes for part in message] == [b"next"]
    assert turns == max(1, -(-(parts - 4) // DISCARD_PER_TURN)) or turns == (parts - 4) // DISCARD_PER_TURN + 1
