"""A station in the test's own thread, peers that speak its protocol by hand, and processes to be killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest
import zmq

from runtime.delivery.messages import Ack, Delivery, Subscribe, decode_answer, encode
from runtime.local import free_addresses

HERE = Path(__file__).parent
WAIT_S = 20.0


def _load():
    spec = util.spec_from_file_location("delivery_station", HERE / "station.py")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def simulator():
    """Return the module station.py."""
    return _load()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the ledger of the test lies."""
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def stations(simulator, path) -> Iterator:
    """Yield a function that opens a station on the test's ledger, again and again."""
    opened: list = []

    def begin(**options):
        opened.append(simulator.Station(path, **options))
        return opened[-1]

    yield begin
    for station in opened:
        station.__exit__()


@pytest.fixture
def station(stations):
    """Return a station on a fresh ledger."""
    return stations()


class Peer:
    """A DEALER that speaks the protocol by hand, in the thread that also turns the station."""

    def __init__(self, station, name="mes", *, attempt=1, session=7, **fields):
        """Connect and subscribe; ``credit`` and others are fields of the message."""
        self.station = station
        self.socket = station.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(station.address)
        if name:
            values = {"credit": 100} | fields
            self.send(Subscribe(name=name, session=session, attempt=attempt, **values))

    def send(self, message):
        """Send a message."""
        self.socket.send_multipart(encode(message))

    def ack(self, seq):
        """Acknowledge."""
        self.send(Ack(seq=seq))

    def receive(self, kind=None):
        """Return the next message, of a kind if one is given; the station turns until it is there."""
        give_up = time.monotonic() + WAIT_S
        while time.monotonic() < give_up:
            self.station.turn()
            if self.socket.poll(1):
                message = decode_answer(self.socket.recv_multipart())
                if kind is None or isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__ if kind else 'message'} came")

    def deliveries(self, number):
        """Return the next deliveries."""
        return [self.receive(Delivery) for _ in range(number)]

    def silent(self, turns=30):
        """Tell whether nothing but heartbeats comes in so many turns of the station."""
        for _ in range(turns):
            self.station.turn()
            if self.socket.poll(1) and b"heartbeat" not in self.socket.recv_multipart()[0]:
                return False
        return True


@pytest.fixture
def peer() -> Iterator:
    """Yield the class of peers; those made are closed."""
    made: list[Peer] = []

    def make(*arguments, **options):
        made.append(Peer(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.socket.close(0)


class Processes:
    """Stations and subscribers in processes of their own; see station.py."""

    def __init__(self, folder):
        """Start the process that forks them."""
        self.folder = folder
        (self.address,) = free_addresses(1)
        self.process = subprocess.Popen(
            [sys.executable, HERE / "station.py", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, *words):
        """Give a command and return the answer."""
        print(*words, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def serve(self, name="station", *, parts_per_s=0.0, parts=10**9):
        """Start a station."""
        assert self.tell("serve", name, self.address, parts_per_s, parts) == "done"

    def subscribe(self, name):
        """Start a subscriber."""
        assert self.tell("subscribe", name, self.address) == "done"

    def kill(self, name):
        """Kill one, which must be alive."""
        assert self.tell("signal", name, int(signal.SIGKILL)) == "done"

    def lines(self, name):
        """Return what a subscriber has written: (seq, result_id, historical, delay_us) of each result."""
        file = self.folder / name
        rows = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(int(seq), result_id, historical == "1", int(delay)) for seq, result_id, historical, delay in rows]

    def close(self):
        """Kill them all."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def processes(tmp_path) -> Iterator[Processes]:
    """Yield processes to be started and killed."""
    running = Processes(tmp_path)
    yield running
    running.close()


@pytest.fixture
def until():
    """Return a function that waits for something to become true."""

    def wait(claim, seconds=WAIT_S):
        give_up = time.monotonic() + seconds
        while not claim():
            assert time.monotonic() < give_up, "it did not come to pass in time"
            time.sleep(0.02)

    return wait
