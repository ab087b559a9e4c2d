"""Whatever is lost, cut or killed in whatever order: in the end every subscriber has every result, once and in order.

The host's ``Deliveries`` on a real ledger and the subscriber's ``Intake``, joined by a network that loses things.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from pathlib import Path

import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.delivery.intake import Intake, Life
from runtime.delivery.messages import Start, decode_answer, encode
from runtime.delivery.server import BEAT_NS, Deliveries
from runtime.ledger import Ledger, Outbox, Retention, check, prune


class Part:
    """A received part as ``zmq.Frame`` shows it."""

    def __init__(self, data, more):
        self.bytes, self.buffer, self.more = bytes(data), memoryview(bytes(data)), more


class Network:
    """A ROUTER and the links to it. A link that is cut takes what is on its way to the subscriber with it."""

    def __init__(self):
        self.to_host = deque()
        self.links = {}
        self._sending = []

    def send(self, part, flags):
        """Take a part; the last one sends them all. A connection that is cut is an error, as with ROUTER_MANDATORY."""
        if not self._sending and part not in self.links:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        self._sending.append(bytes(part))
        if not flags & zmq.SNDMORE:
            identity, *parts = self._sending
            self._sending = []
            self.links[identity].append(parts)

    def recv(self, _flags, *, copy):
        """Return the next part of what reached the host."""
        assert not copy
        if not self.to_host:
            raise zmq.Again
        parts = self.to_host[0]
        part = parts.pop(0)
        if not parts:
            self.to_host.popleft()
        return Part(part, bool(parts))


class Follower:
    """A subscriber: remembers what it was handed, in order, and the gaps it was told."""

    def __init__(self, network, name):
        self.network, self.name = network, name
        self.intake = Intake(name, start=Start.OLDEST)
        self.seqs, self.ids, self.missed = [], [], set()
        self.busy = deque()  # handed out, not processed
        self.identity = b""
        self.connections = 0

    def connect(self):
        """Make a new connection and subscribe."""
        self.connections += 1
        self.identity = f"{self.name}-{self.connections}".encode()
        self.network.links[self.identity] = deque()
        self.say(self.intake.subscribe())

    def cut(self, *, late):
        """Lose the connection; ``late``: what is on its way to the host still arrives there, sometime."""
        self.network.links.pop(self.identity, None)
        if not late:
            kept = [parts for parts in self.network.to_host if parts[0] != self.identity]
            self.network.to_host = deque(kept)

    def say(self, message):
        """Send a message to the host."""
        self.network.to_host.append([self.identity, *encode(message)])

    def read(self, number):
        """Read so many messages; connect anew where the connection is of no use."""
        link = self.network.links.get(self.identity)
        if link is None or self.intake.state is Life.LOST:
            self.connect()
            return
        while link and number and self.intake.state is not Life.LOST:
            number -= 1
            arrival = self.intake.take(decode_answer(link.popleft()))
            if arrival is not None:
                if arrival.gap is not None:
                    self.missed |= set(range(arrival.gap.from_seq, arrival.gap.to_seq + 1))
                self.seqs.append(arrival.delivery.seq)
                self.ids.append(arrival.inspection.result_id)
                self.busy.append(arrival.inspection.result_id)

    def process(self, number):
        """Finish so many of the results handed out, and acknowledge."""
        done = ""
        while self.busy and number:
            number -= 1
            done = self.busy.popleft()
        self.intake.done(done)
        if self.intake.state is Life.SUBSCRIBED:
            self.say(self.intake.ack())


class World:
    """A host that is killed, subscribers that are cut off, and what must be true in the end."""

    def __init__(self, folder, simulator):
        self.folder, self.simulator = folder, simulator
        self.network = Network()
        self.followers = [Follower(self.network, name) for name in ("mes", "historian")]
        self.now_ns = 0
        self.frames = 0
        self.headers = {}
        self.open()

    def open(self):
        """Begin a run of the host."""
        self.ledger = Ledger(self.folder / "ledger.db", self.simulator.STATION, checkpoint_s=3600)
        self.line = self.simulator.Line(self.ledger, time.time_ns, frames=self.frames)
        self.deliveries = Deliveries(self.network, Outbox(self.ledger))

    def produce(self, number, *, offer):
        """Inspect and commit that many parts."""
        for _ in range(number):
            self.frames += 1
            seq = self.line.answer(*self.line.arrive())
            self.ledger.commit()
            self.headers[seq] = self.line.headers[seq]
            if offer:
                self.deliveries.offer(seq, self.headers[seq])

    def turn(self, *, beat=False):
        """Do what a host does in a turn; ``beat``: a second later."""
        self.now_ns += BEAT_NS if beat else 1
        self.deliveries.take()
        self.ledger.commit()
        self.deliveries.turn(self.now_ns)

    def kill(self):
        """End the host as SIGKILL would: what is not committed is gone, and every connection with it."""
        for follower in self.followers:
            follower.cut(late=False)
        self.network.links.clear()
        self.network.to_host.clear()
        self.network._sending = []
        self.ledger._checkpointer.close()
        self.ledger.journal.connection.close()
        os.close(self.ledger._lock)
        self.ledger._lock = -1
        self.frames += 10**6
        self.open()

    def prune(self):
        """Remove the oldest records, acknowledged or not."""
        retention = Retention(most_ns=0)
        prune(self.ledger, self.folder, retention, time.time_ns() + 10**12, limit=30)

    def step(self, verb, who, number):
        """Do one thing."""
        follower = self.followers[who]
        match verb:
            case "produce":
                self.produce(number, offer=True)
            case "produce unoffered":
                self.produce(number, offer=False)
            case "turn":
                self.turn()
            case "beat":
                self.turn(beat=True)
            case "read":
                follower.read(number)
            case "process":
                follower.process(number)
            case "cut":
                follower.cut(late=bool(number % 2))
            case "kill":
                self.kill()
            case "prune":
                self.prune()

    def settle(self):
        """Let everybody come back and finish."""
        for _ in range(400):
            self.turn(beat=True)
            for follower in self.followers:
                follower.read(1000)
                follower.process(1000)
            if all(follower.seqs[-1:] == [self.ledger.written_seq] for follower in self.followers):
                break
        for _ in range(3):
            self.turn(beat=True)


VERBS = [*["produce"] * 3, "produce unoffered", *["turn"] * 3, "beat", *["read"] * 4, *["process"] * 3, "cut", "kill"]
step = st.tuples(st.sampled_from(VERBS), st.integers(0, 1), st.integers(1, 40))
step_with_prune = st.tuples(st.sampled_from([*VERBS, "prune"]), st.integers(0, 1), st.integers(1, 40))
# Few and long: a list shorter than a dozen steps rarely cuts off a subscriber that has something to lose.
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def live(simulator, steps):
    """Live through the steps, settle, and return the world; its ledger is closed and proven."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), simulator)
        try:
            for each in steps:
                world.step(*each)
            for follower in world.followers:  # a name is owed what comes after its first subscribe
                follower.read(1)
            world.settle()
            world.produce(1, offer=True)
            world.settle()
            for follower in world.followers:
                lag = world.deliveries.status()["subscribers"][follower.name]
                assert (lag["lag"], lag["gap"], lag["in_flight"]) == (0, None, 0)
        finally:
            world.deliveries.close()
            world.ledger.close()
        assert check(Path(folder) / "ledger.db", now_ns=0) == []
    return world


