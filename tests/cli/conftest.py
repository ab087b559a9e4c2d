"""The command line as a user meets it: in this process for speed, or as a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

import edgead
from runtime.local import edgead_command
from runtime.testing.product import SimulatedProduct, write_dataset

#: Settings that make hetmm quick: small pictures, fixed windows.
QUICK = ("--set", "image_size=64", "--set", "windows=d0")


@dataclass(frozen=True)
class Done:
    """What a command left: exit code and everything it printed."""

    code: int
    out: str
    err: str

    @property
    def last(self):
        """The last line of stdout as JSON."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs one command line in this process, on a terminal of 80 columns."""

    def command(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["edgead", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            edgead.main()
        captured = capsys.readouterr()
        return Done(ended.value.code, captured.out, captured.err)

    return command


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a command as a process in a folder of its own; what is left is killed."""
    processes = []

    def begin(*arguments, cwd=None):
        folder = cwd or tmp_path
        environment = os.environ | {"COLUMNS": "80"}
        process = subprocess.Popen(
            edgead_command(*map(str, arguments)), cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Return a set in the MVTec layout: 6 references, 3 good test images and 7 bad ones, 128 x 128 px, with masks."""
    root = tmp_path_factory.mktemp("dataset")
    write_dataset(root, SimulatedProduct(seed=0, size=(128, 128)), 6, 3, 1)
    return root


@pytest.fixture(scope="session")
def calibrated(dataset, tmp_path_factory):
    """Return (store, id) of a store with one template, of hetmm for product ``part``, active."""
    from calibration.calibrate import CalibrationOptions
    from calibration.jobs import CalibrationJob, run_calibration
    from runtime.registry import load_plugins

    store = tmp_path_factory.mktemp("calibrated") / "store"
    job = CalibrationJob(
        dataset=dataset, product="part", detector="hetmm", store=store, settings=[*QUICK[1::2]], activate=True,
        who="test", options=CalibrationOptions(threads=1),
    )  # fmt: skip
    registry = load_plugins(edgead.BUILTIN_PLUGINS)
    return store, run_calibration(job, registry, lambda *_: None)["template"]


@pytest.fixture
def quick():
    """Return the options that make hetmm quick."""
    return (*QUICK, "--threads", "1")
