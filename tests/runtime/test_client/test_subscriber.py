"""Receiving results: filters, damage, silence."""

import threading
import time

import pytest
import zmq

from runtime.client.subscriber import Subscriber, ask_status
from runtime.errors import StationError, WireError
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.local import free_addresses
from runtime.wire.messages import encode_result


def inspection(camera="top", seq=1, station="line1"):
    """Return a result without a map."""
    return Inspection(
        result_id=f"0123456789abcdef-{seq}", seq=seq, station=station, camera=camera, session=1, frame_id=seq,
        verdict=Verdict.OK, error=ErrorWord.NONE, error_detail="", score=0.25, threshold=0.5, pixel_threshold=None,
        product="part", detector="hetmm", detector_version="1", template="0" * 64, frame_height=4, frame_width=6,
        acquired_ns=1, received_ns=2, published_ns=3, queue_us=4, detect_us=5, latency_us=6,
    )  # fmt: skip


@pytest.fixture
def publisher():
    """Return an XPUB socket where a station's would be, and its address."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.XPUB_VERBOSE, 1)
        port = sock.bind_to_random_port("tcp://127.0.0.1")
        yield sock, f"tcp://127.0.0.1:{port}"


def subscribed(publisher, *names):
    """Return a connected subscriber, once its subscription has arrived."""
    subscriber = Subscriber(publisher[1], *names)
    assert publisher[0].poll(20_000)
    publisher[0].recv()
    return subscriber


def test_a_result_arrives_as_it_was_published(publisher):
    """A published inspection is received as an equal one, without map and preview where it has none."""
    with subscribed(publisher) as subscriber:
        publisher[0].send_multipart(encode_result(inspection()))
        received = subscriber.receive(20_000)
    assert received.inspection == inspection()
    assert (received.map_payload, received.preview, received.anomaly_map()) == (None, None, None)


def test_camera_top_is_not_top2(publisher):
    """A topic filter is a prefix, and still only the camera asked for comes through."""
    with subscribed(publisher, "line1", "top") as subscriber:
        for seq, camera in enumerate(("top2", "top", "side", "top2"), 1):
            publisher[0].send_multipart(encode_result(inspection(camera, seq)))
        publisher[0].send_multipart(encode_result(inspection("top", 9, station="line12")))
        assert subscriber.receive(20_000).inspection.seq == 2
        assert subscriber.receive(200) is None


def test_a_camera_of_any_station(publisher):
    """Without a station's name the camera's name still decides."""
    with subscribed(publisher, "", "top") as subscriber:
        publisher[0].send_multipart(encode_result(inspection("side", 1)))
        publisher[0].send_multipart(encode_result(inspection("top", 2, station="line2")))
        assert subscriber.receive(20_000).inspection.station == "line2"


def test_others_results_do_not_reset_the_clock(publisher):
    """A subscriber of a silent camera gives up in time although another camera never stops."""
    with subscribed(publisher, "line1", "top") as subscriber:
        polled = []
        poll = subscriber._socket.poll

        def busy(timeout_ms):
            # Another camera's result is always there before the time is up, and takes a tenth of a second to come.
            polled.append(timeout_ms)
            time.sleep(min(timeout_ms, 100) / 1000)
            if timeout_ms:
                publisher[0].send_multipart(encode_result(inspection("top2", len(polled))))
            return poll(timeout_ms)

        subscriber._socket.poll = busy
        assert subscriber.receive(500) is None
    assert 3 <= len(polled) <= 8
    assert polled == sorted(polled, reverse=True)


@pytest.mark.parametrize("damage", ["cut", "flipped", "junk", "topic only"])
def test_a_damaged_message_is_a_wire_error(damage, publisher):
    """A message that is no result raises WireError, and the next whole one is received."""
    topic, header = encode_result(inspection())
    parts = {
        "cut": [topic, header[:-1]],
        "flipped": [topic, bytes([header[0] ^ 0xFF]) + header[1:]],
        "junk": [topic, header + b"x"],
        "topic only": [topic],
    }[damage]
    with subscribed(publisher) as subscriber:
        publisher[0].send_multipart(parts)
        publisher[0].send_multipart(encode_result(inspection(seq=2)))
        with pytest.raises(WireError):
            subscriber.receive(20_000)
        assert subscriber.receive(20_000).inspection.seq == 2


@pytest.mark.parametrize("count", [3, 5000])
def test_a_message_of_many_parts_is_one_wire_error(count, publisher):
    """However many parts a stranger's message has, it is refused once and the result behind it is received."""
    with subscribed(publisher) as subscriber:
        publisher[0].send_multipart([*encode_result(inspection()), *[b"x"] * count])
        publisher[0].send_multipart(encode_result(inspection(seq=2)))
        with pytest.raises(WireError, match="parts"):
            subscriber.receive(20_000)
        assert subscriber.receive(20_000).inspection.seq == 2


def test_results_end_with_silence(publisher):
    """`results` yields what comes and ends after the seconds of silence asked for."""
    with subscribed(publisher) as subscriber:
        for seq in (1, 2, 3):
            publisher[0].send_multipart(encode_result(inspection(seq=seq)))
        assert [each.inspection.seq for each in subscriber.results(0.5)] == [1, 2, 3]


def test_status_of_nobody():
    """Asking where nobody answers is a StationError naming the address and what to do."""
    (address,) = free_addresses(1)
    with pytest.raises(StationError, match="edgead run") as raised:
        ask_status(address, 0.1)
    assert address in str(raised.value)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400", b"\xff\xfe", b"[" * 100_000, b"[]", b'{"ready": true}', b""])
def test_status_of_something_else(answer):
    """An answer that is no station's status is a StationError naming the address and what to give instead."""
    with zmq.Context() as context, context.socket(zmq.REP) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        address = f"tcp://127.0.0.1:{stranger.bind_to_random_port('tcp://127.0.0.1')}"

        def reply():
            if stranger.poll(20_000):
                stranger.recv()
                stranger.send(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(StationError, match="status address of the station file") as raised:
            ask_status(address, 20)
        thread.join()
    assert address in str(raised.value)
