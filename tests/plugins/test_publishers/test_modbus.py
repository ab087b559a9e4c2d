"""Modbus TCP as a PLC sees it, through libmodbus: image, handshake, buffering, triggers, and what goes wrong."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import time
from pathlib import Path

import publisher_peers as peers  # loaded by conftest.py
import pytest

from edgead import RESULT_FIELDS, result_values
from plugins.publishers.modbus.image import (
    CONTROL,
    IMAGE_WORDS,
    RESULT_WORDS,
    STATION_WORDS,
    Control,
    Status,
    pack_result,
)

pytestmark = pytest.mark.system

ADDRESS = {word.name: word.address for word in (*RESULT_WORDS, *STATION_WORDS)}


def u32(image, at):
    """Return the 32-bit number at a register."""
    return image[at] << 16 | image[at + 1]


class Plc:
    """A PLC's program around one connection: what it reads, and the four steps of taking a result."""

    def __init__(self, client, *, buffer=True):
        self.client = client
        self.bits = Control.BUFFER_ENABLE if buffer else Control(0)
        self.say(self.bits)

    def say(self, bits):
        """Write the control word."""
        self.bits = Control(bits)
        self.client.write(100, [int(self.bits)])

    def image(self):
        """Read the 40 registers in one request."""
        image = self.client.read(0, 40)
        assert u32(image, ADDRESS["seq"]) == u32(image, ADDRESS["seq_tail"])
        return image

    def status(self):
        """Read the status word."""
        return Status(self.image()[1])

    def until(self, reached, what):
        """Read until ``reached(status)``; return that image."""
        return peers.wait_for(lambda: (image := self.image()) and reached(Status(image[1])) and image, what)

    def take(self):
        """Take one result by the four steps; return its image."""
        image = self.until(lambda status: Status.RESULT_VALID in status, "RESULT_VALID")
        self.say(self.bits | Control.RESULT_ACK)
        self.until(lambda status: Status.RESULT_VALID not in status, "RESULT_VALID falls")
        self.say(self.bits & ~Control.RESULT_ACK)
        return image

    def trigger(self, number, part):
        """Raise a trigger by the four steps."""
        data = part.encode().ljust(32, b"\0")
        self.client.write(101, [number >> 16, number & 0xFFFF, *struct.unpack(">16H", data), 0, 0])
        self.say(self.bits | Control.TRIGGER)
        self.until(lambda status: Status.TRIGGER_ACK in status, "TRIGGER_ACK")
        self.say(self.bits & ~Control.TRIGGER)
        self.until(lambda status: Status.TRIGGER_ACK not in status, "TRIGGER_ACK falls")


def words_of(image):
    """Return the words of an image that a result decides: all but the station's; status without its other bits."""
    ours = {at for word in RESULT_WORDS for at in range(word.address, word.address + word.words)} | {38, 39}
    bits = Status(image[1]) & (Status.OK | Status.NOK | Status.UNDECIDED | Status.SIMULATED | Status.HISTORICAL)
    return [image[at] for at in sorted(ours)], bits


def expected(inspection, *, historical=False):
    """Return what ``words_of`` must find for an inspection."""
    image = pack_result(result_values(inspection, historical=historical), {})
    bit = {1: Status.OK, 2: Status.NOK, 3: Status.UNDECIDED}[inspection.verdict]
    bit |= Status.SIMULATED if inspection.simulated else Status(0)
    image[1] = bit | (Status.HISTORICAL if historical else Status(0))
    return words_of(image)


def test_the_image_has_no_hole_and_no_overlap():
    """Every one of the 40 registers belongs to one word, and the PLC's 21 to one each."""
    taken = [at for word in (*RESULT_WORDS, *STATION_WORDS) for at in range(word.address, word.address + word.words)]
    assert sorted(taken) == list(range(IMAGE_WORDS))
    assert [at for word in CONTROL for at in range(word.address, word.address + word.words)] == list(range(100, 121))
    assert {word.name for word in RESULT_WORDS} <= {each.name for each in RESULT_FIELDS}


@pytest.fixture
def modbus(cell, outlets, plc):
    """Return (cell, outlets, connect) of a running station with Modbus; ``connect()`` is a PLC's program."""

    def make(*, cameras=("top",), **options):
        port = peers.free_port()
        line = cell({"modbus": {"port": port, **options}}, cameras)
        running = outlets(line)
        return line, running, lambda buffer=True, unit=1: Plc(plc(port, unit), buffer=buffer), port

    return make


