"""Ctrl-C and SIGTERM end any long command at once, without a traceback and without leaving a process behind."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from runtime.local import free_addresses

pytestmark = pytest.mark.system


def wait_for(reached, process, seconds=60.0):
    """Wait until ``reached()`` while ``process`` lives."""
    give_up = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < give_up, "it took too long to start"
        time.sleep(0.02)


def descendants(pid):
    """Return the pids of all processes below ``pid``."""
    children = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that ended while we looked
            children += map(int, listed.read_text().split())
    return children + [each for child in children for each in descendants(child)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_calibration_is_interrupted(number, code, dataset, tmp_path, start):
    """A calibration that is interrupted ends with 128 + the signal's number and has stored no template."""
    process = start("calibrate", dataset, "--product", "part", "--threads", 1, "--set", "image_size=512")
    wait_for((tmp_path / "store").exists, process)  # made just before the long part
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert err == ("edgead: interrupted\n" if code == 130 else "")
    assert not [path for path in (tmp_path / "store").rglob("*.json") if "template" in path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_benchmark_leaves_nothing(number, start):
    """A benchmark that is ended takes host, worker and echo with it."""
    process = start("bench", "host", "--frames", 100_000)
    wait_for(lambda: len(descendants(process.pid)) >= 3, process)  # host, worker, echo
    below = descendants(process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    wait_gone(below)


def wait_gone(pids):
    """Wait until none of ``pids`` lives."""
    give_up = time.monotonic() + 10
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < give_up, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]
        time.sleep(0.05)


def test_a_camera_without_a_station_is_interrupted(dataset, start):
    """A camera that waits for a station ends at Ctrl-C with 130."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(60)
        process = start("camera", dataset, "--connect", f"tcp://127.0.0.1:{mute.getsockname()[1]}", "--loop")
        mute.accept()[0].close()  # it is that far
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "edgead: interrupted\n")


def test_watching_ends_well_with_ctrl_c(start):
    """Ctrl-C is how a person ends `edgead watch`: exit code 0, and the totals are printed."""
    (address,) = free_addresses(1)
    process = start("watch", "--connect", address, "--json")
    os.set_blocking(process.stderr.fileno(), True)
    assert process.stderr.readline().startswith("waiting for results")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert '"inspections": 0' in out.splitlines()[-1]
