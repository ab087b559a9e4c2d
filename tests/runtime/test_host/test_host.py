"""The host in one thread of the test: what it refuses and counts, when it wakes up, how it ends."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from runtime.client.subscriber import ask_status
from runtime.host.loop import Host
from runtime.host.outlet import SUBSCRIPTIONS_PER_TURN
from runtime.host.sockets import LEAST_RESULTS, RESULT_BUDGET_BYTES, Sockets
from runtime.inspection import ErrorWord
from runtime.lifecycle import State
from runtime.local import free_addresses
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.played_worker import PlayedSupervisor
from runtime.testing.station import PRODUCT, HandCamera, put_template, write_station

MS = 1_000_000
IMAGE = np.zeros((2, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a store that holds a template."""
    made = tmp_path_factory.mktemp("station")
    put_template(Store.create(made / "store"), Faulty(), 0.5)
    return made


@pytest.fixture
def make_host(folder, monkeypatch) -> Iterator[Callable[[], Host]]:
    """Return a maker of hosts of one camera, ``top``, whose worker never becomes ready: the test plays it."""
    monkeypatch.setattr("runtime.lane.workers.Supervisor", PlayedSupervisor)
    made: list[Host] = []

    def make() -> Host:
        frames, results, status = free_addresses(3)
        camera = {"product": PRODUCT, "detector": "faulty", "deadline_ms": 20, "queue": 1}
        addresses = {"frames": frames, "results": results, "status": status}
        path = write_station(folder, {"top": camera}, max_frame_bytes=64, ledger=None, **addresses)
        made.append(Host(load_station(path), ()))
        return made[-1]

    yield make
    for host in made:
        worker = host.lanes["top"].worker
        if host.state is not State.STOPPING:
            host.lanes["top"].stop(0)
            host._wake.close()
        if worker.starts:
            worker.end.close()


@contextmanager
def running(host: Host) -> Iterator[None]:
    """Run the host in a thread of its own until the block ends."""
    thread = threading.Thread(target=host.run)
    thread.start()
    try:
        yield
    finally:
        host.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_refusals_are_counted_and_sent_back(make_host):
    """Each refused message adds one to its word, is told so in a receipt, and makes no frame and no inspection."""
    host = make_host()
    with running(host), HandCamera(host.station.frames) as camera:
        topic, header, pixels = camera.message(IMAGE)
        stranger = camera.message(IMAGE, camera="side")
        messages = {
            "parts": [b"x"],
            "topic": [b"ead.v1.result", header, pixels],
            "header_crc": [topic, header[:-1], pixels],
            "payload_size": [topic, header, pixels[:-1]],
            "frame_size": camera.message(np.zeros((5, 13), np.uint8)),
            "unknown_camera": stranger,
        }
        for parts in [*messages.values(), messages["topic"]]:
            camera.send_parts(parts)
        receipts = camera.receipts(7)
        status = ask_status(host.station.status, 10)
    assert [receipt.reason for receipt in receipts] == [*messages, "topic"]
    assert not any(receipt.accepted for receipt in receipts)
    assert (receipts[5].camera, receipts[5].session) == ("side", camera.session)
    assert status["refused"] == {**dict.fromkeys(messages, 1), "topic": 2}
    assert (status["frames"], status["inspections"]) == (0, 0)


def test_frames_without_a_worker(make_host):
    """While the worker loads, a frame waits to its deadline, one too many does not wait, and both are answered once."""
    host = make_host()
    with running(host), HandCamera(host.station.frames) as camera:
        camera.send(IMAGE)
        camera.send(IMAGE)
        receipts = camera.receipts(2)
        assert not camera.has_receipt(0.2)
        status = ask_status(host.station.status, 10)
    assert {receipt.error for receipt in receipts} == {ErrorWord.DETECTOR_STARTING}
    assert sorted(receipt.seq for receipt in receipts) == [1, 2]
    assert (status["frames"], status["inspections"], status["ready"]) == (2, 2, False)
    assert status["cameras"]["top"]["errors"] == {"detector_starting": 2}


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        ([], 1000),
        ([None, None], 1000),
        ([5000 * MS], 1000),
        ([None, 7 * MS, 900 * MS], 7),
        ([1], 1),  # not 0: waking up before it is due would spin
        ([7 * MS + 1], 8),
        ([0], 0),
        ([-5 * MS], 0),
    ],
)
def test_the_host_sleeps_until_something_is_due(make_host, monkeypatch, due, expected):
    """The poll ends at the earliest due time of any lane, rounded up to milliseconds, a second at the latest."""
    host = make_host()
    lanes = [SimpleNamespace(next_due_ns=lambda at=at: at) for at in due]
    with monkeypatch.context() as patch:
        patch.setattr(host.routes, "living", lambda: lanes)
        patch.setattr("runtime.host.loop.time", SimpleNamespace(monotonic_ns=lambda: 0))
        assert host._timeout_ms() == expected


