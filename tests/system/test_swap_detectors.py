"""The detectors edgead ships take each other's place on a running station, by a word in its file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import edgead
from runtime.inspection import ErrorWord
from runtime.ledger import check
from runtime.local import edgead_command
from runtime.testing.product import SimulatedProduct
from runtime.testing.station import PRODUCT, local_station, write_station
from runtime.testing.swapping import GUARD, edit, hang_up, newest

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

#: In the order they inspect; settings with which each learns in a moment.
DETECTORS = {
    "hetmm": ["image_size=64"],
    "cpr-faster": ["image_size=80", "train=none"],
    "prn": ["image_size=128", "width=4", "train_steps=2"],
    "mspba": ["image_size=192", "train=none", "bank_rows=64"],
}
GOOD = 12


@pytest.fixture(scope="module")
def parts():
    """Return pictures of good parts, uint8 [H, W, 3]."""
    product = SimulatedProduct(size=(128, 128))
    return [product.draw(index).image for index in range(GOOD)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, parts) -> Path:
    """Return a folder with a store in which a template of each detector is active."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("swap")
    (folder / "good").mkdir()
    for index, image in enumerate(parts):
        Image.fromarray(image).save(folder / "good" / f"{index}.png")
    for detector, settings in DETECTORS.items():
        arguments = [str(folder / "good"), "--product", PRODUCT, "--detector", detector, "--activate"]
        arguments += ["--store", str(folder / "store")]
        for setting in settings:
            arguments += ["--set", setting]
        done = subprocess.run(edgead_command("calibrate", *arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


def has_come_to_rest(status, swaps) -> bool:
    """Tell whether as many swaps were begun, and the newest is over."""
    return len(status["swaps"]) == swaps and newest(status)["state"] not in ("preparing", "guarded")


def test_each_detector_takes_over_from_the_one_before(folder, parts):
    """Hetmm, cpr-faster, prn, mspba and hetmm again inspect one stream: each frame is decided once, none is lost."""
    first, *others = DETECTORS
    camera = {"product": PRODUCT, "detector": first, "deadline_ms": 60_000, "queue": 64}
    camera |= {"exposure": None, "repeat_limit": None, "guard": GUARD | {"verdict": None}}
    path = write_station(folder, {"top": camera})
    results = []
    with (
        local_station(path, edgead.BUILTIN_PLUGINS) as station,
        station.camera() as sender,
        station.subscriber() as subscriber,
    ):

        def inspect() -> None:
            sender.send(parts[len(results) % GOOD])
            receipt = sender.receipt()
            received = subscriber.receive(60_000)
            assert received is not None, (receipt, station.status(), station.log.read_text(encoding="utf-8"))
            results.append(received.inspection)

        for swaps, detector in enumerate([*others, first], start=1):
            inspect()
            edit(path, detector=detector)
            hang_up(station)
            while not has_come_to_rest(station.status(), swaps):
                inspect()
            assert newest(station.status())["state"] == "kept", newest(station.status())
        ledger = station.station.ledger
        assert check(ledger.file, folder=ledger.evidence_folder) == []
    assert [each.seq for each in results] == [*range(1, len(results) + 1)]
    assert {each.error for each in results} <= {ErrorWord.NONE, ErrorWord.THRESHOLD_MISSING}
    inspected = [each.detector for each in results]
    turns = [name for index, name in enumerate(inspected) if index == 0 or inspected[index - 1] != name]
    assert turns == [first, *others, first]
