"""One lane of a host that is not running: a worker the test plays, a clock the test sets."""

from __future__ import annotations

from typing import Any

import msgpack

from runtime.frame import FrameHeader, PixelFormat
from runtime.host.loop import Host
from runtime.host.publication import inspection_of
from runtime.lane.lane import Lane
from runtime.testing.faulty import MAP_SIDE
from runtime.testing.played_worker import PlayedWorker
from runtime.wire.messages import decode_result, encode_result

MS = 1_000_000
DEADLINE_MS = 100
MAP_BYTES = MAP_SIDE * MAP_SIDE * 2
PIXELS = memoryview(bytes(range(6)))
#: A number no junk value equals.
FIRST = 7


class Bench:
    """One lane of a host that is not running, with a worker the test plays, and a clock the test sets."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.lane: Lane = host.lanes["top"]
        self.worker: PlayedWorker = self.lane.worker  # type: ignore[assignment]
        self.now_ns = 0
        self.number = FIRST - 1

    def make_ready(self) -> None:
        """Start the worker and have it report."""
        assert self.lane.advance(self.now_ns) == []
        assert self.worker.played()["op"] == "setup"
        assert self.say({"op": "ready", "pid": 1}) == []

    def take(self, deadline_ns: int | None = None) -> Any:
        """Bring a frame; return its answer if it has one at once."""
        self.number += 1
        header = FrameHeader("top", 1, self.number, 2, 3, PixelFormat.MONO8, 0)
        return self.lane.take(header, PIXELS, self.number, self.now_ns, 0, deadline_ns=deadline_ns)

    def advance(self, ms: int = 0) -> list[Any]:
        """Let time pass; return the answers that fall due."""
        self.now_ns += ms * MS
        return self.lane.advance(self.now_ns)

    def say(self, *records: Any) -> list[Any]:
        """Have the worker send records (or raw packets); return the answers that come of it."""
        for record in records:
            packet = record if isinstance(record, bytes) else msgpack.packb(record)
            self.worker.end._socket.send(packet)
        return list(self.lane.read_worker(self.now_ns))

    def say_nothing(self) -> list[Any]:
        """Have the host read what a dead worker left; return the answers that come of it."""
        return list(self.lane.read_worker(self.now_ns))

    def status(self) -> dict[str, Any]:
        """Return what the host says of the camera."""
        return self.host.routes.by_camera["top"].status()

    def published(self, answer: Any) -> Any:
        """Return what a subscriber reads of an answer."""
        payloads = [part for part in (answer.map_payload, answer.preview) if part]
        inspection = inspection_of(self.lane, answer, seq=answer.number, station="test", run_id="run")
        return decode_result([*encode_result(inspection), *payloads])[0]


def done(number: int, **changes: Any) -> dict[str, Any]:
    """Return the record of a worker that decided: score 0.25 under a threshold of 0.5; ``...`` leaves a key out."""
    described = {
        "encoding": "raw",
        "dtype": "float16",
        "height": MAP_SIDE,
        "width": MAP_SIDE,
        "scale": 1.0,
        "offset": 0.0,
    }
    record = {
        "op": "done",
        "ticket": number,
        "score": 0.25,
        "detect_us": 5,
        "map_bytes": MAP_BYTES,
        "preview_bytes": 0,
        "map": described,
    }
    for key, value in changes.items():
        part, _, name = key.rpartition("map__")
        target = described if part or key.startswith("map__") else record
        if value is ...:
            del target[name]
        else:
            target[name] = value
    return record
