"""Publishers beside a real host: a part triggered by a PLC, clean starts and ends, a killed host."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import signal
import socket
import struct
import sys
from contextlib import ExitStack
from importlib import util
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from runtime.client.subscriber import ask_status
from runtime.local import free_addresses, running_host
from runtime.station.config import load_station
from runtime.testing.station import PRODUCT, HandCamera

pytestmark = pytest.mark.system
_spec = util.spec_from_file_location(
    "system_publisher_peers", Path(__file__).parents[1] / "plugins" / "test_publishers" / "peers.py"
)
peers = util.module_from_spec(_spec)
_spec.loader.exec_module(peers)

#: `edgead run` itself, with the detector of these tests instead of the shipped ones.
RUN = "import edgead; edgead.BUILTIN_PLUGINS = ('runtime.testing.faulty', 'plugins.publishers'); edgead.main()"
OPTIONS = {
    "modbus": {"host": "127.0.0.1"},
    "opcua": {"anonymous": True, "security": "none"},
    "mqtt": {"host": "127.0.0.1"},
    "sparkplug": {"host": "127.0.0.1"},
    "webhook": {"url": "http://127.0.0.1:9/"},
}
#: Those that listen: a port of their own.
SERVERS = ("modbus", "opcua")


@pytest.fixture
def run_station(station_file):
    """Return a starter of `edgead run` with publishers; gives (station, process, status)."""
    with ExitStack() as stack:

        def start(publishers, **fields):
            (deliveries,) = free_addresses(1)
            path = station_file(publishers=publishers, deliveries=deliveries, **fields)
            station = load_station(path)
            command = [sys.executable, "-P", "-c", RUN, "run", str(path)]

            def reached(status):
                return status["ready"] and status["publishers"].keys() == publishers.keys() and all(
                    each["state"] == "ready" for each in status["publishers"].values()
                )  # fmt: skip

            process = stack.enter_context(running_host(command, station.status, path.with_suffix(".log"), reached))
            return station, process, lambda: ask_status(station.status, 20)

        yield start


def test_a_part_triggered_by_a_plc_is_inspected(run_station, picture):
    """Trigger by Modbus, frame by the camera, verdict back in the registers: id, part, score and verdict are right."""
    if ctypes.util.find_library("modbus") is None:
        pytest.skip("libmodbus is not installed (Debian: apt-get install mbpoll)")
    port = peers.free_port()
    station, _, status = run_station({"modbus": {"port": port}}, triggers="ahead")
    plc = peers.LibModbus(port)
    assert plc.connect()
    try:
        peers.wait_for(lambda: plc.read(1, 1)[0] & 1, "READY")
        image = picture(3)
        with HandCamera(station.frames) as camera:
            for number in (70_001, 70_002):
                part = struct.unpack(">16H", f"SN-{number}".encode().ljust(32, b"\0"))
                plc.write(100, [0b101, number >> 16, number & 0xFFFF, *part, 0, 0])
                peers.wait_for(lambda: plc.read(1, 1)[0] & 0b100, "TRIGGER_ACK")
                plc.write(100, [0b100])
                camera.send(image, trigger_id=number)
                peers.wait_for(lambda: plc.read(1, 1)[0] & 0b1000, "RESULT_VALID")
                words = plc.read(0, 40)
                assert words[6] << 16 | words[7] == number
                assert struct.pack(">16H", *words[8:24]).rstrip(b"\0") == f"SN-{number}".encode()
                score = struct.unpack(">f", struct.pack(">2H", *words[25:27]))[0]
                assert score == pytest.approx(image.mean() / 255, abs=1e-4)
                assert words[24] == (2 if score > 0.5 else 1)
                plc.write(100, [0b110])
                peers.wait_for(lambda: not plc.read(1, 1)[0] & 0b1000, "RESULT_VALID falls")
                plc.write(100, [0b100])
    finally:
        plc.close()
    assert status()["publishers"]["modbus"]["restarts"] == 0


def test_a_plc_changes_the_recipe(run_station, picture):
    """A recipe's number picks it: CMD_ACK, and recipe_current says so; one without recipe is RECIPE_ERROR."""
    if ctypes.util.find_library("modbus") is None:
        pytest.skip("libmodbus is not installed (Debian: apt-get install mbpoll)")
    port = peers.free_port()
    recipes = {"7": {"product": PRODUCT, "detector": "faulty"}}
    station, _, status = run_station({"modbus": {"port": port}}, triggers="ahead", recipes=recipes)
    plc = peers.LibModbus(port)
    assert plc.connect()
    try:
        for number, refused in ((7, False), (9, True), (0, False)):
            plc.write(119, [number])
            plc.write(100, [0b1000])
            peers.wait_for(lambda: plc.read(1, 1)[0] & 1 << 15, "CMD_ACK")
            assert bool(plc.read(1, 1)[0] & 1 << 10) is refused
            plc.write(100, [0b0000])
            current = 0 if number == 0 else 7
            peers.wait_for(lambda current=current: plc.read(29, 1)[0] == current, "recipe_current")
        assert status()["cameras"]["top"]["recipe"] == ""
        with HandCamera(station.frames) as camera:
            plc.write(100, [0b100])
            plc.write(100, [0b101, 0, 5, *[0] * 16, 7, 0])
            peers.wait_for(lambda: plc.read(1, 1)[0] & 0b100, "TRIGGER_ACK")
            camera.send(picture(3), trigger_id=5)
            peers.wait_for(lambda: plc.read(1, 1)[0] & 0b1000, "RESULT_VALID")
            assert plc.read(30, 1) == [7]
    finally:
        plc.close()


