"""One frame in, one inspection and one receipt out, each with the right answer, whatever the frame is like."""

from __future__ import annotations

import json
import subprocess
from collections import Counter

import numpy as np
import pytest

from runtime.frame import PixelFormat
from runtime.images import read_image, write_png
from runtime.inspection import Verdict
from runtime.local import edgead_command
from runtime.testing.faulty import right_answer
from runtime.wire.answers import decode_preview

pytestmark = pytest.mark.system
WAIT_MS = 60_000


def take(subscriber, count):
    """Return ``count`` results, having waited for one too many."""
    received = [subscriber.receive(WAIT_MS) for _ in range(count)]
    assert None not in received
    assert subscriber.receive(200) is None
    return received


def is_right(received, image) -> bool:
    """Tell whether score, verdict and every map byte are what the image (RGB) deserves."""
    anomaly_map, score = right_answer(image)
    inspection = received.inspection
    return (
        abs(inspection.score - score) < 1e-6
        and inspection.verdict is (Verdict.NOT_OK if score > 0.5 else Verdict.OK)
        and received.map_payload == anomaly_map.astype("<f2").tobytes()
    )


def test_a_camera_process_and_its_results(station, picture, tmp_path):
    """60 images replayed by `edgead camera`: 60 inspections, each once, numbered without a gap, and 60 receipts."""
    for number in range(60):
        write_png(tmp_path / f"{number:03d}.png", picture(number * 20))
    command = edgead_command("camera", str(tmp_path), "--station", str(station.path), "--json", "--checksum")
    before = station.status()["cameras"]["top"]
    with station.subscriber() as subscriber:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        results = take(subscriber, 60)
    count = json.loads(done.stdout.splitlines()[-1])
    assert (count["sent"], count["answered"], count["refused"]) == (60, 60, {})
    inspections = [received.inspection for received in results]
    assert len({(each.session, each.frame_id) for each in inspections}) == 60
    assert [each.seq for each in inspections] == list(range(inspections[0].seq, inspections[0].seq + 60))
    assert Counter(each.verdict.label for each in inspections) == count["verdicts"]
    assert {each.verdict for each in inspections} == {Verdict.OK, Verdict.NOT_OK}
    assert all(is_right(received, read_image(tmp_path / received.inspection.source)) for received in results)
    after = station.status()["cameras"]["top"]
    assert {key: after[key] - before[key] for key in ("frames", "inspections")} == {"frames": 60, "inspections": 60}


def test_two_cameras_at_once(station, picture):
    """Frames of two cameras, sent in turns: each gets its own answers, and one sequence numbers them all."""
    images = [picture(number * 10) for number in range(80)]
    with station.subscriber() as subscriber, station.camera("top") as top, station.camera("side") as side:
        for number, image in enumerate(images):
            (top, side)[number % 2].send(image)
        receipts = {camera: camera.receipts(40) for camera in (top, side)}
        results = take(subscriber, 80)
    assert sorted(each.inspection.seq for each in results) == list(
        range(min(each.inspection.seq for each in results), min(each.inspection.seq for each in results) + 80)
    )
    seq = {(each.inspection.camera, each.inspection.frame_id): each.inspection.seq for each in results}
    for turn, camera in enumerate((top, side)):
        own = [each for each in results if each.inspection.session == camera.session]
        assert {each.inspection.camera for each in own} == {camera.name}
        assert [each.inspection.frame_id for each in own] == list(range(40))
        assert all(is_right(each, images[2 * each.inspection.frame_id + turn]) for each in own)
        assert [(each.frame_id, each.seq) for each in receipts[camera]] == [(n, seq[camera.name, n]) for n in range(40)]


@pytest.mark.parametrize("pixel_format", PixelFormat)
def test_every_pixel_format_in_its_order(station, pixel_format):
    """The detector sees grey as one channel and colour as RGB, whichever order the camera sends."""
    image = np.zeros((20, 30, 3), np.uint8) + np.array([10, 90, 250], np.uint8)  # R, G, B
    if pixel_format is PixelFormat.MONO8:
        image = image[:, :, 0]
    sent = image[:, :, ::-1] if pixel_format is PixelFormat.BGR8 else image
    with station.subscriber() as subscriber, station.camera() as camera:
        camera.send(sent, pixel_format)
        (received,) = take(subscriber, 1)
    assert is_right(received, image)


def test_mixed_sizes(station):
    """Frames of ten shapes in turns, from one pixel wide to a megabyte, are all answered rightly."""
    rng = np.random.default_rng(1)
    shapes = [
        (1, 4),
        (4, 1),
        (2, 3, 3),
        (100, 1, 3),
        (1, 500),
        (64, 64),
        (31, 37, 3),
        (200, 100, 3),
        (9, 9),
        (250, 250),
    ]
    images = [rng.integers(0, 250, shape, dtype=np.uint8) for shape in shapes * 2]
    largest = np.full((1024, 1024), 51, np.uint8)  # max_frame_bytes exactly; constant, so its sum's rounding is known
    with station.subscriber() as subscriber, station.camera() as camera:
        for image in [*images, largest]:
            camera.send(image)
        results = take(subscriber, 21)
    assert all(is_right(received, image) for received, image in zip(results[:20], images, strict=True))
    assert [(each.inspection.frame_height, each.inspection.frame_width) for each in results[:10]] == [
        shape[:2] for shape in shapes
    ]
    assert results[20].inspection.score == pytest.approx(0.2, abs=1e-6)


def test_png_maps_and_previews(start):
    """A png16 map comes within one step of its range, and the preview shows the frame in its colours."""
    station = start(publish={"map": "png16", "preview": True})
    image = np.zeros((800, 400, 3), np.uint8) + np.array([200, 100, 20], np.uint8)
    with station.subscriber() as subscriber, station.camera() as camera:
        camera.send(image[:, :, ::-1], PixelFormat.BGR8)
        (received,) = take(subscriber, 1)
    expected, _ = right_answer(image)
    step = (expected.max() - expected.min()) / 65535
    assert received.inspection.map.encoding == "png16"
    assert np.abs(received.anomaly_map() - expected).max() <= step
    preview = decode_preview(received.preview)
    assert preview.shape == (640, 320, 3)
    assert np.abs(preview.astype(int) - [200, 100, 20]).max() <= 3  # a JPEG


def test_no_maps(start, picture):
    """With ``map: none`` a result is its header alone."""
    station = start(publish={"map": "none"})
    with station.subscriber() as subscriber, station.camera() as camera:
        camera.send(picture(1))
        (received,) = take(subscriber, 1)
    assert (received.map_payload, received.inspection.map, received.preview) == (None, None, None)
    assert received.inspection.score == pytest.approx(right_answer(picture(1))[1], abs=1e-6)
