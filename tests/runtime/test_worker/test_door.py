"""The door of a worker: lanes come through it with their memory, at any time, and nothing is left open."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from runtime.worker.door import ENGINE_KEYS, Door
from runtime.worker.link import Link
from runtime.worker.slots import Slots

SETUP = dict.fromkeys(ENGINE_KEYS) | {"slots": 2, "frame_bytes": 64, "answer_bytes": 64, "template": "t"}


@pytest.fixture
def doors():
    """Return the host's end and the worker's."""
    host, bare = Door.pair()
    worker = Door(bare)
    yield host, worker
    host.close()
    worker.close()


def open_now() -> set[str]:
    """Return the descriptors this process has open."""
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


def come(host: Door, **setup: Any) -> tuple[Link, Slots]:
    """Have a lane come to the door; return what the host keeps of it."""
    link, theirs = Link.pair()
    slots = Slots.create(2, 64, 64)
    link.send(SETUP | setup)
    with theirs:
        host.hand_over(theirs, slots.fd)
    return link, slots


def test_lanes_come_with_line_and_memory(doors):
    """What the host writes into the slots and sends by the link is what the worker finds, lane by lane in order."""
    host, worker = doors
    kept = [come(host, template=name) for name in ("one", "two")]
    for (link, slots), name in zip(kept, ("one", "two"), strict=True):
        newcomer = worker.take(wait=False)
        assert newcomer.engine["template"] == name
        slots.frame(1, 3)[:] = name.encode()
        assert bytes(newcomer.slots.frame(1, 3)) == name.encode()
        newcomer.link.send({"op": "ready"})
        assert link.receive() == {"op": "ready"}
        for each in (newcomer.link, newcomer.slots, link, slots):
            each.close()
    assert worker.take(wait=False) is None


def test_a_closed_door(doors):
    """Who came before it was closed comes in; then the worker learns that nobody will, and the host that it is shut."""
    host, worker = doors
    link, slots = come(host)
    host.close()
    newcomer = worker.take(wait=True)
    assert newcomer is not None
    for each in (newcomer.link, newcomer.slots, link, slots):
        each.close()
    with pytest.raises(EOFError):
        worker.take(wait=True)
    here, there = Link.pair()
    other, bare = Door.pair()
    bare.close()
    with there, pytest.raises(EOFError):
        other.hand_over(there, 0)
    for end in (here, other):
        end.close()


def test_a_lane_that_was_given_up(doors):
    """A lane whose host hung up without a word is passed over, and none of its descriptors stays open."""
    host, worker = doors
    before = open_now()
    here, there = Link.pair()
    slots = Slots.create(1, 64, 64)
    with there:
        host.hand_over(there, slots.fd)
    here.close()
    slots.close()
    link, slots = come(host)
    newcomer = worker.take(wait=False)
    assert newcomer is not None
    for each in (newcomer.link, newcomer.slots, link, slots):
        each.close()
    assert open_now() == before


def test_a_packet_without_descriptors(doors):
    """A packet cut short of its descriptors, as where a process may open no more, is the end; nothing stays open."""
    host, worker = doors
    before = open_now()
    socket.send_fds(host._socket, [b"l"], [0])
    with pytest.raises(EOFError):
        worker.take(wait=False)
    assert open_now() == before
