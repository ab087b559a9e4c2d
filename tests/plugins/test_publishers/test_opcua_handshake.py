"""A PLC's program over OPC UA for thousands of cycles: delays, restarts of everything, lost answers, repeated calls."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time

import publisher_peers as peers  # loaded by conftest.py
import pytest

pytest.importorskip("asyncua", reason="asyncua is not installed: pip install 'edgead[opcua]'")

from asyncua import Client, ua

pytestmark = pytest.mark.system
NAMESPACE = "urn:edgead:results:1"
SHOWN = ("ResultId", "Seq", "TriggerId", "PartId")
DONE, HOST_LOST = 0, -2
#: Longest any answer may take: a server that was killed does not say so to a client that waits for its word.
CALL_S = 4.0


class RestartedError(Exception):
    """The PLC was switched off and on again."""


class Program:
    """A PLC's program as docs/opcua.md tells it; it keeps ``part``, ``answers`` and ``last`` over its restarts."""

    def __init__(self, port, parts, rng):
        self.url, self.parts, self.rng = f"opc.tcp://127.0.0.1:{port}/edgead", parts, rng
        self.part, self.last, self.answers = 1, "", {}
        self.breaks = self.lost = 0

    async def run(self):
        """Start and take that many parts, connecting anew after everything that goes wrong."""
        while self.part <= self.parts:
            with contextlib.suppress(ua.UaError, OSError, TimeoutError, RestartedError):
                await self.life()
            self.breaks += 1

    async def life(self):
        """One connection: it is left without a word where something goes wrong, as a PLC without power leaves it."""
        client = Client(self.url, timeout=CALL_S)
        try:
            await asyncio.wait_for(client.connect(), 2 * CALL_S)
            space = await client.get_namespace_index(NAMESPACE)
            self.camera = client.get_node(ua.NodeId("cell4.top", space))
            self.shown = [client.get_node(ua.NodeId(f"cell4.top.Last.{name}", space)) for name in SHOWN]
            self.client, self.space = client, space
            if self.last:  # taken before the restart, perhaps not acknowledged
                assert await self.call("AcknowledgeResult", self.last) == DONE
            while self.part <= self.parts:
                await self.cycle()
        finally:
            if self.part > self.parts:
                await asyncio.wait_for(client.disconnect(), CALL_S)
            else:
                client.uaclient.disconnect_socket()

    async def cycle(self):
        """One part: start its job, then take results until its own is among them."""
        await self.pause()
        while self.part not in self.answers:
            _, error = await self.call("StartSingleJob", str(self.part), f"SN{self.part:05d}", "", "")
            if error == HOST_LOST:
                await asyncio.sleep(0.05)
                continue
            assert error == DONE
            give_up = time.monotonic() + 60
            while not await self.take():
                assert time.monotonic() < give_up, f"no answer to part {self.part}"
        self.part += 1

    async def take(self):
        """Take the result shown if it is not the last one taken; tell whether this part has its answer."""
        result_id, seq, trigger_id, part_id = await asyncio.wait_for(self.client.read_values(self.shown), CALL_S)
        if result_id in (None, self.last):
            await asyncio.sleep(0.002)
            return False
        self.answers.setdefault(trigger_id, []).append((seq, part_id))
        self.last = result_id
        await self.pause()
        assert await self.call("AcknowledgeResult", result_id) == DONE
        return self.part in self.answers

    async def call(self, method, *arguments):
        """Call a method; now and then its answer is lost, and it is called again."""
        name = f"{self.space}:{method}"
        if self.rng.random() < 0.05:
            self.lost += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.camera.call_method(name, *arguments), self.rng.choice((0.0005, 0.003)))
        if self.rng.random() < 0.004:
            raise RestartedError
        return await asyncio.wait_for(self.camera.call_method(name, *arguments), CALL_S)

    async def pause(self):
        """Wait for a moment, mostly not at all."""
        if self.rng.random() < 0.1:
            await asyncio.sleep(self.rng.uniform(0, 0.02))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("cycles", "kills"), [(100, 2), pytest.param(5000, 8, marks=pytest.mark.endurance)])
def test_no_part_without_answer_and_none_answered_twice(cell, outlets, cycles, kills):
    """Station, publisher and client are restarted, answers get lost: each job has one answer, and its own part."""
    port = peers.free_port()
    line = cell({"opcua": {"port": port, "anonymous": True, "security": "none", "acknowledge": True}})
    running = outlets(line)
    program = Program(port, cycles, random.Random(cycles))
    worker = threading.Thread(target=lambda: asyncio.run(program.run()))
    worker.start()
    try:
        for number in range(kills):
            target = cycles * (number + 1) // (kills + 1)
            peers.wait_for(lambda target=target: program.part > target or not worker.is_alive(), "progress", 900)
            if number % 2:
                line.kill()
                line.start()
            else:
                running.kill("opcua")
    finally:
        worker.join(900)
    assert program.part == cycles + 1
    assert sorted(program.answers) == list(range(1, cycles + 1)), "no part without an answer"
    assert {part: found for part, found in program.answers.items() if len(found) > 1} == {}, "none answered twice"
    assert all(found[0][1] == f"SN{part:05d}" for part, found in program.answers.items())
    assert len(line.results()) == cycles, "none inspected twice"
    assert program.breaks > kills // 2, "the connection did break"
    assert program.lost > 0, "answers were lost"
