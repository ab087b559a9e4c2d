"""Pacing: a replay keeps its rate as an upper bound, and never has more frames on their way than its window."""

import contextlib
import threading
import time

import cv2
import numpy as np
import pytest
import zmq

from runtime import terminal
from runtime.camera import CameraOptions, replay, send_source
from runtime.errors import StationError
from runtime.inspection import Verdict
from runtime.local import free_addresses
from runtime.sources import Acquired
from runtime.wire.messages import Receipt, decode_frame, encode_receipt


class Answering:
    """A station that answers when ``hold`` frames are waiting, or when nothing more has come for a while."""

    def __init__(self, hold=1):
        """Bind a socket."""
        self.hold = hold
        self.most_waiting = 0
        self.taken = []
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self._context.term()

    def _answer(self):
        waiting = []
        while not self._stop.is_set():
            if self._socket.poll(150 if waiting else 20):
                identity, *parts = self._socket.recv_multipart(copy=False)
                header, _ = decode_frame([part.buffer for part in parts])
                self.taken.append((header.frame_id, time.monotonic()))
                waiting.append((identity.bytes, header))
                self.most_waiting = max(self.most_waiting, len(waiting))
                if len(waiting) < self.hold:
                    continue
            for identity, header in waiting:
                place = {"camera": "top", "session": header.session, "frame_id": header.frame_id}
                receipt = Receipt(**place, accepted=True, seq=header.frame_id + 1, verdict=Verdict.OK)
                self._socket.send_multipart([identity, *encode_receipt(receipt)])
            waiting.clear()


def images(count):
    """Return a source of ``count`` tiny images that waits until each is wanted."""
    return lambda _due: (Acquired(np.zeros((2, 2), np.uint8), 1, f"{index}.png") for index in range(count))


class Live:
    """A camera that takes a picture every 5 ms, whether wanted or not."""

    def __init__(self, count):
        """Take ``count`` pictures in all."""
        self.count = count
        self.taken = 0
        self.yielded = []

    def __call__(self, due):
        """Yield the pictures that are due."""
        while self.taken < self.count:
            time.sleep(0.005)
            self.taken += 1
            if due():
                self.yielded.append(self.taken)
                yield Acquired(np.zeros((2, 2), np.uint8), time.time_ns())


def test_frames_go_in_order_and_are_all_answered():
    """Every image is sent once, in order, and the account is returned when the last receipt is in."""
    seen = []
    with Answering() as station:
        count = replay(images(12), CameraOptions(name="top", address=station.address), seen.append)
    assert [number for number, _ in station.taken] == list(range(12))
    assert (count.sent, count.answered, dict(count.verdicts)) == (12, 12, {"OK": 12})
    assert len(seen) == 13
    assert seen == sorted(seen)
    assert seen[-1] == 12


@pytest.mark.parametrize("window", [1, 3])
def test_the_window_bounds_what_is_on_its_way(window):
    """However slow the station, no more than ``window`` frames are ever without a receipt."""
    with Answering(hold=100) as station:  # holds every frame back until nothing comes any more
        count = replay(images(6), CameraOptions(name="top", address=station.address, window=window))
    assert count.answered == 6
    assert station.most_waiting == window


def test_without_a_window_nothing_is_waited_for():
    """A live camera does not slow down: all frames are out before the station answers the first."""
    with Answering(hold=6) as station:
        count = replay(images(6), CameraOptions(name="top", address=station.address, window=0))
    assert station.most_waiting == 6
    assert count.answered == 6


def test_the_rate_is_an_upper_bound():
    """At 50 frames a second the sixth frame is not out before a tenth of a second."""
    with Answering() as station:
        started = time.monotonic()
        replay(images(6), CameraOptions(name="top", address=station.address, rate=50))
        arrivals = [at - started for _, at in station.taken]
    assert len(arrivals) == 6
    assert all(at >= number / 50 for number, at in enumerate(arrivals))


def test_an_unreachable_station_is_said_so():
    """Nobody there: StationError with the address after the timeout, and the source is not read to its end."""
    (address,) = free_addresses(1)
    read = []
    options = CameraOptions(name="top", address=address, timeout_s=0.1)
    with pytest.raises(StationError, match=r"edgead run") as raised:
        replay(lambda due: (read.append(1) or each for each in images(100)(due)), options)
    assert address in str(raised.value)
    assert len(read) < 10


def test_a_live_camera_is_thinned_not_slowed():
    """With a rate below the camera's, pictures between are dropped: what goes is spread over all that was taken."""
    camera = Live(120)
    with Answering() as station:
        count = replay(camera, CameraOptions(name="top", address=station.address, rate=25, window=0))
        arrivals = [at for _, at in station.taken]
    assert camera.taken == 120
    assert count.sent == count.answered == len(camera.yielded) >= 5
    assert min(after - before for before, after in zip(camera.yielded, camera.yielded[1:], strict=False)) > 1
    assert camera.yielded[-1] > 90
    assert len(arrivals) <= 25 * (arrivals[-1] - arrivals[0]) + 2


def test_a_live_camera_goes_on_while_the_window_is_full():
    """A station that answers late costs pictures, not freshness: the camera is read on, and the window holds."""
    camera = Live(100)
    with Answering(hold=100) as station:  # answers 150 ms after the last frame
        count = replay(camera, CameraOptions(name="top", address=station.address, window=1))
    assert station.most_waiting == 1
    assert camera.taken == 100
    assert 2 <= count.answered < 10


def test_a_live_camera_names_a_mute_station():
    """A station that never answers ends a live camera with a StationError, after more pictures than the window."""
    camera = Live(100_000)
    with Answering(hold=100_000) as station:
        station._stop.set()  # bound, and mute
        with pytest.raises(StationError, match="without a receipt"):
            replay(camera, CameraOptions(name="top", address=station.address, window=2, timeout_s=0.2))
    assert len(camera.yielded) == 2
    assert camera.taken > 2


@pytest.mark.parametrize(("options", "total"), [({}, 6), ({"limit": 4}, 4), ({"loop": True, "limit": 9}, 9)])
def test_a_replay_shows_how_far_it_is(options, total, tmp_path, monkeypatch):
    """Progress counts answered frames up to the number the folder gives, known from the start."""
    for index in range(6):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((2, 2), np.uint8))
    shown = []
    bars = contextlib.nullcontext(lambda done, of, _what: shown.append((done, of)))
    monkeypatch.setattr(terminal, "progress_bars", lambda: bars)
    with Answering() as station:
        count = send_source(str(tmp_path), CameraOptions(name="top", address=station.address), **options)
    assert count.answered == total
    assert shown[-1] == (total, total)
    assert {of for _, of in shown} == {total}
