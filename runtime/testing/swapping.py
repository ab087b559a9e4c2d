"""What the system tests of swaps share: a station of two detectors, templates that differ, and changes by SIGHUP."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from runtime.detector import Detector, DetectorContext
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.store.template import GoldenFrame
from runtime.testing.faulty import Faulty, right_answer
from runtime.testing.nothing import Nothing
from runtime.testing.station import PRODUCT, LocalStation, put_template, write_station

#: Both detectors, as plugins.
PLUGINS = ("runtime.testing.faulty", "runtime.testing.nothing")
GUARD = {"parts": 10, "undecided": 0.1, "verdict": 0.3, "latency": None}


def make_station(folder: Path, **fields: Any) -> Path:
    """Return a station of one camera, ``top``, with active templates of ``faulty`` and ``nothing`` for the product.

    ``fields`` replace keys of the station file; keys of the camera may stand there without nesting.
    """
    store = Store.create(folder / "store")
    put_template(store, Nothing(), 0.5)
    put_template(store, Faulty(), 0.5)
    camera = {"product": PRODUCT, "detector": "faulty", "deadline_ms": 60_000, "queue": 64, "guard": GUARD}
    camera |= {"exposure": None, "repeat_limit": None}
    for key in ("detector", "deadline_ms", "queue", "guard", "swap", "recipes"):
        if key in fields:
            camera[key] = fields.pop(key)
    return write_station(folder, {"top": camera}, **{"max_frame_bytes": 65536, **fields})


def edit(path: Path, **camera: Any) -> None:
    """Change keys of the camera in a station file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["cameras"]["top"] |= camera
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def with_threshold(store: Store, threshold: float, detector: str = "faulty") -> str:
    """Activate the detector's active template with another image threshold; return its id."""
    old = store.active(PRODUCT, detector)
    thresholds = Thresholds(image=threshold, pixel=None, rule="fixed", target=None, bound=None, held_out=0)
    update = {"thresholds": thresholds, "parent": old.digest}
    template = store.put_manifest(old.manifest.model_copy(update=update), who="test")
    store.activate(template.digest, who="test")
    return template.digest


def with_golden(store: Store, *images: np.ndarray, wrong_by: float = 0.0) -> str:
    """Activate a template of ``faulty`` with golden frames whose scores are off by ``wrong_by``; return its id."""
    detector: Detector = Faulty()
    content = detector.calibrate([], detector.settings_model(), DetectorContext())
    answers = [right_answer(image) for image in images]
    template = store.put_template(
        product=PRODUCT,
        detector=DetectorIdentity(name=detector.name, version=detector.version, distribution="edgead"),
        settings=content.settings,
        bank=content.tensors,
        capacity=content.capacity,
        valid=content.valid,
        map_shape=content.map_shape,
        thresholds=Thresholds(image=0.5, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
        golden=[
            GoldenFrame(image, anomaly_map, score + wrong_by)
            for image, (anomaly_map, score) in zip(images, answers, strict=True)
        ],
        who="test",
    )
    store.activate(template.digest, who="test")
    return template.digest


def hang_up(station: LocalStation) -> None:
    """Have the host apply its station file."""
    os.kill(station.process.pid, signal.SIGHUP)


def newest(status: dict[str, Any]) -> dict[str, Any]:
    """Return the swap begun last; an empty one where there is none."""
    return {"state": None} | (status["swaps"][-1] if status["swaps"] else {})


def part(number: int, level: int = 200) -> np.ndarray:
    """Return a frame, uint8 [32, 48], of which no two numbers share their pixels: noise below ``level``."""
    image = np.random.default_rng(number).integers(0, level, (32, 48), dtype=np.uint8)
    image.reshape(-1)[:4] = 0  # never the mark of a fault
    return image
