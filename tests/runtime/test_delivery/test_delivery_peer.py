"""The C++ subscriber that docs/delivery.md quotes: compiled, and run against a station."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PEERS = Path(__file__).parents[2] / "peers"
# Without Boost: the packages of common distributions bring msgpack's headers alone.
COMPILE = ["g++", "-std=c++17", "-DMSGPACK_NO_BOOST", "-Wall", "-Wextra", "-Werror"]

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def durable(tmp_path_factory) -> Path:
    """Return the compiled peer; skips where compiler or headers are missing."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    probe = "#include <zmq_addon.hpp>\n#include <msgpack.hpp>\n"
    found = subprocess.run([*COMPILE, "-E", "-x", "c++", "-"], input=probe, text=True, capture_output=True, check=False)
    if found.returncode:
        pytest.skip("g++ finds no zmq_addon.hpp or msgpack.hpp: install libzmq3-dev, cppzmq-dev, libmsgpack-cxx-dev")
    program = tmp_path_factory.mktemp("peers") / "durable"
    subprocess.run([*COMPILE, PEERS / "durable.cpp", "-lzmq", "-o", program], check=True)
    return program


def test_the_subscriber_of_the_document_gets_everything(durable, processes):
    """A subscriber written in C++ takes results in order, and goes on behind what it acknowledged when run again."""
    processes.serve(parts_per_s=500, parts=30)
    seqs = []
    for count in (12, 18):
        done = subprocess.run(
            [durable, processes.address, "mes", str(count)], capture_output=True, text=True, timeout=30, check=True
        )
        rows = [line.split() for line in done.stdout.splitlines()]
        assert all((row[0], row[2], row[4], row[5]) == ("seq", "historical", "verdict", "1") for row in rows)
        seqs += [int(row[1]) for row in rows]
    assert seqs == list(range(1, 31))
