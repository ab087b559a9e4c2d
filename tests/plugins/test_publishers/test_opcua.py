"""OPC UA as a client sees it: nodes, events, methods, security. The client is asyncua's, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import publisher_peers as peers  # loaded by conftest.py
import pytest

from edgead import RESULT_FIELDS, result_values

pytest.importorskip("asyncua", reason="asyncua is not installed: pip install 'edgead[opcua]'")

from asyncua import Client, ua
from asyncua.crypto.security_policies import (
    SecurityPolicyAes256Sha256RsaPss,
    SecurityPolicyBasic256Sha256,
)

pytestmark = pytest.mark.system
NAMESPACE = "urn:edgead:results:1"


@pytest.fixture
def opcua(cell, outlets, tmp_path):
    """Return a maker of (cell, outlets, connect) of a station with OPC UA, user ``plc`` with password ``hush``."""
    (tmp_path / "secret").write_text("hush")

    def make(**options):
        port = peers.free_port()
        users = {"plc": {"file": str(tmp_path / "secret")}}
        line = cell({"opcua": {"port": port, "users": users, **options}})
        running = outlets(line)

        @contextlib.asynccontextmanager
        async def connect(policy=SecurityPolicyBasic256Sha256, user="plc", password="hush"):  # noqa: S107 - the test's own
            client = Client(f"opc.tcp://127.0.0.1:{port}/edgead", timeout=10)
            client.application_uri = "urn:test:client"
            if user is not None:
                client.set_user(user)
                client.set_password(password)
            if policy is not None:
                certificate, key = await own_certificate(tmp_path)
                await client.set_security(policy, str(certificate), str(key))
            async with client:
                yield Peer(client, await client.get_namespace_index(NAMESPACE))

        return line, running, connect

    return make


async def own_certificate(folder):
    """Return a certificate and key of the client's own."""
    from asyncua.crypto.cert_gen import setup_self_signed_certificate
    from cryptography.x509.oid import ExtendedKeyUsageOID

    certificate, key = folder / "client.der", folder / "client.pem"
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    await setup_self_signed_certificate(key, certificate, "urn:test:client", "localhost", uses, {"commonName": "test"})
    return certificate, key


class Peer:
    """A client's view of the camera ``top``."""

    def __init__(self, client, space):
        self.client, self.space = client, space
        self.camera = client.get_node(ua.NodeId("cell4.top", space))
        self._last = [client.get_node(ua.NodeId(f"cell4.top.Last.{each.node}", space)) for each in RESULT_FIELDS]

    async def last(self):
        """Return the result shown, all fields in one Read request."""
        values = await self.client.read_values(self._last)
        return dict(zip([each.name for each in RESULT_FIELDS], values, strict=True))

    async def until(self, reached, what):
        """Read until ``reached(result)``."""
        give_up = time.monotonic() + peers.WAIT_S
        while not reached(shown := await self.last()):
            assert time.monotonic() < give_up, what
            await asyncio.sleep(0.01)
        return shown

    async def call(self, method, *arguments):
        """Call a method of the camera."""
        return await self.camera.call_method(f"{self.space}:{method}", *arguments)


class Events:
    """Keeps the events of a subscription."""

    def __init__(self):
        self.kept = []

    def event_notification(self, event):
        """Keep one."""
        self.kept.append({each.name: getattr(event, each.node) for each in RESULT_FIELDS})


def test_every_result_is_an_event_and_the_last_stands_in_the_nodes(opcua):
    """A subscriber has 100 results as events, field by field, in order; the nodes hold the last, of the right types."""
    line, _, connect = opcua()

    async def work():
        async with connect() as peer:
            events = Events()
            subscription = await peer.client.create_subscription(10, events)
            space = await peer.client.nodes.base_event_type.get_child(f"{peer.space}:ResultReadyType")
            await subscription.subscribe_events(peer.camera, space, queuesize=1000)
            line.produce(100)
            shown = await peer.until(lambda each: each["seq"] == 100, "the last result")
            give_up = time.monotonic() + peers.WAIT_S
            while len(events.kept) < 100 and time.monotonic() < give_up:  # noqa: ASYNC110 - the peer's own pace
                await asyncio.sleep(0.01)
            kinds = {"uint": ua.ObjectIds.UInt64, "float": ua.ObjectIds.Double, "text": ua.ObjectIds.String,
                     "bool": ua.ObjectIds.Boolean}  # fmt: skip
            types = [await node.read_data_type() for node in peer._last]
            assert types == [ua.NodeId(kinds[each.kind]) for each in RESULT_FIELDS]
            return events.kept, shown

    events, shown = asyncio.run(work())
    wanted = [result_values(each, historical=False) for each in line.results()]
    assert events == wanted
    assert shown == wanted[-1]


@pytest.mark.parametrize(
    ("policy", "user", "password"),
    [
        (None, "plc", "hush"),
        (SecurityPolicyBasic256Sha256, None, ""),
        (SecurityPolicyBasic256Sha256, "plc", "guess"),
        (SecurityPolicyAes256Sha256RsaPss, "other", "hush"),
    ],
)
def test_strangers_are_refused(opcua, policy, user, password):
    """Without encryption, without a name, with a wrong password or an unknown name nobody comes in."""
    _, _, connect = opcua()

    async def work():
        with pytest.raises((ua.UaError, ConnectionError, ValueError, TimeoutError)):
            async with connect(policy, user, password):
                pass
        async with connect(SecurityPolicyAes256Sha256RsaPss) as peer:
            await peer.last()

    asyncio.run(work())


