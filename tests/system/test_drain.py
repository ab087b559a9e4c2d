"""The end of a station, wanted or not, and stations that must not begin: nobody waits, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import zmq

from runtime.inspection import ErrorWord, Verdict
from runtime.local import edgead_command
from runtime.station.config import load_station
from runtime.testing.faulty import Fault, marked
from runtime.testing.station import PATIENCE_S, local_station

pytestmark = pytest.mark.system
FAULTY = ("runtime.testing.faulty",)


@pytest.fixture
def ipc(tmp_path_factory) -> dict[str, str]:
    """Return three ipc addresses in a folder whose name is short enough for a socket's."""
    folder = tmp_path_factory.mktemp("s")
    return {name: f"ipc://{folder}/{name}" for name in ("frames", "results", "status")}


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or dead and waiting for a parent that does not reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_end(pid: int) -> None:
    """Wait until a process that is no child of ours has ended."""
    give_up = time.monotonic() + PATIENCE_S
    while not has_ended(pid):
        assert time.monotonic() < give_up, f"process {pid} still runs"
        time.sleep(0.05)


def run(path: Path) -> subprocess.CompletedProcess[str]:
    """Run `edgead run` on a station file that cannot be started."""
    return subprocess.run(edgead_command("run", str(path)), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_drains(start, picture, ipc, number):
    """Frames in hand are inspected, later ones told "stopping", exit status 0, no child, no socket left."""
    station = start(**ipc)
    worker = station.status()["cameras"]["top"]["worker_pid"]
    with station.camera() as camera, station.camera() as late:
        camera.send(marked(picture(0), Fault.SLEEP, 100))
        for image in range(1, 6):
            camera.send(picture(image))
        station.wait(lambda status: status["frames"] == 6)
        # A terminal's Ctrl-C and systemd's SIGTERM reach the worker too.
        os.kill(worker, number)
        station.process.send_signal(number)
        station.wait(lambda status: status["state"] == "stopping")
        after = late.answer(picture(9))
        receipts = camera.receipts(6)
    assert station.process.wait(PATIENCE_S) == 0
    assert (after.verdict, after.error) == (Verdict.NOT_DECIDABLE, ErrorWord.STOPPING)
    assert [(receipt.frame_id, receipt.error) for receipt in receipts] == [(n, ErrorWord.NONE) for n in range(6)]
    assert has_ended(worker)
    assert [path for path in ipc.values() if os.path.exists(path.removeprefix("ipc://"))] == []  # noqa: PTH110
    with local_station(station.path, FAULTY) as again, again.camera() as camera:
        assert camera.answer(picture(1)).error is ErrorWord.NONE


@pytest.mark.slow
def test_draining_does_not_wait_for_a_hang(start, picture):
    """With a hung worker, frames in hand are answered at their deadlines, then the host ends the worker and itself."""
    station = start(deadline_ms=1_000)
    worker = station.status()["cameras"]["top"]["worker_pid"]
    with station.camera() as camera:
        camera.send(marked(picture(0), Fault.HANG))
        for number in range(3):
            camera.send(picture(number))
        station.wait(lambda status: status["frames"] == 4)
        station.process.send_signal(signal.SIGTERM)
        receipts = camera.receipts(4)
    assert station.process.wait(PATIENCE_S) == 0
    assert {receipt.verdict for receipt in receipts} == {Verdict.NOT_DECIDABLE}
    assert receipts[0].error is ErrorWord.DETECTOR_TIMEOUT
    assert has_ended(worker)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, Fault.HANG], ids=["idle", "hung"])
def test_a_killed_host_leaves_no_worker(start, picture, ipc, fault):
    """The worker of a host that was killed ends by itself, even a hung one, and a new host takes the addresses over."""
    station = start(**ipc)
    worker = station.status()["cameras"]["top"]["worker_pid"]
    with station.camera() as camera:
        if fault:
            camera.send(marked(picture(0), fault))
            station.wait(lambda status: status["frames"] == 1)
            time.sleep(0.3)  # the worker takes it up
    station.process.kill()
    station.process.wait(PATIENCE_S)
    wait_for_end(worker)
    assert Path(ipc["frames"].removeprefix("ipc://")).exists()  # left behind, as a kill does
    with local_station(station.path, FAULTY) as again, again.camera() as camera:
        assert camera.answer(picture(1)).error is ErrorWord.NONE


@pytest.mark.parametrize("key", ["frames", "results", "status"])
@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_a_taken_address_is_refused(station_file, ipc, kind, key):
    """A second station on an address of a running one ends with exit status 7, names the key, and harms nothing."""
    path = station_file(**({} if kind == "tcp" else ipc))
    address = getattr(load_station(path), key)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as owner, context.socket(zmq.DEALER) as client:
        owner.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.LINGER, 0)
        owner.bind(address)
        done = run(path)
        client.connect(address)
        client.send(b"still there")
        assert owner.poll(10_000)
    assert done.returncode == 7
    assert f"cannot bind {key}: {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_a_file_is_not_overwritten(station_file, ipc):
    """An ipc address where a file lies ends with exit status 7, and the file stays as it is."""
    path = station_file(**ipc)
    file = Path(ipc["status"].removeprefix("ipc://"))
    file.write_text("measurements", encoding="utf-8")
    done = run(path)
    assert (done.returncode, file.read_text(encoding="utf-8")) == (7, "measurements")
    assert "no socket" in done.stderr


def test_a_missing_template_is_refused(station_file):
    """A station whose product has no active template ends with exit status 4 and names it."""
    path = station_file()
    path.write_text(path.read_text().replace('"product": "part"', '"product": "lid"'))
    done = run(path)
    assert done.returncode == 4
    assert "lid" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_station_file_is_refused(station_file):
    """A station file with two faults ends with exit status 2 and gives file, line and key of both."""
    path = station_file()
    lines = path.read_text().splitlines()
    port = next(number for number, line in enumerate(lines, 1) if '"frames"' in line)
    lines[port - 1] = ' "frames": "tcp://127.0.0.1:99999",'
    lines.insert(1, ' "surprise": 1,')
    path.write_text("\n".join(lines))
    done = run(path)
    assert done.returncode == 2
    assert f"{path}:2: surprise" in done.stderr
    assert f"{path}:{port + 1}: frames" in done.stderr
    assert "Traceback" not in done.stderr
