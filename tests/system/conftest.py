"""Real stations for system tests: a host and a worker process that runs the ``faulty`` detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.station import PRODUCT, LocalStation, local_station, put_template, write_station

FAULTY = ("runtime.testing.faulty",)
#: No frame of a healthy station comes near it, however loaded the machine is.
FAR_DEADLINE_MS = 60_000
Start = Callable[..., LocalStation]


def prepare(folder: Path, settings: Mapping[str, Any] | None = None, **fields: Any) -> Path:
    """Return a station file of one camera, ``top``, with a store that holds the template of ``faulty``.

    ``fields`` replace keys of the station file; keys of the camera may stand there without nesting.
    """
    put_template(Store.create(folder / "store"), Faulty(), 0.5, settings)
    camera = {"product": PRODUCT, "detector": "faulty", "deadline_ms": FAR_DEADLINE_MS, "queue": 256}
    # Frames of these tests are drawn: flat, or sent again and again.
    camera |= {"exposure": None, "repeat_limit": None, "triggers": "with_frame", "recipes": {}}
    camera |= {key: fields.pop(key) for key in camera.keys() & fields.keys()}
    names = fields.pop("names", ("top",))
    # Slots for 256 waiting frames of 32 MiB would be 8 GiB of address space.
    return write_station(folder, dict.fromkeys(names, camera), **{"max_frame_bytes": 1024 * 1024, **fields})


@pytest.fixture
def station_file(tmp_path) -> Callable[..., Path]:
    """Return ``prepare`` for the test's own folder."""
    return lambda **fields: prepare(tmp_path, **fields)


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """Return a function that starts a station of the test's own; it takes the arguments of ``prepare``."""
    with ExitStack() as stack:

        def start_station(reached=lambda status: status["ready"], **fields):
            return stack.enter_context(local_station(prepare(tmp_path, **fields), FAULTY, reached))

        yield start_station


@pytest.fixture(scope="module")
def station(tmp_path_factory) -> Iterator[LocalStation]:
    """Return a station with the cameras ``top`` and ``side`` that a module's tests share, healthy before and after."""
    path = prepare(tmp_path_factory.mktemp("station"), names=("top", "side"))
    with local_station(path, FAULTY) as running:
        yield running


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """Return a maker of frames: ``picture(number, shape)`` is uint8, and no two numbers have the same mean."""

    def draw(number: int, shape: tuple[int, ...] = (32, 48)) -> np.ndarray:
        # Noise below 200, then as many pixels at 255 as the number says: never the mark of a fault.
        image = np.random.default_rng(0).integers(0, 200, shape, dtype=np.uint8)
        image.reshape(-1)[4 : 4 + number] = 255
        return image

    return draw