@pytest.mark.slow
def test_a_silent_session_ends_after_a_minute_at_most(opcua):
    """The server gives no session more than 60 s, whatever the client asks for."""
    _, _, connect = opcua()

    async def work():
        async with connect() as peer:
            return peer.client.session_timeout

    assert asyncio.run(work()) <= 60_000


@pytest.mark.slow
def test_a_job_is_answered(opcua):
    """StartSingleJob raises one trigger; its result carries job and part; the same MeasId again is the same job."""
    line, _, connect = opcua()

    async def work():
        async with connect() as peer:
            job, error = await peer.call("StartSingleJob", "77", "SN-9", "", "")
            assert (job, error) == ("77", 0)
            shown = await peer.until(lambda each: each["trigger_id"] == 77, "its result")
            assert shown["part_id"] == "SN-9"
            job, error = await peer.call("StartSingleJob", "", "SN-10", "", "")
            assert error == 0
            await peer.until(lambda each: each["trigger_id"] == int(job), "its result")
            line.kill()
            await asyncio.sleep(1.5)
            assert (await peer.call("StartSingleJob", "78", "", "", ""))[1] != 0

    asyncio.run(work())
    assert [each.part_id for each in line.results()] == ["SN-9", "SN-10"]


@pytest.mark.slow
def test_many_jobs_repeated_and_out_of_order(opcua):
    """150 jobs called twice, shuffled, and under another part: each part has one result, each wrong call a refusal."""
    line, _, connect = opcua(acknowledge=True)
    rng = random.Random(3)
    calls = [(str(number), f"P{number}") for number in range(1, 151)] * 2
    rng.shuffle(calls)

    async def work():
        async with connect() as peer:
            started = set()
            for meas, part in calls:
                assert (await peer.call("StartSingleJob", meas, part, "", "")) == [meas, 0]
                started.add(meas)
                if rng.random() < 0.2:
                    assert (await peer.call("StartSingleJob", rng.choice(sorted(started)), "other", "", ""))[1] == -1
            assert (await peer.call("StartSingleJob", "long" * 20, "", "", ""))[1] == -1
            assert (await peer.call("StartSingleJob", "0001", "P1", "", ""))[1] == -1, "1 is open under another name"
            taken = []
            for _ in range(150):
                shown = await peer.until(lambda each: each["result_id"] not in (None, *taken), "the next result")
                taken.append(shown["result_id"])
                assert await peer.call("AcknowledgeResult", shown["result_id"]) == 0
            jobs = peer.client.get_node(ua.NodeId("cell4.top.OpenJobs", peer.space))
            give_up = time.monotonic() + peers.WAIT_S
            while await jobs.read_value():
                assert time.monotonic() < give_up
                await asyncio.sleep(0.05)
            return taken

    taken = asyncio.run(work())
    assert sorted((each.trigger_id, each.part_id) for each in line.results()) == [(n, f"P{n}") for n in range(1, 151)]
    assert taken == [each.result_id for each in line.results()]


@pytest.mark.slow
def test_results_wait_for_their_acknowledgement(opcua):
    """In acknowledge mode each result stands until acknowledged, over a kill too; a repeated call is done already."""
    line, running, connect = opcua(acknowledge=True)

    async def take(peer, number):
        taken = []
        for _ in range(number):
            shown = await peer.until(lambda each: each["seq"] not in (None, 0, *taken), "the next result")
            assert await peer.call("AcknowledgeResult", shown["result_id"]) == 0
            assert await peer.call("AcknowledgeResult", shown["result_id"]) == 0
            assert await peer.call("AcknowledgeResult", "another") != 0
            taken.append(shown["seq"])
        return taken

    async def first():
        async with connect() as peer:
            line.produce(10)
            return await take(peer, 4)

    async def rest():
        async with connect() as peer:
            return await take(peer, 6)

    taken = asyncio.run(first())
    running.kill("opcua")
    running.wait_ready()
    assert taken + asyncio.run(rest()) == list(range(1, 11))


@pytest.mark.slow
def test_only_trusted_applications_connect(opcua, tmp_path):
    """With a folder of trusted certificates another application is refused, though it knows the password."""
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    certificate, _ = asyncio.run(own_certificate(tmp_path))
    (trusted / "client.der").write_bytes(certificate.read_bytes())
    _, _, connect = opcua(trusted="trusted")

    async def work():
        async with connect() as peer:
            await peer.last()
        certificate.unlink()
        (tmp_path / "client.pem").unlink()  # another application from here on
        with pytest.raises((ua.UaError, ConnectionError, ValueError, TimeoutError)):
            async with connect():
                pass

    asyncio.run(work())


@pytest.mark.slow
def test_the_heartbeat_is_the_hosts(opcua):
    """Heartbeat and State follow the host's loop: they stand still, and say host_lost, when it is killed."""
    line, _, connect = opcua()

    async def work():
        async with connect() as peer:
            beat, state = (
                peer.client.get_node(ua.NodeId(f"cell4.{name}", peer.space)) for name in ("Heartbeat", "State")
            )
            first = await beat.read_value()
            give_up = time.monotonic() + peers.WAIT_S
            while await beat.read_value() == first:
                assert time.monotonic() < give_up
                await asyncio.sleep(0.05)
            line.kill()
            while await state.read_value() != "host_lost":
                assert time.monotonic() < give_up
                await asyncio.sleep(0.05)
            stopped = await beat.read_value()
            await asyncio.sleep(1.0)
            assert await beat.read_value() == stopped

    asyncio.run(work())