@relaxed
@given(st.lists(step, min_size=60, max_size=120))
def test_every_result_comes_once_and_in_order(simulator, steps):
    """After any sequence of cuts, kills and delays each subscriber was handed 1..n, each once, nothing left out."""
    world = live(simulator.simulator, steps)
    last = max(world.headers)
    for follower in world.followers:
        assert follower.seqs == list(range(1, last + 1))
        assert len(set(follower.ids)) == last
        assert follower.missed == set()


@relaxed
@given(st.lists(step_with_prune, min_size=60, max_size=120))
def test_what_retention_takes_is_named(simulator, steps):
    """With retention at work too, what a subscriber was not handed is what it was told is gone."""
    world = live(simulator.simulator, steps)
    everything = set(range(1, max(world.headers) + 1))
    for follower in world.followers:
        assert follower.seqs == sorted(set(follower.seqs))
        begun = min(follower.missed | set(follower.seqs))
        assert {seq for seq in everything if seq >= begun} <= set(follower.seqs) | follower.missed


def test_the_network_of_these_tests_loses_things(simulator):
    """A cut link takes its messages along and a killed host its connections: the properties above are not idle."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), simulator.simulator)
        try:
            mes = world.followers[0]
            mes.connect()
            world.turn()
            world.produce(5, offer=True)
            assert len(world.network.links[mes.identity]) > 5
            mes.cut(late=False)
            mes.read(100)
            world.turn()
            world.kill()
            assert (mes.seqs, world.network.links) == ([], {})
            world.settle()
            assert mes.seqs == [1, 2, 3, 4, 5]
            assert mes.intake.repetitions == 0
        finally:
            world.ledger.close()
