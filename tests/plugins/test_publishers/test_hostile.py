"""Peers that say nothing, garbage, or one byte a second, on every protocol at once: nobody else waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading

import publisher_peers as peers  # loaded by conftest.py
import pytest

from plugins.publishers.modbus.image import Control, Status

pytest.importorskip("asyncua", reason="asyncua is not installed: pip install 'edgead[opcua]'")

from asyncua import Client, ua

pytestmark = [pytest.mark.system, pytest.mark.slow]


class Stranger:
    """A server that accepts everybody and answers with what ``words`` gives, a piece at a time, or nothing."""

    def __init__(self, words):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.accepted = 0
        self._words, self._stop = words, threading.Event()
        self._open = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        self._socket.settimeout(0.1)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self._open.append(self._socket.accept()[0])
                self.accepted += 1
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.send(self._words())

    def close(self):
        """End it."""
        self._stop.set()
        self._thread.join()
        for each in (*self._open, self._socket):
            each.close()


@pytest.fixture
def strangers():
    """Return servers that are silent, talk garbage, and drip an HTTP answer."""
    rng = random.Random(5)
    made = {
        "silent": Stranger(lambda: b""),
        "garbage": Stranger(lambda: rng.randbytes(rng.randrange(1, 500))),
        "dripping": Stranger(lambda: b"H"),
    }
    yield made
    for each in made.values():
        each.close()


@contextlib.contextmanager
def flood(*ports):
    """Keep half-open connections to servers, announce messages that never come, and send garbage, until the end."""
    stop, rng = threading.Event(), random.Random(6)

    def attack(port):
        while not stop.wait(0.01):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
                garbage = rng.randbytes(rng.randrange(1, 2000))
                sock.sendall(rng.choice((b"HELF\xff\xff\xff\x7f", b"OPNF\x08\0\0\0", garbage)))

    with contextlib.ExitStack() as stack:
        for port in ports:
            for _ in range(5):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        threads = [threading.Thread(target=attack, args=(port,)) for port in ports]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def take(client, number):
    """Take that many results by the four steps; return their seqs."""
    seqs = []
    client.write(100, [int(Control.BUFFER_ENABLE)])
    while len(seqs) < number:
        image = peers.wait_for(lambda: (found := client.read(0, 40))[1] & Status.RESULT_VALID and found, "a result")
        seqs.append(image[4] << 16 | image[5])
        client.write(100, [int(Control.BUFFER_ENABLE | Control.RESULT_ACK)])
        peers.wait_for(lambda: Status.RESULT_VALID not in Status(client.read(1, 1)[0]), "RESULT_VALID falls")
        client.write(100, [int(Control.BUFFER_ENABLE)])
    return seqs


async def last_seq(port, wanted):
    """Return the last result's seq by OPC UA, once it is that."""
    async with Client(f"opc.tcp://127.0.0.1:{port}/edgead", timeout=10) as client:
        space = await client.get_namespace_index("urn:edgead:results:1")
        node = client.get_node(ua.NodeId("cell4.top.Last.Seq", space))
        for _ in range(300):
            if (found := await node.read_value()) == wanted:
                break
            await asyncio.sleep(0.1)
        return found


@pytest.mark.timeout(300)
def test_hostile_peers_of_every_protocol_delay_nobody(cell, outlets, plc, strangers):
    """Servers flooded, brokers and receivers hostile: results arrive all the same, nothing dies, all end in time."""
    modbus, opcua = peers.free_port(), peers.free_port()
    line = cell({
        "modbus": {"port": modbus, "connections": 20},
        "opcua": {"port": opcua, "anonymous": True, "security": "none"},
        "mqtt": {"host": "127.0.0.1", "port": strangers["garbage"].port},
        "sparkplug": {"host": "127.0.0.1", "port": strangers["silent"].port},
        "webhook": {"url": f"http://127.0.0.1:{strangers['dripping'].port}/", "timeout_s": 1.0},
    })  # fmt: skip
    running = outlets(line)
    client = plc(modbus)
    with flood(modbus, opcua):
        line.produce(20)
        assert take(client, 20) == list(range(1, 21))
        assert asyncio.run(last_seq(opcua, 20)) == 20
        peers.wait_for(lambda: all(each.accepted >= 2 for each in strangers.values()), "another try with each", 60)
    assert {name: each["restarts"] for name, each in running.status().items()} == dict.fromkeys(running.status(), 0)
    pids = [each["pid"] for each in running.status().values()]
    running.stop()
    assert not any(peers.is_alive(pid) for pid in pids)
