"""Measures what the host adds to moving a frame: a do-nothing detector beside a bare ZeroMQ echo of the same bytes.

All move the same frame messages over loopback TCP into another process. The echo sends the same bytes back; the station
puts the frame into shared memory, has a worker look at it, and publishes a result; a second station writes all of it
into its ledger before. The clock runs from handing over the message to holding the bytes that come back; reading them,
and the receipt that leaves the station behind each result, is done between two measurements. Blocks of all three
alternate in one run, because machines are noisy: read the ratios.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from runtime.client.watch import percentile
from runtime.doctor import cpu_name
from runtime.errors import StationError
from runtime.frame import FrameHeader, PixelFormat
from runtime.local import child, free_addresses, running_host
from runtime.shell import signals_held_back
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.testing.nothing import Nothing
from runtime.wire.messages import RESULT_TOPIC_PREFIX, decode_result, encode_frame

Progress = Callable[[int, int, str], None]

#: Frame sizes measured: a small colour frame and a 5-megapixel grey sensor.
CASES = ((320, 320, PixelFormat.RGB8), (2048, 2448, PixelFormat.MONO8))
#: Frames before the first measured one: connections, the worker's first graph.
FIRST_CONTACT = 3
#: Frames of one side before the other has its turn.
BLOCK = 25
#: Frames kept on their way when throughput is measured.
WINDOW = 6
_TIMEOUT_MS = 20_000


def bench_host(frames: int, progress: Progress) -> dict[str, Any]:
    """Return {"cases": [...], "machine": {...}}, measured over ``frames`` frames a case, rounded up to whole blocks.

    Latencies in milliseconds with one frame on its way; throughput in frames a second with ``WINDOW`` on their way.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        _station(Path(folder) / "host", ledger=False) as host,
        _station(Path(folder) / "ledger", ledger=True) as ledger,
        _echo() as echo,
    ):
        sides = {"echo": echo, "host": host, "ledger": ledger}
        cases = [_case(sides, case, frames, progress) for case in CASES]
    machine = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "frames_per_case": -(-frames // BLOCK) * BLOCK,
    }
    return {"cases": cases, "machine": machine}


