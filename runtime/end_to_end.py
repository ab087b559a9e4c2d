"""Measures the whole line beside the bare detector: camera process -> host -> worker -> subscriber, in one run.

The bare detector is the same template and engine in a process that does nothing but answer frames that lie in its
memory. It and the line take turns, block by block, with the golden frames; both run one process that calculates. What
the line adds to a frame is the time from the camera's clock to the subscriber's hands, less what the worker measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from runtime.client.subscriber import Subscriber
from runtime.client.watch import percentile
from runtime.doctor import cpu_name
from runtime.errors import StationError
from runtime.frame import PixelFormat
from runtime.lane.assignment import assignments
from runtime.local import free_addresses, running_host
from runtime.station.config import Station, load_station
from runtime.store import Store

Progress = Callable[[int, int, str], None]

#: Frames of one side before the other has its turn, and frames on their way while throughput is measured.
BLOCK = 25
WINDOW = 4
_PATIENCE_MS = 120_000
#: What a bench must not meet: frames that repeat, gates that close, a queue that is full.
_CALM: dict[str, Any] = {
    "deadline_ms": 60_000, "queue": 16, "exposure": None, "repeat_limit": None, "guard": None, "recipes": {},
    "triggers": "with_frame",
}  # fmt: skip


def bench_end_to_end(station: Station, builtins: tuple[str, ...], frames: int, progress: Progress) -> dict[str, Any]:
    """Return {"line": {...}, "machine": {...}} for the first camera of ``station``.

    ``frames``: per side and kind of block, rounded up to whole blocks. ``line``: frames a second of the bare detector
    and of the line with ``WINDOW`` on their way, medians over the blocks, and their ratio; milliseconds the line adds
    to a frame with one on its way, p50 and p99. Raises ``StationError`` where the station does not decide every frame.
    """
    name = next(iter(station.cameras))
    with tempfile.TemporaryDirectory() as folder:
        path = _calm_copy(station, name, Path(folder))
        calm = load_station(path)
        template = Store(calm.store).active(calm.cameras[name].product, calm.cameras[name].detector)
        golden = [each.frame for each in template.golden()]
        if not golden:
            raise StationError(f"template {template.digest[:12]}: expected golden frames to send, found none")
        images = Path(folder) / "frames.npz"
        np.savez(images, *golden)
        setup = assignments(calm, {(name, ""): template}, builtins)[name, ""].setup
        command = [sys.executable, "-P", "-c", _HOST, str(path), *builtins]
        with (
            running_host(command, calm.status, Path(folder) / "host.log"),
            _partner(_CAMERA, calm.frames, name, str(images)) as sender,
            _partner(_BARE, json.dumps(setup), str(images)) as bare,
            Subscriber(calm.results, calm.station, name) as subscriber,
        ):
            time.sleep(0.5)  # the subscription travels to the publisher
            figures = _Line(sender, bare, subscriber).measure(-(-frames // BLOCK), progress)
    shape = " x ".join(map(str, golden[0].shape))
    described = {"detector": calm.cameras[name].detector, "frame": shape, "engine": _engine(calm)}
    machine = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "frames": -(-frames // BLOCK) * BLOCK,
    }
    return {"line": described | figures, "machine": machine}


class _Line:
    """The line and the bare detector, asked in turns."""

    def __init__(self, sender: _Partner, bare: _Partner, subscriber: Subscriber) -> None:
        self._sender, self._bare, self._subscriber = sender, bare, subscriber

    def measure(self, blocks: int, progress: Progress) -> dict[str, Any]:
        """Measure; see ``bench_end_to_end``."""
        self._one_by_one()
        self._bare.ask(f"{BLOCK} {WINDOW}")
        added: list[int] = []
        whole: list[int] = []
        bare_fps, line_fps = [], []
        for block in range(blocks):
            bare_fps.append(BLOCK / float(self._bare.ask(f"{BLOCK} {WINDOW}")))
            taken = self._one_by_one()
            added += [total - detect for total, detect in taken]
            whole += [total for total, _ in taken]
            started = time.perf_counter()
            self._block(BLOCK, WINDOW)
            line_fps.append(BLOCK / (time.perf_counter() - started))
            progress(block + 1, blocks, "end to end")
        bare, line = float(np.median(bare_fps)), float(np.median(line_fps))
        return {
            "bare_fps": round(bare, 2),
            "bare_ms": round(1000 / bare, 3),
            "line_fps": round(line, 2),
            "throughput_ratio": round(float(np.median(np.divide(line_fps, bare_fps))), 3),
            **{f"added_ms_p{percent}": percentile(sorted(added), percent) for percent in (50, 99)},
            **{f"whole_ms_p{percent}": percentile(sorted(whole), percent) for percent in (50, 99)},
        }

    def _one_by_one(self) -> list[tuple[int, int]]:
        """Move a block, each frame when the result before it is here: its receipt alone would set two on their way."""
        return [taken for _ in range(BLOCK) for taken in self._block(1, 1)]

    def _block(self, count: int, window: int) -> list[tuple[int, int]]:
        """Move frames with ``window`` without receipt; return (microseconds from camera to here, of them detecting)."""
        self._sender.tell(f"{count} {window}")
        taken = []
        for _ in range(count):
            received = self._subscriber.receive(_PATIENCE_MS)
            if received is None:
                raise StationError(f"no result within {_PATIENCE_MS // 1000} s")
            inspection = received.inspection
            if inspection.score is None:
                raise StationError(f"expected decided results, found {inspection.error}: {inspection.error_detail}")
            total_us = (time.time_ns() - inspection.acquired_ns) // 1000
            taken.append((total_us, inspection.detect_us))
        self._sender.answer()
        return taken


class _Partner:
    """A process that does a block of work for every line it is told, and answers with one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, line: str) -> None:
        """Send a line."""
        stream = self._process.stdin
        if stream is not None:
            stream.write(f"{line}\n")
            stream.flush()

    def answer(self) -> str:
        """Return the next line; ``StationError`` where the process has ended."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise StationError(f"bench: a partner process ended with status {self._process.wait()}; see stderr")
        return line

    def ask(self, line: str) -> str:
        """Send a line and return its answer."""
        self.tell(line)
        return self.answer()


@contextmanager
def _partner(program: str, *arguments: str) -> Iterator[_Partner]:
    command = [sys.executable, "-P", "-c", program, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            partner = _Partner(process)
            partner.answer()  # it is ready
            yield partner
        finally:
            process.kill()


def _calm_copy(station: Station, name: str, folder: Path) -> Path:
    """Write a station file with one camera, on addresses of its own, whose ledger lies in ``folder``."""
    plain = station.model_dump(mode="json", by_alias=True)
    frames, results, status = free_addresses(3)
    plain |= {"frames": frames, "results": results, "status": status, "deliveries": None, "publishers": {}}
    plain |= {"cameras": {name: plain["cameras"][name] | _CALM}, "parts_per_min": None}
    if plain["ledger"] is not None:
        plain["ledger"]["path"] = str(folder / "ledger")
    path = folder / "station.yaml"
    path.write_text(json.dumps(plain), encoding="utf-8")  # JSON is YAML
    return path


def _engine(station: Station) -> str:
    worker = station.worker
    return "eager" if worker.backend == "eager" else f"{worker.backend} {worker.precision}"


#: Told "COUNT WINDOW": sends as many of the frames in turn with that many unanswered, and says so.
_CAMERA = f"""
from runtime.process_defaults import set_process_defaults
set_process_defaults()
import sys, time, secrets, zmq
import numpy as np
from runtime.frame import FrameHeader, PixelFormat
from runtime.wire.messages import encode_frame
address, camera, path = sys.argv[1:]
images = [np.ascontiguousarray(image) for image in np.load(path).values()]
formats = {{2: PixelFormat.{PixelFormat.MONO8.name}, 3: PixelFormat.{PixelFormat.RGB8.name}}}
sock = zmq.Context().socket(zmq.DEALER)
sock.setsockopt(zmq.LINGER, 0)
sock.connect(address)
session, sent = secrets.randbits(64), 0
print("ready", flush=True)
for line in sys.stdin:
    count, window = map(int, line.split())
    for number in range(count):
        if number >= window:
            sock.recv_multipart()
        image = images[sent % len(images)]
        height, width = image.shape[:2]
        header = FrameHeader(camera, session, sent, height, width, formats[image.ndim], time.time_ns())
        sock.send_multipart([*encode_frame(header), image.data], copy=False)
        sent += 1
    for _ in range(min(window, count)):
        sock.recv_multipart()
    print("done", flush=True)
"""

#: Told "COUNT WINDOW": answers as many of the frames in turn, and says how many seconds that took.
_BARE = """
import json, sys, time
from runtime.process_defaults import set_process_defaults
set_process_defaults()
import numpy as np
from runtime.worker.process import load
engine = load(json.loads(sys.argv[1])).engine
import torch
images = [np.ascontiguousarray(image) for image in np.load(sys.argv[2]).values()]
print("ready", flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        count = int(line.split()[0])
        started = time.perf_counter()
        for number in range(count):
            engine.infer(images[number % len(images)])
        print(time.perf_counter() - started, flush=True)
"""

_HOST = (
    "import sys\nfrom runtime.process_defaults import set_process_defaults\nset_process_defaults()\n"
    "from pathlib import Path\n"
    "from runtime.station.config import load_station\nfrom runtime.host.loop import Host\n"
    "Host(load_station(Path(sys.argv[1])), tuple(sys.argv[2:])).run()"
)
