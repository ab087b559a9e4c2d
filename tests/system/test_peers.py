"""The C++ peers that docs/protocol.md quotes: compiled, and run against this side's decoders and encoders."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from runtime.wire.messages import (
    decode_frame,
    decode_inspection,
    decode_receipt,
    decode_result,
    decode_trigger,
    encode_result,
)

TESTS = Path(__file__).parents[1]
PEERS = TESTS / "peers"
# Without Boost: the packages of common distributions bring msgpack's headers alone.
COMPILE = ["g++", "-std=c++17", "-DMSGPACK_NO_BOOST", "-Wall", "-Wextra", "-Werror"]
WAIT_MS = 30_000

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def peers(tmp_path_factory) -> Path:
    """Return the folder of the compiled peers; skips where compiler or headers are missing."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    probe = "#include <zmq_addon.hpp>\n#include <msgpack.hpp>\n"
    found = subprocess.run([*COMPILE, "-E", "-x", "c++", "-"], input=probe, text=True, capture_output=True, check=False)
    if found.returncode:
        pytest.skip("g++ finds no zmq_addon.hpp or msgpack.hpp: install libzmq3-dev, cppzmq-dev, libmsgpack-cxx-dev")
    folder = tmp_path_factory.mktemp("peers")
    for name in ("camera", "trigger", "subscriber"):
        subprocess.run([*COMPILE, str(PEERS / f"{name}.cpp"), "-lzmq", "-o", str(folder / name)], check=True)
    return folder


@pytest.fixture
def bound(request) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    """Return a socket of the asked kind, bound to a free port, and its address."""
    with zmq.Context() as context, context.socket(request.param) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        port = sock.bind_to_random_port("tcp://127.0.0.1")
        yield sock, f"tcp://127.0.0.1:{port}"


def _vectors(file: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((TESTS / "vectors" / f"{file}.json").read_text())
    return vectors


def _parts(vector: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(part) for part in vector["parts"]]


@pytest.mark.parametrize("bound", [zmq.ROUTER], indirect=True)
@pytest.mark.parametrize("vector", _vectors("receipt"), ids=lambda vector: vector["name"])
def test_the_camera_of_the_protocol_document_is_understood(peers, bound, vector):
    """A camera written in C++ sends a frame this side decodes, and reads the receipt this side encodes."""
    router, address = bound
    with subprocess.Popen([peers / "camera", address, "cell-4_top"], stdout=subprocess.PIPE, text=True) as camera:
        identity, *parts = router.recv_multipart()
        router.send_multipart([identity, *_parts(vector)])
        output, _ = camera.communicate(timeout=30)
    header, pixels = decode_frame(parts)
    assert (header.camera, header.frame_id, header.shape) == ("cell-4_top", 0, (4, 6, 1))
    assert header.payload_crc32 is not None
    assert bytes(pixels) == bytes(range(0, 240, 10))
    receipt = decode_receipt(_parts(vector))
    assert output == (
        f"accepted {receipt.accepted:d} reason '{receipt.reason}' verdict {receipt.verdict:d} error {receipt.error}\n"
    )
    assert camera.returncode == 0


@pytest.mark.parametrize("bound", [zmq.ROUTER], indirect=True)
def test_the_trigger_source_of_the_protocol_document_is_understood(peers, bound):
    """A PLC bridge written in C++ raises a trigger this side decodes, and reads the receipt this side encodes."""
    router, address = bound
    receipt = next(vector for vector in _vectors("receipt") if vector["name"] == "trigger")
    with subprocess.Popen(
        [peers / "trigger", address, "top", "42", "SN-0042"], stdout=subprocess.PIPE, text=True
    ) as plc:
        identity, *parts = router.recv_multipart()
        router.send_multipart([identity, *_parts(receipt)])
        output, _ = plc.communicate(timeout=30)
    header = decode_trigger(parts)
    assert (header.camera, header.trigger_id, header.part_id, header.recipe) == ("top", 42, "SN-0042", "")
    assert header.raised_ns is not None
    assert output == "trigger 42 accepted 1 reason '' verdict 3 error camera_lost\n"
    assert plc.returncode == 0


@pytest.mark.parametrize("bound", [zmq.XPUB], indirect=True)
def test_the_subscriber_of_the_protocol_document_understands(peers, bound):
    """A subscriber written in C++ reads every result vector, and passes over a camera whose name begins the same."""
    publisher, address = bound
    messages = [_parts(vector) for vector in _vectors("result")]
    current = [_parts(vector)[:2] for vector in _vectors("result") if vector["encodes"]]
    assert [encode_result(decode_inspection(header)) for _, header in current] == current
    other = messages[0].copy()
    other[0] += b"2"  # passed over by its topic, before its header is looked at
    command = [peers / "subscriber", address, "cell-4", "top", str(len(messages))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as subscriber:
        assert publisher.recv() == b"\x01ead.v1.result.cell-4.top"
        for message in [other, *messages]:
            publisher.send_multipart(message)
        output, _ = subscriber.communicate(timeout=30)
    assert output.splitlines() == [_line(message) for message in messages]
    assert subscriber.returncode == 0


def _line(message: list[bytes]) -> str:
    """Return what the subscriber prints for a result."""
    inspection, payload, _ = decode_result(message)
    line = f"seq {inspection.seq} verdict {inspection.verdict:d} error {inspection.error}"
    if inspection.score is not None:
        line += f" score {inspection.score:g} threshold {inspection.threshold:g}"
    if inspection.map is not None and payload is not None:
        info = inspection.map
        line += f" map {info.encoding} {info.height} x {info.width}, {payload.nbytes} bytes"
    return line
