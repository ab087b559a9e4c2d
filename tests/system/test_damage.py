"""Damaged, hostile and senseless messages into the frame socket of a running station."""

from __future__ import annotations

import random
import socket
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from runtime.errors import WireError
from runtime.frame import PixelFormat
from runtime.testing.faulty import right_answer
from runtime.wire.header import MAX_HEADER_BYTES, MAX_SIDE_PX, REFUSALS, U64
from runtime.wire.messages import FRAME_TOPIC, decode_frame

pytestmark = pytest.mark.system
WAIT_MS = 60_000
SHAPE = (12, 20)
#: Messages on their way; the station answers each, so this paces the sender.
WINDOW = 200
#: Every how many damaged messages a good frame goes between them.
GOOD_EVERY = 250
LARGEST_GROWTH_MIB = 32
JUNK = [
    None,
    True,
    -1,
    2**63,
    U64,
    1.5,
    float("nan"),
    "",
    "x" * 600,
    b"\xff",
    [],
    {"a": 1},
    [[]] * 50,
    "mono16",
    "../etc",
]
SIZES = [0, 1, 12, 13, 20, MAX_SIDE_PX, MAX_SIDE_PX + 1, 2**31, 2**32, U64]


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_every_damaged_message_is_refused_and_counted(station, picture, count):
    """Each of so many damaged messages is refused with the right word, costs no memory, and harms no good frame."""
    host = station.process.pid
    images = [picture(number, SHAPE) for number in range(count // GOOD_EVERY + 2)]
    with station.camera() as camera, station.subscriber() as subscriber:
        assert all(camera.answer(images[0]).accepted for _ in range(300))  # every slot has been used once
        while subscriber.receive(200):
            pass
        first = camera.sent
        before, started, memory = Counter(station.status()["refused"]), time.monotonic(), [resident_mib(host)]
        expected: Counter[str] = Counter()
        waiting: deque[str] = deque()
        scores: dict[int, float] = {}
        for number, parts in enumerate(damaged_messages(camera, count)):
            if number % GOOD_EVERY == 0:
                camera.send(images[camera.sent - first])
                memory.append(resident_mib(host))
            waiting.append(refusal(parts))
            expected[waiting[-1]] += 1
            camera.send_parts(parts)
            while len(waiting) > WINDOW:
                take_receipt(camera, waiting)
            take_results(subscriber, scores)
        while waiting:
            take_receipt(camera, waiting)
        camera.send(images[camera.sent - first])
        while len(scores) < camera.sent - first:
            take_results(subscriber, scores, WAIT_MS)
        memory.append(resident_mib(host))
        seconds = time.monotonic() - started
    assert expected.total() == count
    assert Counter(station.status()["refused"]) - before == expected
    of_a_station = {"frame_reused", "unrecorded", "no_trigger", "late", "second", "not_ahead"}
    assert set(expected) == set(REFUSALS) - of_a_station  # every word that bytes can provoke was
    for frame_id, score in scores.items():
        assert score == pytest.approx(right_answer(images[frame_id - first])[1], abs=1e-6)
    print(  # noqa: T201 - the figures, with pytest -s
        f"\n{count} damaged messages in {seconds:.1f} s, {len(scores)} good frames between them; resident MiB before "
        f"{memory[0]:.1f}, most {max(memory):.1f}, after {memory[-1]:.1f}; refused {dict(expected.most_common())}"
    )
    assert max(memory) - memory[0] < LARGEST_GROWTH_MIB


def test_parts_beyond_every_limit(station, picture):
    """A part larger than the station's largest frame cuts its sender's connection, and nobody else's."""
    host = station.process.pid
    before = resident_mib(host)
    with station.camera() as good, station.camera() as hostile:
        assert good.answer(picture(1)).accepted
        for index in range(3):
            parts = hostile.message(picture(1))
            parts[index] = bytes(station.station.max_frame_bytes + 1)
            hostile.send_parts(parts)
            assert good.answer(picture(2)).accepted
        assert not hostile.has_receipt(0.3)
    with station.camera() as camera:
        assert camera.answer(picture(3)).accepted
    assert resident_mib(host) - before < LARGEST_GROWTH_MIB


def test_connections_that_speak_something_else(station, picture):
    """Web browsers, TLS, noise and half a greeting on every port of the station change nothing for its cameras."""
    rng = random.Random(0)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    openings = [
        b"",
        b"GET / HTTP/1.1\r\nHost: station\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
        greeting[:9],
        greeting,
        greeting + b"\x04\xff" + rng.randbytes(255),
        greeting + b"\x06" + (2**63 - 1).to_bytes(8, "big") + rng.randbytes(100),
        greeting.replace(b"NULL", b"PLAIN"[:4]) + rng.randbytes(100),
        b"\x01\x00" + b"\x7f" + rng.randbytes(50),  # a peer of ZMTP 1.0
        *(rng.randbytes(rng.randint(1, 4000)) for _ in range(30)),
    ]
    host = station.process.pid
    before = resident_mib(host)
    opened = []
    with station.camera() as camera:
        addresses = (station.station.frames, station.station.results, station.station.status)
        for opening, address in product(openings, addresses):
            name, _, port = address.removeprefix("tcp://").rpartition(":")
            peer = socket.create_connection((name, int(port)))
            peer.sendall(opening)
            opened.append(peer)  # half of them stay open
            if len(opened) % 2:
                opened.pop().close()
            assert camera.answer(picture(len(opened))).accepted
        assert station.status()["ready"]
        for peer in opened:
            peer.close()
    assert resident_mib(host) - before < LARGEST_GROWTH_MIB


def resident_mib(pid: int) -> float:
    """Return the process's resident memory, shared slots included, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def take_receipt(camera, waiting: deque[str]) -> None:
    """Take one receipt: the next refusal, with its word, or a good frame's."""
    receipt = camera.receipt()
    if not receipt.accepted:
        assert receipt.reason == waiting.popleft()


def take_results(subscriber, scores: dict[int, float], wait_ms: int = 0) -> None:
    """Note the scores that have come; each frame has one, once."""
    while received := subscriber.receive(wait_ms):
        assert received.inspection.frame_id not in scores
        scores[received.inspection.frame_id] = received.inspection.score
        wait_ms = 0


def refusal(parts: list[bytes]) -> str:
    """Return the word this message must be refused with."""
    try:
        header, _ = decode_frame(parts, max_payload_bytes=1024 * 1024)
    except WireError as error:
        return error.reason
    assert header.camera not in {"top", "side"}, "this message is not damaged"
    return "unknown_camera"


def damaged_messages(camera, count: int) -> Iterator[list[bytes]]:
    """Yield ``count`` messages none of which is a frame: everything systematic first, then random ones."""
    pixels = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
    good = camera.message(pixels, payload_crc32=zlib.crc32(pixels))
    camera.sent -= 1  # it was not sent: the next good frame has this number
    made = 0
    for parts in [*cut_and_flipped(good), *lies(good)]:
        made += 1
        yield parts
    assert made < count
    rng = random.Random(1)
    while made < count:
        parts = at_random(rng, good)
        if parts != good:
            made += 1
            yield parts


def cut_and_flipped(good: list[bytes]) -> Iterator[list[bytes]]:
    """Yield every prefix of each part, every flipped bit of topic and header, and one flipped bit of every pixel."""
    for index, part in enumerate(good):
        for length in range(len(part)):
            yield replaced(good, index, part[:length])
        yield replaced(good, index, part + b"\0")
        for position, bit in product(range(len(part)), range(8 if index < 2 else 1)):
            flipped = bytearray(part)
            flipped[position] ^= 1 << bit
            yield replaced(good, index, bytes(flipped))


def lies(good: list[bytes]) -> Iterator[list[bytes]]:
    """Yield well-sealed headers that lie, wrong topics, and wrong numbers of parts."""
    fields = msgpack.unpackb(good[1][:-4])
    shapes = [(h, w, p) for h, w, p in product(SIZES, SIZES, PixelFormat) if h * w * p.channels != len(good[2])]
    changes: list[dict[str, Any]] = [{"height": h, "width": w, "pixel_format": p.value} for h, w, p in shapes]
    changes += [{name: value} for name, value in product(("schema", "version", "camera", "pixel_format"), JUNK)]
    changes += [{"schema": "edgead.result"}, {"version": [2, 0]}, {"version": [1]}, {"camera": "topp"}, {"session": -1}]
    for change in changes:
        yield replaced(good, 1, sealed(msgpack.packb(fields | change)))
    for packed in (
        b"",
        b"\xc0",
        b"\x90",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        bytes(MAX_HEADER_BYTES),
    ):
        yield replaced(good, 1, sealed(packed))
    for topic in (b"", b"ead.v2.frame", b"ead.v1.result.a.b", b"ead.v1.frame.", bytes(100_000)):
        yield replaced(good, 0, topic)
    for number in (1, 2, 4, 5, 6):
        yield (good * 2)[:number]
        yield [b""] * number
    yield good[::-1]


def at_random(rng: random.Random, good: list[bytes]) -> list[bytes]:
    """Return random parts, or the good message with a random piece overwritten, cut out or doubled."""
    if rng.random() < 0.3:
        parts = [rng.randbytes(rng.choice([0, 1, 5, 300, 2000])) for _ in range(rng.randint(1, 6))]
        return parts if rng.random() < 0.5 else [FRAME_TOPIC, *parts]
    index = rng.choices(range(3), (1, 4, 4))[0]
    part = bytearray(good[index])
    start = rng.randrange(len(part))
    piece = slice(start, start + rng.randint(1, 40))
    part[piece] = rng.choice([rng.randbytes(rng.randint(0, 60)), b"", bytes(part[piece]) * 2])
    return replaced(good, index, bytes(part))


def replaced(parts: list[bytes], index: int, part: bytes) -> list[bytes]:
    """Return the message with one part replaced."""
    return [*parts[:index], part, *parts[index + 1 :]]


def sealed(packed: bytes) -> bytes:
    """Return a header part whose checksum is right, whatever it holds."""
    return packed + zlib.crc32(packed).to_bytes(4, "big")