def test_every_result_is_read_as_it_was_published(modbus):
    """With buffering each result is shown once, in order, word for word as on record, until it is acknowledged."""
    line, _, connect, _ = modbus()
    plc = connect()
    line.produce(30)
    images = [plc.take() for _ in range(30)]
    found = [words_of(image) for image in images]
    late = [Status.HISTORICAL in Status(image[1]) for image in images]
    assert found == [expected(each, historical=was) for each, was in zip(line.results(), late, strict=True)]
    assert Status.RESULT_VALID not in plc.status()


def test_mbpoll_reads_the_same(modbus):
    """mbpoll, a program of its own, reads the registers that libmodbus does, as holding and as input registers."""
    if shutil.which("mbpoll") is None:
        pytest.skip("mbpoll is not installed (Debian: apt-get install mbpoll)")
    line, _, connect, port = modbus()
    plc = connect()
    line.produce(1)
    image = plc.until(lambda status: Status.RESULT_VALID in status, "RESULT_VALID")
    for kind in ("3", "4"):
        command = [
            "mbpoll",
            "-m",
            "tcp",
            "-p",
            str(port),
            "-a",
            "1",
            "-0",
            "-r",
            "0",
            "-c",
            "40",
            "-t",
            kind,
            "-1",
            "127.0.0.1",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        lines = [row for row in done.stdout.splitlines() if row.startswith("[")]
        words = [int(row.split(":")[1].split()[0]) & 0xFFFF for row in lines]
        words[2] = image[2]  # the heartbeat goes on
        assert words == image


def test_a_part_is_triggered_and_answered(modbus):
    """A trigger with id and part becomes one result with both; BUSY lies between."""
    line, _, connect, _ = modbus()
    plc = connect()
    plc.until(lambda status: Status.READY in status, "READY")
    plc.trigger(70_000, "SN-1")
    image = plc.take()
    assert u32(image, ADDRESS["trigger_id"]) == 70_000
    assert struct.pack(">16H", *image[8:24]).rstrip(b"\0") == b"SN-1"
    assert Status.BUSY not in plc.status()
    assert len(line.results()) == 1


def test_a_trigger_raised_twice_is_one(modbus):
    """The same trigger raised again before it is answered, as after a PLC's restart, makes no second result."""
    line, _, connect, _ = modbus()
    plc = connect()
    plc.until(lambda status: Status.READY in status, "READY")
    line.kill()
    plc.trigger(5, "A")
    plc.trigger(5, "A")
    assert Status.BUSY in plc.status()
    line.start()
    assert u32(plc.take(), ADDRESS["trigger_id"]) == 5
    time.sleep(0.5)
    assert Status.RESULT_VALID not in plc.status()
    assert len(line.results()) == 1


def test_the_heartbeat_is_the_hosts(modbus):
    """The heartbeat stands still, and READY falls, while the host's loop does; both come back with it."""
    import signal

    line, _, connect, _ = modbus()
    plc = connect()
    before = plc.image()[2]
    peers.wait_for(lambda: plc.image()[2] > before + 1, "a beating heart")
    line.process.send_signal(signal.SIGSTOP)
    plc.until(lambda status: Status.READY not in status, "READY falls")
    frozen = plc.image()
    time.sleep(1.0)
    assert plc.image()[2] == frozen[2]
    assert plc.image()[3] == 17, "host_lost"
    line.process.send_signal(signal.SIGCONT)
    plc.until(lambda status: Status.READY in status, "READY comes back")


def test_a_trigger_to_a_lost_host_is_missed(modbus):
    """A trigger that cannot be inspected is not acknowledged: MISSED_TRIGGER and an error word say so."""
    line, _, connect, _ = modbus()
    plc = connect()
    line.kill()
    plc.until(lambda status: Status.READY not in status, "READY falls")
    plc.client.write(101, [0, 9])
    plc.say(plc.bits | Control.TRIGGER)
    image = plc.image()
    assert Status.MISSED_TRIGGER in Status(image[1])
    assert Status.TRIGGER_ACK not in Status(image[1])
    assert image[3] == 10
    plc.say((plc.bits & ~Control.TRIGGER) | Control.CLEAR_ERROR)
    assert Status.MISSED_TRIGGER not in plc.status()
    assert Status.CMD_ACK in plc.status()


def test_a_killed_publisher_shows_again_what_was_not_acknowledged(modbus):
    """Killed with a result shown, with one acknowledged, and with others waiting: each is taken once, none is lost."""
    line, running, connect, _ = modbus()
    plc = connect()
    line.produce(5)
    taken = [u32(plc.take(), 4)]
    plc.until(lambda status: Status.RESULT_VALID in status, "RESULT_VALID")
    running.kill("modbus")
    running.wait_ready()
    plc = connect()
    taken += [u32(plc.take(), 4) for _ in range(4)]
    assert taken == [1, 2, 3, 4, 5]
    time.sleep(0.3)
    assert Status.RESULT_VALID not in plc.status()


def test_without_buffering_the_newest_result_stands(modbus):
    """Without buffering a newer result replaces one not taken, RESULT_VALID falling in between, and it is said."""
    line, _, connect, _ = modbus()
    plc = connect(buffer=False)
    line.produce(1)
    plc.until(lambda status: Status.RESULT_VALID in status, "RESULT_VALID")
    line.produce(3)
    image = plc.until(lambda status: Status.BUFFER_OVERRUN in status, "BUFFER_OVERRUN")
    assert Status.RESULT_VALID not in Status(image[1])
    image = plc.until(lambda status: Status.RESULT_VALID in status, "RESULT_VALID again")
    peers.wait_for(lambda: u32(plc.image(), 4) == 4, "the newest result")


def test_a_torn_read_is_detected(modbus):
    """A reader that takes the image in two requests sees different sequence words when a result came in between."""
    line, _, connect, _ = modbus(handshake=False)
    plc = connect()
    line.produce(1)
    plc.until(lambda status: Status.RESULT_VALID in status, "RESULT_VALID")
    first = plc.client.read(0, 20)
    line.produce(1)
    peers.wait_for(lambda: u32(plc.client.read(38, 2), 0) == 2, "the next result")
    assert u32(first + plc.client.read(20, 20), 4) != u32(first + plc.client.read(20, 20), 38)


def test_each_camera_has_a_unit(modbus):
    """Two cameras are two unit ids; a result stands in its camera's image only."""
    line, _, connect, _ = modbus(cameras=("top", "side"))
    top, side = connect(unit=1), connect(unit=2)
    line.produce(1)
    assert u32(top.take(), 4) == 1
    assert Status.RESULT_VALID not in side.status()


def test_the_plc_cannot_write_the_image(modbus):
    """Writes to 0..39 and beyond the control words, and functions for coils, are refused and change nothing."""
    _, _, connect, _ = modbus()
    plc = connect()
    before = plc.image()
    for address in (0, 39, 60, 121, 120):
        with pytest.raises(OSError, match="refused"):
            plc.client.write(address, [1, 1])
    after = plc.image()
    assert [*after[:2], *after[3:]] == [*before[:2], *before[3:]]


def test_garbage_and_floods_leave_the_plc_alone(modbus):
    """Random bytes, half-open connections and one too many of them do not keep the PLC from its next result."""
    import random
    import socket

    line, running, connect, port = modbus(connections=6)
    plc = connect()
    rng = random.Random(1)
    with contextlib.ExitStack() as stack:
        for number in range(20):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            if number % 2:
                with contextlib.suppress(OSError):
                    sock.sendall(rng.randbytes(rng.randrange(1, 4000)))
        line.produce(3)
        assert [u32(plc.take(), 4) for _ in range(3)] == [1, 2, 3]
    assert running.status()["modbus"]["restarts"] == 0
    peers.wait_for(lambda: running.status()["modbus"]["figures"]["connections"].get("refused"), "refused connections")


def test_a_stranger_cannot_connect(modbus):
    """Where the station file names the clients, a connection from another address is closed before it is read."""
    import socket

    _, running, _, port = modbus(clients=["127.0.0.2"])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(10)
        sock.sendall(bytes.fromhex("000100000006010300000028"))
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
    peers.wait_for(lambda: running.status()["modbus"]["figures"]["connections"].get("refused") == 1, "its refusal")


def test_the_end_of_the_host_is_the_publishers_end(modbus):
    """When the process that started it dies without a word, a publisher ends too and frees its port."""
    _, running, connect, _ = modbus()
    connect()
    pid = running.status()["modbus"]["pid"]
    running.stop()
    peers.wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the publisher")
