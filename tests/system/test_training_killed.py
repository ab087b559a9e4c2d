"""A calibration with training, killed by SIGKILL again and again, ends with the template of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

#: Detector -> kills, and settings with which a training of a few seconds has more checkpoints than kills.
TRAINED = {
    "cpr-faster": (10, ("image_size=80", "kind=texture", "train_steps=60", "nearest=4")),
    "prn": (2, ("image_size=128", "width=4", "train_steps=20")),
    "mspba": (2, ("image_size=192", "train=budget", "train_steps=20", "bank_rows=64", "dimension=8")),
}
#: The real command; only the seconds between two checkpoints are taken away, so that a short training has many.
PROGRAM = """
import sys
from plugins.training import loop
loop.CHECKPOINT_S = 0.0
import edgead
edgead.main()
"""


def command(detector, parts, store, checkpoint):
    """Return the command line of one calibration."""
    sets = [word for setting in TRAINED[detector][1] for word in ("--set", setting)]
    return [
        sys.executable, "-P", "-c", PROGRAM, "calibrate", str(parts), "--product", "plate", "--detector", detector,
        "--store", str(store), "--checkpoint", str(checkpoint), "--threads", "1", "--who", "test", "--json", *sets,
    ]  # fmt: skip


def changes_of(file, process, seen):
    """Wait until the checkpoint is another file than ``seen``, or the process has ended; return its identity."""
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if file.exists() and (now := file.stat().st_ino) != seen:
            return now
        time.sleep(0.005)
    return seen


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("detector", TRAINED)
def test_kills_change_nothing(tmp_path, detector):
    """Killed again and again in training, the calibration resumes each time and stores the very same template."""
    wanted = TRAINED[detector][0]
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in range(16):
        rng = np.random.default_rng(number)
        noise = cv2.GaussianBlur(rng.normal(0, 1, (80, 80)).astype(np.float32), (0, 0), 3)
        cv2.imwrite(str(parts / f"{number}.png"), np.clip(120 + 200 * noise, 0, 255).astype(np.uint8))
    environment = {**os.environ, "EDGEAD_WHO": "test"}
    whole = subprocess.run(
        command(detector, parts, tmp_path / "a", tmp_path / "ca"),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    file, seen, kills = tmp_path / "cb" / "checkpoint.edgead", 0, 0
    for number in range(wanted):
        with subprocess.Popen(
            command(detector, parts, tmp_path / "b", tmp_path / "cb"), env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            for _ in range(1 + number % 3):
                seen = changes_of(file, process, seen)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
    assert kills == wanted
    last = subprocess.run(
        command(detector, parts, tmp_path / "b", tmp_path / "cb"),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    digests = [json.loads(done.stdout.splitlines()[-1])["template"] for done in (whole, last)]
    assert digests[0] == digests[1]
    assert not file.exists()