def _case(
    sides: dict[str, _Echo], case: tuple[int, int, PixelFormat], frames: int, progress: Progress
) -> dict[str, Any]:
    height, width, pixel_format = case
    pixels = np.resize(np.arange(251, dtype=np.uint8), height * width * pixel_format.channels)
    name = f"{height} x {width} {pixel_format}"
    latencies: dict[str, list[int]] = {key: [] for key in sides}
    rates: dict[str, list[float]] = {key: [] for key in sides}
    # Numbered, in a session of the case's own: a station with a ledger inspects no frame twice.
    session = time.time_ns()
    headers = (FrameHeader("bench", session, each, height, width, pixel_format, session) for each in count())
    messages = ([*encode_frame(header), pixels.data] for header in headers)
    for message in islice(messages, FIRST_CONTACT):
        for side in sides.values():
            side.one(message)
    blocks = -(-frames // BLOCK)
    for block in range(blocks):
        singles, stream = list(islice(messages, BLOCK)), list(islice(messages, BLOCK))
        for key, side in sides.items():
            latencies[key] += [side.one(message) for message in singles]
            rates[key].append(BLOCK / side.many(stream))
        progress(block + 1, blocks, name)
    figures = {key: sorted(values) for key, values in latencies.items()}
    record: dict[str, Any] = {"case": name, "bytes": pixels.nbytes}
    for percent in (50, 99):
        for key in sides:
            record[f"{key}_ms_p{percent}"] = percentile(figures[key], percent)
        for key, figure in (("host", "ratio"), ("ledger", "ledger_ratio")):
            ratio = record[f"{key}_ms_p{percent}"] / record[f"echo_ms_p{percent}"]
            record[f"{figure}_p{percent}"] = round(ratio, 3)
    for key in sides:
        record[f"{key}_fps"] = round(float(np.median(rates[key])), 1)
    return record


class _Echo:
    """The bare echo: a DEALER whose messages another process sends back as they are."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        with signals_held_back():
            self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def one(self, message: list[Any]) -> int:
        """Send a message and wait for it; return microseconds."""
        started = time.perf_counter_ns()
        self._send(message)
        self._receive()
        elapsed_us = (time.perf_counter_ns() - started) // 1000
        self._rest(1)
        return elapsed_us

    def many(self, messages: list[list[Any]]) -> float:
        """Move messages with at most ``WINDOW`` on their way; return seconds."""
        started = time.perf_counter()
        for sent, message in enumerate(messages):
            if sent >= WINDOW:
                self._receive()
            self._send(message)
        for _ in range(min(WINDOW, len(messages))):
            self._receive()
        elapsed_s = time.perf_counter() - started
        self._rest(len(messages))
        return elapsed_s

    def _rest(self, number: int) -> None:
        """Take what else follows that many messages; not timed."""

    def _send(self, message: list[Any]) -> None:
        self._socket.send_multipart(message, copy=False)

    def _receive(self) -> None:
        _next(self._socket)


def _next(sock: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """Return the next message, uncopied."""
    if not sock.poll(_TIMEOUT_MS):
        raise StationError(f"no answer within {_TIMEOUT_MS} ms")
    return sock.recv_multipart(copy=False)


class _Station(_Echo):
    """The station: a frame goes in as a camera sends it, the result's bytes come out as a subscriber gets them."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], frames: str, results: str) -> None:
        super().__init__(context, frames)
        with signals_held_back():
            self._results = context.socket(zmq.SUB)
        self._results.setsockopt(zmq.SUBSCRIBE, RESULT_TOPIC_PREFIX)
        self._results.connect(results)
        self._received: list[list[zmq.Frame]] = []

    def _receive(self) -> None:
        self._received.append(_next(self._results))

    def _rest(self, number: int) -> None:
        """Read the results and, as a camera does in its own time, the receipts that leave the host behind them."""
        for message in self._received:
            inspection = decode_result([part.buffer for part in message])[0]
            if inspection.score is None:
                raise StationError(f"expected decided results, found {inspection.error}")
        self._received.clear()
        for _ in range(number):
            _next(self._socket)


@contextmanager
def _echo() -> Iterator[_Echo]:
    (address,) = free_addresses(1)
    with child([sys.executable, "-P", "-c", _ECHO_PROGRAM, address, str(os.getpid())]):
        context: zmq.Context[Any] = zmq.Context()
        try:
            yield _Echo(context, address)
        finally:
            context.destroy(linger=0)


_ECHO_PROGRAM = """
import os, sys, zmq
sock = zmq.Context().socket(zmq.ROUTER)
sock.bind(sys.argv[1])
while os.getppid() == int(sys.argv[2]):
    while sock.poll(1000):
        sock.send_multipart(sock.recv_multipart(copy=False), copy=False)
"""


@contextmanager
def _station(folder: Path, *, ledger: bool) -> Iterator[_Station]:
    """Run a host whose one camera, ``bench``, is looked at by the do-nothing detector."""
    folder.mkdir()
    content = Nothing().calibrate([], Nothing.settings_model(), None)  # type: ignore[arg-type]
    store = Store.create(folder / "store")
    template = store.put_template(
        product="bench",
        detector=DetectorIdentity(name="nothing", version=Nothing.version, distribution="edgead"),
        settings={},
        bank=content.tensors,
        capacity=1,
        valid=1,
        map_shape=content.map_shape,
        thresholds=Thresholds(image=1.0, pixel=1.0, rule="fixed", target=None, bound=None, held_out=0),
        golden=(),
        who="bench",
    )
    store.activate(template.digest, who="bench")
    frames, results, status = free_addresses(3)
    station = folder / "station.yaml"
    station.write_text(
        f"schema: edgead.station/1\nstation: bench\nframes: {frames}\nresults: {results}\nstatus: {status}\n"
        "cameras:\n  bench: {product: bench, detector: nothing, deadline_ms: 20000, queue: 16, repeat_limit: null}\n"
        f"worker: {{threads: 1}}\nledger: {'{}' if ledger else 'null'}\n",
        encoding="utf-8",
    )
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from runtime.station.config import load_station\nfrom runtime.host.loop import Host\n"
        "Host(load_station(Path(sys.argv[1])), ('runtime.testing.nothing',)).run()"
    )
    command = [sys.executable, "-P", "-c", program, str(station)]
    with running_host(command, status, folder / "host.log"):
        context: zmq.Context[Any] = zmq.Context()
        try:
            made = _Station(context, frames, results)
            time.sleep(0.3)  # the subscription travels to the publisher
            yield made
        finally:
            context.destroy(linger=0)
