"""A PLC's program over thousands of cycles, with delays, restarts of everything, and lost and repeated writes."""

from __future__ import annotations

import contextlib
import random
import struct
import threading
import time

import publisher_peers as peers  # loaded by conftest.py
import pytest

from plugins.publishers.modbus.image import Control, Status

pytestmark = pytest.mark.system


class Plc:
    """A PLC as docs/modbus.md tells it to be programmed; it keeps ``next_part`` and ``last_seq`` over its restarts."""

    def __init__(self, port, rng):
        self.port, self.rng = port, rng
        self.last_seq, self.next_part = 0, 1
        self.answers = {}
        self.restarts = self.breaks = 0
        self.client = None
        self.bits = Control.BUFFER_ENABLE

    def run(self, cycles):
        """Trigger and take that many parts, starting anew after every broken connection."""
        while self.next_part <= cycles:
            with contextlib.suppress(OSError):
                self.begin()
                while self.next_part <= cycles:
                    self.cycle()
            self.breaks += 1

    def begin(self):
        """Do what a PLC does first: connect, say its outputs, finish what was under way."""
        if self.client is not None:
            self.client.close()
        self.client = peers.LibModbus(self.port)
        peers.wait_for(self.client.connect, "a Modbus server", 90)
        self.bits = Control.BUFFER_ENABLE
        self.write()
        image = self.client.read(0, 40)
        while Status.BUSY in Status(image[1]) or Status.RESULT_VALID in Status(image[1]):
            if Status.RESULT_VALID in Status(image[1]):
                self.take(image)
            image = self.client.read(0, 40)

    def cycle(self):
        """One part: trigger, four steps; results, four steps each, until it has its answer."""
        self.pause()
        part = self.next_part
        if part not in self.answers:
            self.until(Status.READY, high=True)
            data = f"SN{part:05d}".encode().ljust(32, b"\0")
            self.client.write(101, [part >> 16, part & 0xFFFF, *struct.unpack(">16H", data), 0, 0])
            self.say(Control.TRIGGER, Status.TRIGGER_ACK)
        while part not in self.answers:
            self.take(self.until(Status.RESULT_VALID, high=True))
        self.next_part += 1

    def take(self, image):
        """Take the result in an image; one processed before is acknowledged only."""
        seq = image[4] << 16 | image[5]
        assert image[4:6] == image[38:40], "torn"
        if seq > self.last_seq:
            self.last_seq = seq
            number = image[6] << 16 | image[7]
            self.answers.setdefault(number, []).append((seq, struct.pack(">16H", *image[8:24]).rstrip(b"\0")))
        self.pause()
        self.say(Control.RESULT_ACK, Status.RESULT_VALID, answer_high=False)

    def say(self, bit, answer, *, answer_high=True):
        """Raise a bit, wait for its answer, lower it, and wait for the answer's end where it is a raised bit."""
        self.bits |= bit
        self.write()
        self.until(answer, high=answer_high)
        self.bits &= ~bit
        self.write()
        if answer_high:
            self.until(answer, high=False)

    def write(self):
        """Write the control word: now and then lost on its way, now and then twice."""
        if self.rng.random() < 0.02:
            self.pause()  # lost; the PLC's next scan says it again
        for _ in range(1 + (self.rng.random() < 0.05)):
            self.client.write(100, [int(self.bits)])

    def until(self, bit, *, high):
        """Read until a status bit is so; a PLC that was switched off meanwhile starts anew."""
        give_up = time.monotonic() + 120
        while True:
            image = self.client.read(0, 40)
            if (bit in Status(image[1])) is high:
                return image
            if self.rng.random() < 0.002:
                self.client.write(100, [int(self.bits)])  # said again, as at every scan
            if self.rng.random() < 0.0005:
                self.restarts += 1
                raise OSError("the PLC is restarted")
            assert time.monotonic() < give_up, (bit.name, high, Status(image[1]), image[3])

    def pause(self):
        """Wait for a moment, mostly short."""
        if self.rng.random() < 0.1:
            time.sleep(self.rng.uniform(0, 0.02))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("cycles", "kills"), [(500, 3), pytest.param(5000, 8, marks=pytest.mark.endurance)])
def test_no_part_without_answer_and_none_answered_twice(cell, outlets, plc, cycles, kills):
    """Station, publisher and PLC are restarted, writes get lost: each trigger has one answer, and its own part."""
    port = peers.free_port()
    line = cell({"modbus": {"port": port}})
    running = outlets(line)
    plc(port).close()  # skips where there is no libmodbus
    program = Plc(port, random.Random(cycles))
    worker = threading.Thread(target=program.run, args=(cycles,))
    worker.start()
    try:
        for number in range(kills):
            target = cycles * (number + 1) // (kills + 1)
            peers.wait_for(lambda target=target: program.next_part > target or not worker.is_alive(), "progress", 600)
            if number % 2:
                line.kill()
                line.start()
            else:
                running.kill("modbus")
    finally:
        worker.join(900)
    assert program.next_part == cycles + 1
    assert sorted(program.answers) == list(range(1, cycles + 1)), "no part without an answer"
    assert {part: found for part, found in program.answers.items() if len(found) > 1} == {}, "none answered twice"
    assert all(found[0][1] == f"SN{part:05d}".encode() for part, found in program.answers.items())
    assert len(line.results()) == cycles, "none inspected twice"
    assert program.breaks >= kills // 2, "the connection did break"
