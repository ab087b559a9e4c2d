"""The camera's side of the wire, against a socket of the test's own in the station's place."""

import time
import zlib

import numpy as np
import pytest
import zmq

from runtime.camera import CameraClient, CameraOptions
from runtime.errors import StationError, WireError
from runtime.inspection import Verdict
from runtime.sources import Acquired
from runtime.wire.messages import Receipt, decode_frame, encode_receipt


@pytest.fixture
def station():
    """Return (socket, address) of a ROUTER where a station would be."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVTIMEO, 20_000)
        port = sock.bind_to_random_port("tcp://127.0.0.1")
        yield sock, f"tcp://127.0.0.1:{port}"


@pytest.fixture
def connect(station):
    """Return a function that connects a camera with the options given."""
    clients = []

    def client(**options):
        clients.append(CameraClient(CameraOptions(name="top", address=station[1], **options)))
        return clients[-1]

    yield client
    for each in clients:
        each.close()


def image(channels):
    """Return a small image, uint8 [4, 6] or [4, 6, 3], not contiguous in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 12, channels), np.uint8)[:, ::2]
    return pixels[:, :, 0] if channels == 1 else pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_arrives_as_it_was_sent(channels, station, connect):
    """Pixels, shape, format and every option arrive in the frame message, numbered from 0 in one session."""
    client = connect(checksum=True, simulated=True, part_prefix="P")
    for number in range(2):
        client.send(Acquired(image(channels), 123, "a/b.png"), trigger_id=number + 7)
        _, *parts = station[0].recv_multipart(copy=False)
        header, pixels = decode_frame([part.buffer for part in parts])
        assert (header.camera, header.session, header.frame_id) == ("top", client.session, number)
        assert header.shape == (4, 6, channels)
        assert (header.acquired_ns, header.trigger_id, header.source) == (123, number + 7, "a/b.png")
        assert (header.part_id, header.simulated) == (f"P{number:06d}", True)
        assert bytes(pixels) == image(channels).tobytes()
        assert header.payload_crc32 == zlib.crc32(image(channels).tobytes())


def test_no_checksum_unless_asked(station, connect):
    """Without the options a frame carries no checksum and no part, and is not marked as simulated."""
    connect().send(Acquired(image(3), 1))
    _, *parts = station[0].recv_multipart(copy=False)
    header, _ = decode_frame([part.buffer for part in parts])
    assert (header.payload_crc32, header.part_id, header.simulated) == (None, "", False)


ACCEPTED = {"accepted": True, "seq": 1, "verdict": Verdict.OK}


@pytest.mark.parametrize(
    ("answer", "verdicts", "refused"),
    [
        (ACCEPTED, {"OK": 1}, {}),
        (ACCEPTED | {"verdict": Verdict.NOT_OK}, {"NotOK": 1}, {}),
        ({"accepted": False, "reason": "unknown_camera"}, {}, {"unknown_camera": 1}),
    ],
)
def test_receipts_are_counted(answer, verdicts, refused, station, connect):
    """Verdicts and refusals are counted apart, and both count as answered."""
    client = connect()
    client.send(Acquired(image(1), 1))
    identity, *_ = station[0].recv_multipart()
    receipt = Receipt(camera="top", session=client.session, frame_id=0, **answer)
    station[0].send_multipart([identity, *encode_receipt(receipt)])
    assert client.receive(20_000) == receipt
    assert client.count.as_json() == {
        "sent": 1,
        "sent_again": 0,
        "answered": 1,
        "verdicts": verdicts,
        "refused": refused,
    }


def test_bytes_that_are_no_receipt_are_refused(station, connect):
    """A station that answers nonsense is a WireError, not a verdict."""
    client = connect()
    client.send(Acquired(image(1), 1))
    identity, *_ = station[0].recv_multipart()
    station[0].send_multipart([identity, b"nonsense"])
    with pytest.raises(WireError):
        client.receive(20_000)
    assert client.count.answered == 0


def test_a_mute_station_is_named(station, connect):
    """A station that gives no receipt is an error after the timeout, with its address and how many frames are open."""
    client = connect(timeout_s=0.1)
    client.send(Acquired(image(1), 1))
    client.send(Acquired(image(1), 1))
    with pytest.raises(StationError, match="left 2 of 2 frames") as raised:
        client.wait_until_outstanding(0)
    assert station[1] in str(raised.value)


def take(sock):
    """Return (identity, frame id) of the next frame."""
    identity, *parts = sock.recv_multipart(copy=False)
    return identity.bytes, decode_frame([part.buffer for part in parts])[0].frame_id


def answer(sock, identity, client, frame_id):
    """Send a frame's receipt."""
    receipt = Receipt(camera="top", session=client.session, frame_id=frame_id, **ACCEPTED)
    sock.send_multipart([identity, *encode_receipt(receipt)])


@pytest.mark.parametrize("window", [0, 4])
def test_unanswered_frames_are_sent_again_to_a_station_that_came_back(window):
    """After a lost connection the frames without a receipt come again, no others, and count once however often told."""
    with zmq.Context() as context:
        context.setsockopt(zmq.LINGER, 0)
        first = context.socket(zmq.ROUTER)
        first.setsockopt(zmq.RCVTIMEO, 20_000)
        address = f"tcp://127.0.0.1:{first.bind_to_random_port('tcp://127.0.0.1')}"
        client = CameraClient(CameraOptions(name="top", address=address, window=window, timeout_s=20))
        for number in range(3):
            client.send(Acquired(image(1), number))
        (identity, _), *_ = [take(first) for _ in range(3)]
        answer(first, identity, client, 1)
        assert client.receive(20_000).frame_id == 1
        first.close()
        with context.socket(zmq.ROUTER) as second:
            second.setsockopt(zmq.RCVTIMEO, 20_000)
            give_up = time.monotonic() + 20
            while True:  # the first one's port is let go of in the background
                try:
                    second.bind(address)
                    break
                except zmq.ZMQError:
                    assert time.monotonic() < give_up
                    time.sleep(0.01)
            while client.count.sent_again < 2:
                assert client.receive(50) is None
                assert time.monotonic() < give_up
            again = [take(second) for _ in range(2)]
            assert [frame_id for _, frame_id in again] == [0, 2]
            for identity, frame_id in [again[0], *again]:
                answer(second, identity, client, frame_id)
            client.wait_until_outstanding(0)
            assert client.receive(100) is None
            account = client.count.as_json()
            client.close()
    assert account == {"sent": 3, "sent_again": 2, "answered": 3, "verdicts": {"OK": 3}, "refused": {}}
