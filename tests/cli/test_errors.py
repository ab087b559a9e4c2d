"""A user's mistake is one line on stderr and a documented exit code, never a traceback."""

import socket

import cv2
import numpy as np
import pytest

QUICK = "--set image_size=64 --set windows=d0 --threads 1"

#: command line (in a folder as ``place`` makes it) -> exit code, words of the message.
MISTAKES = {
    "calibrate nowhere --product part": (2, "nowhere"),
    "calibrate empty --product part": (2, "good images"),
    "calibrate good --product Part/1": (2, "--product"),
    "calibrate good --product part --preset nosuch": (2, "hetmm-d0"),
    "calibrate good --product part --preset nosuch.yaml": (2, "nosuch.yaml"),
    "calibrate good --product part --preset other.yaml": (2, "brightness"),
    "calibrate good --product part --set image_size": (2, "KEY=VALUE"),
    "calibrate good --product part --set image_size=[1": (2, "YAML"),
    "calibrate good --product part --set nosuch=1": (2, "nosuch"),
    "calibrate good --product part --set image_size=1": (2, "image_size"),
    "calibrate good --product part --set backbone=resnet18": (6, "edgead weights fetch resnet18"),
    "calibrate good --product part --detector nosuch": (2, "hetmm"),
    "calibrate good --product part --device tpu": (2, "cuda:N"),
    "calibrate good --product part --threads -1": (2, "--threads"),
    "calibrate good --product part --false-reject 2": (2, "--false-reject"),
    "calibrate good --product part --report empty": (2, "another place"),
    "calibrate good --product part --store file": (4, "file"),
    f"calibrate damaged --product part {QUICK}": (2, "zz.png"),
    "calibrate good": (2, "edgead calibrate --help"),
    "evaluate nowhere": (2, "nowhere"),
    "evaluate good": (2, "test images"),
    "evaluate good --scores file/scores.csv": (2, "test images"),
    "templates list": (4, "edgead calibrate"),
    "templates show abcd": (4, "store"),
    "templates rollback part": (4, "store"),
    "templates import nosuch --store new": (4, "nosuch"),
    "weights fetch nosuch": (2, "efficientnet_lite0"),
    "weights add nosuch": (6, "nosuch"),
    "weights add file": (6, "sha256"),
    "run": (2, "edgead init"),
    "run broken.yaml": (2, "broken.yaml:3"),
    "status --connect tcp://127.0.0.1:9": (7, "edgead run"),
    "status --connect nonsense": (2, "tcp://"),
    "watch --connect nonsense": (2, "tcp://"),
    "watch --idle 0.1 --connect tcp://127.0.0.1:9": (7, "edgead run"),
    "camera nowhere": (2, "nowhere"),
    "camera empty": (2, "found none"),
    "camera file --timeout 0.2": (2, "OpenCV"),
    "camera good --connect nonsense": (2, "tcp://"),
    "camera good --timeout 0.2 --connect tcp://127.0.0.1:9": (7, "edgead run"),
    "camera 0 --loop": (2, "--loop"),
    "demo --out good": (2, "--out"),
    "demo --out file": (2, "--out"),
    "demo --seed -1": (2, "--seed"),
    "init good/000.png": (2, "written"),
    "nosuch": (2, "edgead --help"),
    "watch --nosuch": (2, "edgead watch --help"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Work in a folder with good pictures, a damaged one, an empty folder, a plain file and a broken station."""
    picture = np.full((64, 64, 3), 127, np.uint8)
    for name in ("good", "damaged", "empty"):
        (tmp_path / name).mkdir()
    for index in range(2):
        cv2.imwrite(str(tmp_path / "good" / f"{index:03d}.png"), picture)
    whole = (tmp_path / "good" / "000.png").read_bytes()
    (tmp_path / "damaged" / "zz.png").write_bytes(whole[:60])
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "other.yaml").write_text("schema: edgead.preset/1\ndetector: brightness\nsettings: {}\n")
    (tmp_path / "broken.yaml").write_text("schema: edgead.station/1\nstation: line1\nnosuch: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line(line, place, run):
    """What is wrong is said in one line that names it, with the documented exit code and nothing on stdout."""
    before = sorted(path for path in place.rglob("*") if "store" not in path.parts)
    code, words = MISTAKES[line]
    done = run(*line.split())
    assert done.code == code, done.err
    *notes, last, end = done.err.split("\n")
    assert (end, done.out) == ("", "")
    assert last.startswith(("edgead: ", "broken.yaml:")), done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert all(note.startswith(("waiting for results", "edgead: broken.yaml")) for note in notes)
    left = sorted(path for path in place.rglob("*") if not {"store", "new"} & {*path.relative_to(place).parts})
    assert left == before, "a refused command wrote something"


@pytest.mark.system
def test_a_taken_port_is_one_line(tmp_path, calibrated, run):
    """A station whose address is taken says which key of the station file to change, and ends with 7."""
    store, _ = calibrated
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        station = tmp_path / "station.yaml"
        station.write_text(
            f"schema: edgead.station/1\nstation: line1\nstore: {store}\nframes: {address}\n"
            f"results: ipc://{tmp_path}/results\nstatus: ipc://{tmp_path}/status\ncameras: {{top: {{product: part}}}}\n"
        )
        done = run("run", station)
        validated = run("validate", station, "--json")
    assert done.code == 7
    assert "frames" in done.err
    assert address in done.err
    assert "Traceback" not in done.err
    faults = [check["check"] for check in validated.last["checks"] if not check["ok"]]
    assert (validated.code, faults) == (2, ["frames address"])


def test_a_template_of_another_detector_is_refused(calibrated, dataset, run):
    """Settings beside --template, or a template the store does not hold, stop an evaluation before it starts."""
    store, template = calibrated
    both = run("evaluate", dataset, "--store", store, "--template", template, "--set", "image_size=64")
    assert both.code == 2
    assert "--template" in both.err
    absent = run("evaluate", dataset, "--store", store, "--template", "0000")
    assert absent.code == 4
