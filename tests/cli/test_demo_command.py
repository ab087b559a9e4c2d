"""The demo as a stranger runs it: from anywhere, with nothing, and nothing is left afterwards."""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import cv2
import pytest

from runtime.local import edgead_command

KEYS = {
    "frames", "inspections", "ok", "not_ok", "not_decidable", "image_auroc", "latency_ms_p50", "latency_ms_p99",
    "throughput_fps", "pictures",
}  # fmt: skip


def processes_of(folder):
    """Return the command lines of living processes that name ``folder``, or were started in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if int(entry.name) != os.getpid() and (str(folder) in line or (entry / "cwd").readlink() == folder):
                found.append(line)
        except OSError:
            continue  # it ended while we looked, or is somebody else's
    return found


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(600)
def test_the_demo(tmp_path):
    """`edgead demo --json` passes in any folder: all frames decided, defects found, pictures there, nothing left."""
    done = subprocess.run(
        edgead_command("demo", "--json"), cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.keys() >= KEYS
    assert figures["frames"] == figures["inspections"] == figures["ok"] + figures["not_ok"] == 82
    assert (figures["not_decidable"], figures["missing"], figures["passed"]) == (0, 0, True)
    assert figures["image_auroc"] >= 0.97
    assert figures["defects_found"] >= 0.95
    assert figures["good_passed"] >= 0.90
    assert 0 < figures["latency_ms_p50"] <= figures["latency_ms_p99"]
    sheet, *overlays = figures["pictures"]
    assert len(overlays) == 82
    assert all(cv2.imread(str(tmp_path / overlay)).shape == (320, 320, 3) for overlay in overlays)
    assert cv2.imread(str(tmp_path / sheet)).shape[1] > 900
    assert "<html" in (tmp_path / "edgead-demo" / "report.html").read_text(encoding="utf-8")
    assert processes_of(tmp_path) == []
    station = (tmp_path / "edgead-demo" / "station.yaml").read_text(encoding="utf-8")
    for port in re.findall(r"tcp://127\.0\.0\.1:(\d+)", station):
        socket.create_server(("127.0.0.1", int(port))).close()  # raises while anybody listens there
