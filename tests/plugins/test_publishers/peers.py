"""Stations, publishers and peers for these tests, as objects; the fixtures are in conftest.py."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from runtime.ledger import Reader
from runtime.local import free_addresses
from runtime.publishing.supervisor import Publishers
from runtime.station.config import load_station
from runtime.wire.messages import decode_inspection

HERE = Path(__file__).parent
WAIT_S = 30.0


def free_port():
    """Return a TCP port nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(reached, what="the condition", timeout_s=WAIT_S):
    """Look until ``reached()`` is true, and return what it returned."""
    give_up = time.monotonic() + timeout_s
    while not (found := reached()):
        assert time.monotonic() < give_up, f"{what} within {timeout_s:g} s"
        time.sleep(0.01)
    return found


def is_alive(pid):
    """Tell whether a process is there."""
    return Path(f"/proc/{pid}").exists()


class Cell:
    """The station of ``cell.py``: start it, let it produce, kill it, start it again."""

    def __init__(self, folder, publishers, cameras=("top",)):
        frames, results, status, deliveries = free_addresses(4)
        content = {
            "schema": "edgead.station/1", "station": "cell4", "frames": frames, "results": results, "status": status,
            "deliveries": deliveries, "cameras": {name: {"product": "cap", "triggers": "ahead"} for name in cameras},
            "publishers": publishers,
        }  # fmt: skip
        self.path = folder / "station.yaml"
        self.path.write_text(json.dumps(content))
        self.station = load_station(self.path)
        self.process = None

    def start(self):
        """Start the process and wait until it serves."""
        command = [sys.executable, str(HERE / "cell.py"), str(self.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == 0
        return self

    def produce(self, number):
        """Let it inspect parts; return the last one's seq once it is committed."""
        self.process.stdin.write(f"produce {number}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        assert line.startswith("done "), "the station ended"
        return int(line.split()[1])

    def kill(self):
        """End it as a power switch would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def results(self):
        """Return every inspection on record, in order."""
        with Reader(self.station.ledger.file) as reader:
            return [decode_inspection(each.header) for each in reader.inspections()]


class Outlets:
    """The publishers of a station under their supervisor, to be ended, killed, and started again."""

    def __init__(self, cell, builtins, *, ready=True):
        self._cell, self._builtins = cell, builtins
        self._stack = ExitStack()
        self.publishers = None
        self.start(ready=ready)

    def start(self, *, ready=True):
        """Start them and wait until each has said that it runs."""
        made = Publishers(self._cell.station, self._cell.path.parent, self._builtins)
        self.publishers = self._stack.enter_context(made)
        if ready:
            self.wait_ready()

    def wait_ready(self):
        """Wait until each runs."""
        wait_for(
            lambda: all(each["state"] == "ready" for each in self.status().values()),
            f"publishers ready: {self.status()}",
        )

    def status(self):
        """Return their status."""
        return self.publishers.status()

    def kill(self, name):
        """Kill one as the machine's memory manager would; its supervisor starts it again."""
        os.kill(wait_for(lambda: self.status()[name]["pid"], "a process to kill"), signal.SIGKILL)
        wait_for(lambda: self.status()[name]["state"] == "degraded", "its end seen")

    def stop(self):
        """End them in order."""
        self._stack.close()


class LibModbus:
    """A Modbus TCP client of libmodbus (the library of mbpoll), one connection."""

    def __init__(self, port, unit=1):
        self._library = ctypes.CDLL(ctypes.util.find_library("modbus"))
        self._library.modbus_new_tcp.restype = ctypes.c_void_p
        self._library.modbus_strerror.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.modbus_new_tcp(b"127.0.0.1", port))
        self._library.modbus_set_slave(self._context, unit)
        self._connected = False

    def connect(self):
        """Connect; False if nobody listens."""
        self._connected = self._library.modbus_connect(self._context) == 0
        return self._connected

    def read(self, address, count, *, function=3):
        """Return ``count`` registers; OSError where the connection broke or the server refused."""
        words = (ctypes.c_uint16 * count)()
        call = self._library.modbus_read_registers if function == 3 else self._library.modbus_read_input_registers
        if call(self._context, address, count, words) != count:
            raise OSError("read refused or lost")
        return list(words)

    def write(self, address, words):
        """Write registers in one request; OSError where the connection broke or the server refused."""
        if self._library.modbus_write_registers(
            self._context, address, len(words), (ctypes.c_uint16 * len(words))(*words)
        ) != len(words):
            raise OSError("write refused or lost")

    def close(self):
        """Close the connection for good."""
        if self._context:
            self._library.modbus_close(self._context)
            self._library.modbus_free(self._context)
            self._context = None


class NodeOpcUa:
    """An OPC UA client by node-opcua: the program of tests/peers/opcua, in a folder where its packages lie."""

    def __init__(self, folder, port):
        program = folder / "peer.js"
        shutil.copy(HERE.parents[1] / "peers" / "opcua" / "peer.js", program)
        self._process = subprocess.Popen(
            ["node", str(program)], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.namespaces = self.ask("connect", url=f"opc.tcp://127.0.0.1:{port}/edgead")["namespaces"]

    def ask(self, operation, **arguments):
        """Let it do something; return its answer."""
        self._process.stdin.write(json.dumps({"op": operation, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        return answer

    def read(self, *nodes):
        """Return the values of nodes, read in one request."""
        return self.ask("read", nodes=nodes)["values"]

    def close(self):
        """End it."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Broker:
    """A mosquitto of the test's own; ``lines`` go into its configuration."""

    def __init__(self, folder, *lines):
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        self._lines = lines or (f"listener {self.port} 127.0.0.1", "allow_anonymous true")
        self._process = None

    def start(self):
        """Start it and wait until it accepts connections."""
        self._file.write_text("\n".join([*self._lines, "persistence false", ""]))
        with self._log.open("ab") as log:
            program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
            self._process = subprocess.Popen([program, "-c", str(self._file)], stdout=log, stderr=log)
        wait_for(self._accepts, "a broker")
        return self

    def _accepts(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        """Kill it: its subscribers and what it had not handed out are gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class MosquittoSub:
    """mosquitto_sub on topics, writing what it gets to a file: a line a message, topic and payload."""

    def __init__(self, port, folder, *topics, options=(), number=0):
        self._file = folder / f"sub-{number}-{time.monotonic_ns()}"
        chosen = [word for topic in topics for word in ("-t", topic)]
        command = [
            "mosquitto_sub",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-q",
            "1",
            *(() if "-F" in options else ("-F", "%t %r %p")),
            *chosen,
            *options,
        ]
        with self._file.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out)

    def lines(self):
        """Return (topic, retained, payload) of each message so far."""
        rows = [line.split(b" ", 2) for line in self._file.read_bytes().split(b"\n")[:-1]]
        return [(row[0].decode(), row[1] == b"1", row[2]) for row in rows]

    def records(self, end):
        """Return the JSON records of topics that end so."""
        return [json.loads(payload) for topic, _, payload in self.lines() if topic.endswith(end)]

    def stop(self):
        """End it."""
        self._process.kill()
        self._process.wait()
