"""A long run of a station with a detector that does nothing: what it holds must not grow with what it has done.

A camera sends as fast as receipts come back, everything is on record, a durable subscriber follows. Every ``EVERY_S``
seconds memory and open files of host and worker are read, and the sizes of ledger and evidence, whose limits are set so
low that retention works all the time. After the warm-up each must be flat: the slope of the least-squares line through
the samples, times the inspections they span, is what the station would have grown by.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import StationError
from runtime.inspection import Verdict
from runtime.local import child, free_addresses
from runtime.sim import follower
from runtime.sim.process import folder_mib, open_files, resident_mib
from runtime.store import Store
from runtime.testing.nothing import Nothing
from runtime.testing.station import PRODUCT, HandCamera, LocalStation, host_command, put_template, write_station

#: Most growth over the measured part of a run that is still noise: pages a process touches late, SQLite's caches.
MOST_GROWTH_MIB = 16.0
#: Descriptors that come and go: the checkpointer's connection, a file of evidence being written.
MOST_MORE_FILES = 8
#: Limits the station file sets, and one inspection in how many has evidence.
LEDGER_MB, EVIDENCE_MB, OK_EVERY = 64, 1, 50
#: What the disk may hold beyond them: the ledger's write-ahead log, and what comes between two turns of retention.
_SIZES = {"ledger_mib": (LEDGER_MB, 24.0), "evidence_mib": (EVIDENCE_MB, 1.0)}
#: Share of the run before the first sample that counts: caches fill, retention has not begun.
WARM_UP = 0.25
EVERY_S = 1.0
#: Frames on their way: enough that neither host nor worker ever waits for the camera.
WINDOW = 48
#: Least samples a slope is read from.
LEAST_SAMPLES = 5
_SHAPE = (32, 48)
_PLUGINS = ("runtime.testing.nothing",)

Progress = Callable[[int, int, str], None]
HostCommand = Callable[[Path, Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the station held after so many inspections."""

    inspections: int
    at_s: float
    host_mib: float
    worker_mib: float
    host_files: int
    worker_files: int
    ledger_mib: float
    evidence_mib: float


#: Figures of a sample that must not grow, with what the station may grow by over the measured part.
_FLAT = {
    "host_mib": MOST_GROWTH_MIB,
    "worker_mib": MOST_GROWTH_MIB,
    "host_files": MOST_MORE_FILES,
    "worker_files": MOST_MORE_FILES,
}


def soak(
    inspections: int, folder: Path, progress: Progress, *, start_host: HostCommand = host_command
) -> dict[str, Any]:
    """Run ``inspections`` frames through a station kept in ``folder``, which must be empty; return the figures.

    Keys: ``samples``, ``growth`` (MiB or files over the measured part, and per million inspections), ``wrong``:
    sentences, empty when everything is flat and within its limit. Raises ``StationError`` where the station fails.
    """
    path = _prepare(folder)
    with _station(path, start_host) as station, _followed(station, folder / "results"):
        begun = time.monotonic()
        samples = list(_drive(station, inspections, progress, begun))
        seconds = time.monotonic() - begun
        seq = station.status()["ledger"]["seq"]
        station.wait(lambda status: status["deliveries"]["subscribers"]["soak"]["lag"] == 0)
    delivered = len({line.seq for line in follower.read(folder / "results")})
    measured = [each for each in samples if each.inspections >= WARM_UP * inspections]
    record: dict[str, Any] = {
        "inspections": seq,
        "delivered": delivered,
        "seconds": round(seconds, 1),
        "per_second": round(seq / seconds, 1),
        "growth": growth(measured),
        "last": asdict(samples[-1]),
        "most": {name: round(max(getattr(each, name) for each in measured), 2) for name in _SIZES},
        "limits": {name: limit for name, (limit, _) in _SIZES.items()},
    }
    record["wrong"] = _wrong(record, inspections)
    return record | {"samples": [asdict(each) for each in samples]}


