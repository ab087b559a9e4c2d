"""A station for tests: a template nobody calibrated, a station file, the host process, a camera driven by hand."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import zmq

from runtime.client.subscriber import Subscriber, ask_status
from runtime.detector import Detector, DetectorContext
from runtime.errors import StationError
from runtime.frame import FrameHeader, PixelFormat
from runtime.local import free_addresses, running_host, wait_until
from runtime.station.config import Station, load_station
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.store.template import Template
from runtime.wire.messages import Receipt, decode_receipt, encode_frame

PRODUCT = "part"
#: Longest wait for anything that is bound to come: a worker's start on a loaded machine, not a promise of latency.
PATIENCE_S = 60.0


def put_template(
    store: Store, detector: Detector, threshold: float | None, settings: Mapping[str, Any] | None = None
) -> str:
    """Store and activate a template learnt from nothing, for a detector that needs nothing; return its id.

    ``threshold``: image threshold. ``settings``: checked against the detector's model.
    """
    content = detector.calibrate([], detector.settings_model(**(settings or {})), DetectorContext())
    template: Template = store.put_template(
        product=PRODUCT,
        detector=DetectorIdentity(name=detector.name, version=detector.version, distribution="edgead"),
        settings=content.settings,
        bank=content.tensors,
        capacity=content.capacity,
        valid=content.valid,
        map_shape=content.map_shape,
        thresholds=Thresholds(image=threshold, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
        golden=(),
        who="test",
    )
    store.activate(template.digest, who="test")
    return template.digest


def write_station(folder: Path, cameras: Mapping[str, Mapping[str, Any]], **fields: Any) -> Path:
    """Write a station file ``folder``/station.yaml on free loopback ports; ``fields`` replace or add to its keys."""
    frames, results, status = free_addresses(3)
    content = {
        "schema": "edgead.station/1",
        "station": "test",
        "frames": frames,
        "results": results,
        "status": status,
        "cameras": cameras,
        "worker": {"threads": 1},
        **fields,
    }
    path = folder / "station.yaml"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def host_command(path: Path, plugins: Sequence[str]) -> list[str]:
    """Return the command line of a host that runs ``path`` with plugin modules of the test's own, and nothing else."""
    program = (
        "import logging, sys\nfrom pathlib import Path\nfrom runtime.station.config import load_station\n"
        "from runtime.host.loop import Host\nlogging.basicConfig(level=logging.INFO)\n"
        "path = Path(sys.argv[1])\nHost(load_station(path), tuple(sys.argv[2:]), path).run()"
    )
    return [sys.executable, "-P", "-c", program, str(path), *plugins]


@dataclass(frozen=True)
class LocalStation:
    """A running station of this machine's own."""

    path: Path
    station: Station
    process: subprocess.Popen[bytes]
    log: Path

    def status(self) -> dict[str, Any]:
        """Ask the host."""
        return ask_status(self.station.status, PATIENCE_S)

    def wait(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask until ``reached(status)``; ``StationError`` after ``PATIENCE_S``."""
        return wait_until(self.station.status, reached, self.process, self.log, PATIENCE_S)

    def camera(self, name: str = "top") -> HandCamera:
        """Connect a camera."""
        return HandCamera(self.station.frames, name)

    @contextlib.contextmanager
    def subscriber(self, camera: str = "") -> Iterator[Subscriber]:
        """Connect a subscriber, and lend it once the host knows of it."""
        before = self.status()["subscriptions"]
        with Subscriber(self.station.results, self.station.station, camera) as subscriber:
            self.wait(lambda status: status["subscriptions"] > before)
            yield subscriber
        self.wait(lambda status: status["subscriptions"] <= before)


@contextlib.contextmanager
def local_station(
    path: Path, plugins: Sequence[str], reached: Callable[[dict[str, Any]], bool] = lambda status: bool(status["ready"])
) -> Iterator[LocalStation]:
    """Run the station of ``path`` until the block ends; see ``runtime.local.running_host`` for ``reached``."""
    station, log = load_station(path), path.with_suffix(".log")
    with running_host(host_command(path, plugins), station.status, log, reached) as process:
        yield LocalStation(path, station, process, log)


class HandCamera:
    """A camera connection whose every message is the test's to choose. Use as a context manager."""

    def __init__(self, address: str, name: str = "top") -> None:
        self.name = name
        self.session = secrets.randbits(64)
        self.sent = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def message(self, image: np.ndarray, pixel_format: PixelFormat | None = None, **fields: Any) -> list[bytes]:
        """Return the frame message for a uint8 image [H, W] or [H, W, 3], and count it as sent.

        ``pixel_format`` says what the bytes mean (default: mono8 or rgb8); ``fields`` go into the header.
        """
        guess = PixelFormat.MONO8 if image.ndim == 2 else PixelFormat.RGB8  # noqa: PLR2004 - grey
        values = {
            "camera": self.name,
            "session": self.session,
            "frame_id": self.sent,
            "height": image.shape[0],
            "width": image.shape[1],
            "pixel_format": pixel_format or guess,
            "acquired_ns": time.time_ns(),
        }
        self.sent += 1
        return [*encode_frame(FrameHeader(**(values | fields))), image.tobytes()]

    def send(self, image: np.ndarray, pixel_format: PixelFormat | None = None, **fields: Any) -> int:
        """Send an image; return its frame id."""
        self.send_parts(self.message(image, pixel_format, **fields))
        return self.sent - 1

    def send_parts(self, parts: Sequence[bytes]) -> None:
        """Send any message of one part or more."""
        self._socket.send_multipart(parts)

    def receipt(self, timeout_s: float = PATIENCE_S) -> Receipt:
        """Take the next receipt; ``StationError`` if none comes."""
        if not self._socket.poll(int(timeout_s * 1000)):
            raise StationError(f"no receipt within {timeout_s:g} s")
        return decode_receipt(self._socket.recv_multipart())

    def receipts(self, count: int) -> list[Receipt]:
        """Take ``count`` receipts."""
        return [self.receipt() for _ in range(count)]

    def answer(self, image: np.ndarray) -> Receipt:
        """Send one image and take its receipt."""
        self.send(image)
        return self.receipt()

    def has_receipt(self, timeout_s: float = 0.0) -> bool:
        """Tell whether a receipt waits to be taken."""
        return bool(self._socket.poll(int(timeout_s * 1000)))
