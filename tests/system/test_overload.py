"""More than the station can do, and peers that do not do their part: nobody else notices."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import zmq

from runtime.inspection import ErrorWord
from runtime.testing.faulty import Fault, marked, right_answer

pytestmark = pytest.mark.system
WAIT_MS = 60_000

CHILD = """
import sys
from runtime.client.subscriber import Subscriber
with Subscriber(sys.argv[1], "test") as subscriber:
    for received in subscriber.results():
        print(received.inspection.frame_id, flush=True)
"""


@contextlib.contextmanager
def child_subscriber(station) -> Iterator[subprocess.Popen[str]]:
    """Run a subscriber process that prints frame ids, and lend it once the host knows of it."""
    before = station.status()["subscriptions"]
    command = [sys.executable, "-P", "-c", CHILD, station.station.results]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            station.wait(lambda status: status["subscriptions"] > before)
            yield child
        finally:
            child.kill()


def test_a_burst_beyond_the_queue(start, picture):
    """With one frame slow, worker and queue take what fits, and the newest are refused before any is answered."""
    station = start(queue=3)
    slow = marked(picture(0), Fault.SLEEP, 200)
    with station.subscriber() as subscriber, station.camera() as camera:
        camera.send(slow)
        # The worker holds one frame more than the one it works on; the queue fills only once it has it.
        station.wait(lambda status: status["cameras"]["top"]["waiting"] == 0)
        for number in range(1, 9):
            camera.send(picture(number))
        receipts = camera.receipts(9)
        results = [subscriber.receive(WAIT_MS).inspection for _ in range(9)]
    refused = [receipt.frame_id for receipt in receipts if receipt.error is ErrorWord.OVERLOAD]
    answered = [receipt.frame_id for receipt in receipts if receipt.error is ErrorWord.NONE]
    assert refused == [each.frame_id for each in receipts[: len(refused)]]  # at once: before the slow one's answer
    assert sorted(refused + answered) == list(range(9))
    assert answered == list(range(len(answered)))  # those that came first, in their order
    assert 1 + 3 <= len(answered) <= 2 + 3
    assert sorted(each.frame_id for each in results) == list(range(9))
    assert {each.error_detail for each in results if each.frame_id in refused} == {
        "3 frames already wait, the limit is 3"
    }


@pytest.mark.slow
def test_a_camera_that_never_reads_its_receipts(station, picture):
    """Thousands of receipts nobody takes are lost, and another camera is answered in between and afterwards."""
    with socket.socket() as deaf, station.camera() as other, station.subscriber() as subscriber:
        # A ZMTP 3.0 peer written by hand, so that nothing on this side reads: libzmq would.
        address, _, port = station.station.frames.removeprefix("tcp://").rpartition(":")
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((address, int(port)))
        deaf.sendall(_GREETING + _ready())
        _read_until(deaf, b"ROUTER")
        with station.camera("side") as talker:
            answered, frames = 0, 6000
            for number in range(frames):
                deaf.sendall(b"".join(_zmtp(talker.message(picture(1), frame_id=number))))
                while received := subscriber.receive(0):
                    answered += received.inspection.camera == "side"
                if number % 1000 == 0:
                    assert other.answer(picture(2)).error is ErrorWord.NONE
        while answered < frames:
            answered += subscriber.receive(WAIT_MS).inspection.camera == "side"
        assert other.answer(picture(3)).error is ErrorWord.NONE
    assert station.status()["ready"]


@pytest.mark.slow
def test_a_subscriber_that_stops_reading(start, picture):
    """A stopped subscriber process loses results and goes on with new ones; another gets every result, in order."""
    station = start(publish={"preview": True})
    image = picture(1, (320, 320))  # noise: a preview of 50 kB, to fill what sockets hold
    with child_subscriber(station) as child, station.subscriber() as subscriber, station.camera() as camera:
        camera.answer(image)
        assert child.stdout.readline() == "0\n"
        os.kill(child.pid, signal.SIGSTOP)
        results = [subscriber.receive(WAIT_MS).inspection.frame_id]
        for _ in range(1500):  # beyond the 1000 results the host keeps for it and what the sockets take
            assert camera.answer(image).error is ErrorWord.NONE
            results.append(subscriber.receive(WAIT_MS).inspection.frame_id)
        os.kill(child.pid, signal.SIGCONT)
        for _ in range(40):
            camera.answer(image)
            time.sleep(0.05)
        child.kill()
        seen = [int(line) for line in child.stdout]
    assert results == list(range(1501))
    assert seen == sorted(set(seen))
    assert len(seen) < 1500
    assert seen[-1] > 1500


def test_a_slow_joiner(station, picture):
    """A subscriber gets what is published after it joined, and nothing older."""
    with station.camera() as camera:
        for number in range(3):
            camera.answer(picture(number))
        with station.subscriber() as subscriber:
            assert subscriber.receive(300) is None
            camera.answer(picture(7))
            received = subscriber.receive(WAIT_MS)
    assert received.inspection.frame_id == 3
    assert received.inspection.score == pytest.approx(right_answer(picture(7))[1], abs=1e-6)


def test_nonsense_to_the_status_socket(station, picture):
    """A peer that talks no REQ to the status socket neither stops the station nor the next one who asks."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        peer.connect(station.station.status)
        for parts in ([b"x"], [b"x", b"y"], [b"", b"x", b"y"], [b""]):
            peer.send_multipart(parts)
        time.sleep(0.2)
        with station.camera() as camera:
            assert camera.answer(picture(1)).error is ErrorWord.NONE
        assert station.status()["ready"]


#: ZMTP 3.0 (rfc.zeromq.org/spec/23): signature, version 3.0, NULL mechanism, as client, filler.
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


def _ready() -> bytes:
    body = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
    return b"\x04" + bytes([len(body)]) + body


def _read_until(peer: socket.socket, word: bytes) -> None:
    heard = b""
    while word not in heard:
        heard += peer.recv(64)
        assert heard


def _zmtp(parts: list[bytes]) -> list[bytes]:
    """Return the parts as ZMTP frames: long ones, with the "more" flag on all but the last."""
    flags = [3] * (len(parts) - 1) + [2]
    return [bytes([flag]) + len(part).to_bytes(8, "big") + part for flag, part in zip(flags, parts, strict=True)]