def growth(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return, for each figure that must be flat, its least-squares growth over the samples and per million inspections.

    Raises ``StationError`` for fewer than ``LEAST_SAMPLES``: a line through them would say nothing.
    """
    if len(samples) < LEAST_SAMPLES:
        raise StationError(f"expected {LEAST_SAMPLES} samples after the warm-up, found {len(samples)}: soak for longer")
    at = np.array([each.inspections for each in samples], np.float64)
    found = {}
    for name in _FLAT:
        values = np.array([getattr(each, name) for each in samples], np.float64)
        slope = float(np.polyfit(at - at.mean(), values, 1)[0])
        found[name] = {"measured": round(slope * float(at[-1] - at[0]), 3), "per_million": round(slope * 1e6, 3)}
    return found


def _wrong(record: dict[str, Any], inspections: int) -> list[str]:
    """Return a sentence for every promise that was not kept."""
    found = [
        f"{name}: expected to grow by at most {most:g} over the measured part, found {grown:g}"
        for name, most in _FLAT.items()
        if (grown := record["growth"][name]["measured"]) > most
    ]
    found += [
        f"{name}: expected at most {limit} MiB and {room:g} on the way, found {record['most'][name]:.1f}"
        for name, (limit, room) in _SIZES.items()
        if record["most"][name] > limit + room
    ]
    for name in ("inspections", "delivered"):
        if record[name] != inspections:
            found.append(f"{name}: expected {inspections}, found {record[name]}")
    return found


def _prepare(folder: Path) -> Path:
    put_template(Store.create(folder / "store"), Nothing(), 0.5)
    camera = {"product": PRODUCT, "detector": "nothing", "deadline_ms": 60_000, "queue": 64, "repeat_limit": None}
    evidence = {"most_mb": EVIDENCE_MB, "ok_every": OK_EVERY}
    return write_station(
        folder,
        {"top": camera},
        deliveries=free_addresses(1)[0],
        max_frame_bytes=1024 * 1024,
        ledger={"most_mb": LEDGER_MB, "evidence": evidence},
    )


@contextlib.contextmanager
def _station(path: Path, start_host: HostCommand) -> Iterator[LocalStation]:
    from runtime.station.config import load_station

    station, log = load_station(path), path.with_suffix(".log")
    with log.open("wb") as stream, child(start_host(path, _PLUGINS), stream) as process:
        running = LocalStation(path, station, process, log)
        running.wait(lambda status: bool(status["ready"]))
        try:
            yield running
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def _followed(station: LocalStation, file: Path) -> Iterator[None]:
    command = [sys.executable, "-P", "-m", "runtime.sim.follower", str(station.station.deliveries), "soak", str(file)]
    with child(command):
        station.wait(lambda status: "soak" in status["deliveries"]["subscribers"])
        yield


def _drive(station: LocalStation, inspections: int, progress: Progress, begun: float) -> Iterator[Sample]:
    """Send every frame, keeping ``WINDOW`` on their way; yield a sample every ``EVERY_S`` and one at the end."""
    noise = np.random.default_rng(0).integers(20, 235, 1 << 20, dtype=np.uint8)
    size = _SHAPE[0] * _SHAPE[1]
    due = 0.0
    with station.camera() as camera:
        answered = 0
        while answered < inspections:
            while camera.sent < min(inspections, answered + WINDOW):
                at = camera.sent * 389 % (len(noise) - size)  # another picture each time, for as long as a million
                camera.send(noise[at : at + size].reshape(_SHAPE))
            answered += _take(camera)
            if time.monotonic() >= due:
                due = time.monotonic() + EVERY_S
                yield _sample(station, answered, begun)
                progress(answered, inspections, "soak")
        yield _sample(station, answered, begun)
    progress(inspections, inspections, "soak")


def _take(camera: HandCamera) -> int:
    """Take the receipts that are there, at least one; return how many. ``StationError`` for one that is not OK."""
    taken = 0
    while not taken or camera.has_receipt():
        receipt = camera.receipt()
        if receipt.verdict is not Verdict.OK:
            raise StationError(f"expected OK for every frame, found {receipt}")
        taken += 1
    return taken


def _sample(station: LocalStation, answered: int, begun: float) -> Sample:
    status = station.status()
    host, worker = station.process.pid, status["cameras"]["top"]["worker_pid"]
    folder = station.path.parent / "ledger"
    return Sample(
        inspections=answered,
        at_s=round(time.monotonic() - begun, 3),
        host_mib=resident_mib(host),
        worker_mib=resident_mib(worker),
        host_files=open_files(host),
        worker_files=open_files(worker),
        ledger_mib=folder_mib(folder, "ledger.sqlite"),
        evidence_mib=folder_mib(folder / "evidence"),
    )


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    from runtime.doctor import cpu_name

    return {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}