def test_a_killed_host_takes_its_publishers_along(run_station):
    """After SIGKILL of the host no publisher stays behind on its port."""
    port = peers.free_port()
    _, process, status = run_station({"modbus": {"port": port}})
    pid = status()["publishers"]["modbus"]["pid"]
    process.kill()
    peers.wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the publisher's end")
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.fixture
def every_protocol(tmp_path):
    """Return a section for every publisher we ship, with ports of their own and a broker that runs."""
    if not (shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists()):
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto)")
    broker = peers.Broker(tmp_path).start()
    chosen = {name: dict(options) for name, options in OPTIONS.items()}
    for name in SERVERS:
        chosen[name]["port"] = peers.free_port()
    for name in ("mqtt", "sparkplug"):
        chosen[name]["port"] = broker.port
    yield chosen
    broker.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_start_and_stop_are_clean_with_every_protocol(run_station, every_protocol):
    """All at once: the station starts, says so, and ends with 0, leaving nobody."""
    _, process, status = run_station(every_protocol)
    pids = [each["pid"] for each in status()["publishers"].values()]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_protocols_are_switched_while_the_station_runs(run_station, every_protocol):
    """Each protocol is switched on and off by an applied file: its process alone comes and goes, the worker stays."""
    _, process, status = run_station({})
    before = status()
    worker = before["cameras"]["top"]["worker_pid"]
    file = Path(before["station_file"])
    content = YAML(typ="safe").load(file)

    def apply(publishers):
        file.write_text(json.dumps({**content, "publishers": publishers}))
        os.kill(process.pid, signal.SIGHUP)
        wanted = dict.fromkeys(publishers, "ready")
        peers.wait_for(
            lambda: {name: each["state"] for name, each in status()["publishers"].items()} == wanted, str(wanted), 60
        )
        return {name: each["pid"] for name, each in status()["publishers"].items()}

    pids = []
    for name, options in every_protocol.items():
        pids.append(apply({name: options})[name])
    changed = {"modbus": {**every_protocol["modbus"], "port": peers.free_port()}}
    kept = apply({"modbus": every_protocol["modbus"], "webhook": every_protocol["webhook"]})
    apply({**changed, "webhook": every_protocol["webhook"]})
    peers.wait_for(lambda: status()["publishers"]["modbus"]["pid"] not in (None, kept["modbus"]), "another process")
    other = apply({**changed, "webhook": every_protocol["webhook"]})
    assert other["webhook"] == kept["webhook"]
    apply({})
    assert not any(Path(f"/proc/{pid}").exists() for pid in [*pids, *kept.values(), *other.values()])
    after = status()
    assert after["cameras"]["top"]["worker_pid"] == worker
    assert [each["state"] for each in after["applies"]] == ["accepted"] * len(after["applies"])
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 0