def test_the_service_manager_hears_of_it(make_host, monkeypatch, tmp_path):
    """Ready when the worker is, alive from the loop, trouble in one line, stopping; no worker inherits the way."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        host = make_host()
        heard: list[str] = []

        def hear(line: str) -> None:
            while line not in heard:
                heard.extend(manager.recv(4096).decode().split("\n"))

        with running(host):
            hear("STATUS=starting: top starting (loading)")
            assert "READY=1" not in heard
            host.lanes["top"].worker.end._socket.send(msgpack.packb({"op": "ready"}))
            hear("STATUS=ready: 1 of 1 cameras are inspected")
            assert heard.count("READY=1") == 1
            heard.clear()
            hear("WATCHDOG=1")
            assert "NOTIFY_SOCKET" not in os.environ
            host.lanes["top"].worker.end.close()
            hear("STATUS=degraded: top degraded (died (exit status -9))")
            assert ask_status(host.station.status, 10)["state"] == "degraded"
        hear("STOPPING=1")
    assert host.state is State.STOPPING


def test_workers_that_swap_their_descriptors(make_host, monkeypatch):
    """Two workers that died together and came back with each other's descriptor are each read by their own lane."""
    host = make_host()
    read, write = os.pipe()
    links = [SimpleNamespace(fileno=lambda: read), SimpleNamespace(fileno=lambda: write)]
    one, two = (SimpleNamespace(worker=SimpleNamespace(link=link), answer_bytes=1) for link in links)
    host._sockets = SimpleNamespace(limit_results=lambda _: None)
    watched: dict = {}
    with monkeypatch.context() as patch:
        patch.setattr(host.routes, "living", lambda: [one, two])
        poller = zmq.Poller()
        host._watch_workers(poller, watched)
        assert watched == {read: one, write: two}
        one.worker.link, two.worker.link = links[1], links[0]
        host._watch_workers(poller, watched)
        assert watched == {read: two, write: one}
        two.worker.link = None
        host._watch_workers(poller, watched)
        assert (list(watched), [each for each, _ in poller.sockets]) == ([write], [write])
    os.close(read)
    os.close(write)


def test_larger_maps_cut_nobody_off(make_host):
    """A live subscriber that has read hundreds of results gets the next ones too when a swap brings larger maps."""
    station = make_host().station
    context = zmq.Context()
    try:
        sockets = Sockets(context, station, RESULT_BUDGET_BYTES // 1000)
        subscriber = context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.connect(station.results)
        assert sockets.results.poll(10_000)
        for number in range(600):
            if number == 490:
                sockets.limit_results(RESULT_BUDGET_BYTES)
            sockets.results.send(b"result", zmq.NOBLOCK)
            assert subscriber.poll(10_000), number
            subscriber.recv()
    finally:
        context.destroy(linger=0)
    sockets.unlink()


def test_maps_leave_room_for_as_many_as_fit(make_host):
    """What waits for a live subscriber is bounded by the largest map; smaller maps later leave room for more."""
    context = zmq.Context()
    try:
        sockets = Sockets(context, make_host().station, RESULT_BUDGET_BYTES)
        limits = [sockets.results.getsockopt(zmq.SNDHWM)]
        for largest in (RESULT_BUDGET_BYTES // 100, 1):
            sockets.limit_results(largest)
            limits.append(sockets.results.getsockopt(zmq.SNDHWM))
        assert limits == [LEAST_RESULTS, 100, 1000]
    finally:
        context.destroy(linger=0)
    sockets.unlink()


def wait_for(reached: Callable[[], Any]) -> bool:
    """Wait until something is so; tell whether it came to that within ten seconds."""
    give_up = time.monotonic() + 10
    while not reached() and time.monotonic() < give_up:
        time.sleep(0.01)
    return bool(reached())


def test_cameras_that_never_pause_cannot_keep_a_host_alive(make_host, monkeypatch):
    """A host told to stop stops, even if there is always one more frame to take."""
    monkeypatch.setattr("runtime.host.loop.LAST_FRAMES_S", 0.05)
    host = make_host()
    monkeypatch.setattr(host.intake, "take_frames", lambda: True)
    with running(host):
        pass
    assert host.state is State.STOPPING


def test_a_subscriber_that_never_pauses_holds_nobody_up(make_host):
    """Subscriptions that come without end are taken a bounded number at a time."""
    host, taken = make_host(), []

    def receive(_flags: int) -> bytes:
        taken.append(1)
        assert len(taken) <= SUBSCRIPTIONS_PER_TURN
        return b"\x01result"

    host.outlet.open(SimpleNamespace(results=SimpleNamespace(recv=receive)))
    host.outlet.take_subscriptions()
    assert host.outlet.subscribers == SUBSCRIPTIONS_PER_TURN


def test_a_host_that_has_ended(make_host):
    """An ended host has freed its addresses and memory, and another request to stop is no error."""
    host = make_host()
    with running(host):
        assert ask_status(host.station.status, 10)["state"] == "starting"
    assert host.state is State.STOPPING
    assert host.lanes["top"]._slots._memory.closed
    host.stop()
    with zmq.Context() as context:
        for address in (host.station.frames, host.station.results, host.station.status):
            with context.socket(zmq.ROUTER) as again:
                again.bind(address)
