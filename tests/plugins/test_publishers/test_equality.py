"""One result, many protocols: what Modbus, OPC UA, MQTT and ZeroMQ say at once is the same, field by field."""

from __future__ import annotations

import asyncio
import threading
import time

import publisher_peers as peers  # loaded by conftest.py
import pytest

from edgead import RESULT_FIELDS, result_values, subscribe
from plugins.publishers.modbus.image import SEQ_TAIL, Control, Status, pack_result

pytest.importorskip("asyncua", reason="asyncua is not installed: pip install 'edgead[opcua]'")

pytestmark = pytest.mark.system

PARTS = 1000


def take_by_modbus(client, number):
    """Take results by the four steps until that many; return their images, each read in one request."""
    images, seen = [], 0
    client.write(100, [int(Control.BUFFER_ENABLE)])
    while len(images) < number:
        image = client.read(0, 40)
        if Status.RESULT_VALID not in Status(image[1]):
            continue
        assert image[4:6] == image[SEQ_TAIL : SEQ_TAIL + 2], "torn"
        assert image[4] << 16 | image[5] == seen + 1
        seen += 1
        images.append(image)
        client.write(100, [int(Control.BUFFER_ENABLE | Control.RESULT_ACK)])
        while Status.RESULT_VALID in Status(client.read(1, 1)[0]):
            pass
        client.write(100, [int(Control.BUFFER_ENABLE)])
    return images


async def take_by_opcua(port, number, ready):
    """Return that many events, as values by field."""
    from asyncua import Client, ua

    kept = []

    class Handler:
        def event_notification(self, event):
            kept.append({each.name: getattr(event, each.node) for each in RESULT_FIELDS})

    async with Client(f"opc.tcp://127.0.0.1:{port}/edgead", timeout=30) as client:
        space = await client.get_namespace_index("urn:edgead:results:1")
        subscription = await client.create_subscription(10, Handler())
        kind = await client.nodes.base_event_type.get_child(f"{space}:ResultReadyType")
        await subscription.subscribe_events(client.get_node(ua.NodeId("cell4.top", space)), kind, queuesize=2000)
        ready.set()
        give_up = time.monotonic() + 200
        while len(kept) < number and time.monotonic() < give_up:  # noqa: ASYNC110 - the peer's own pace
            await asyncio.sleep(0.02)
    return kept


def take_by_node_opcua(client, number, ready):
    """Return that many events, as values by field, as node-opcua reads them."""
    space = client.namespaces.index("urn:edgead:results:1")
    kinds = client.ask("browse", node="i=2041")["names"]
    (kind,) = [node for name, node, _ in kinds if name == f"{space}:ResultReadyType"]
    fields = [f"{space}:{each.node}" for each in RESULT_FIELDS]
    client.ask("listen", node=f"ns={space};s=cell4.top", type=kind, fields=fields)
    ready.set()
    events = client.ask("events", number=number)["events"]
    return [{each.name: as_number(each, value) for each, value in zip(RESULT_FIELDS, event, strict=True)}
            for event in events]  # fmt: skip


def take_by_either(client, port, ready):
    """Return the events as node-opcua reads them, or asyncua's client where there is none."""
    if client is None:
        return asyncio.run(take_by_opcua(port, PARTS, ready))
    return take_by_node_opcua(client, PARTS, ready)


def as_number(field, value):
    """Return a value as Python has it: UInt64 come as text, for JavaScript's numbers end at 2^53."""
    return int(value) if field.kind == "uint" and value is not None else value


def register_part(image):
    """Return the words of an image that the result decides."""
    station_words = {0, 1, 2, 29, 36, 37}
    return [word for at, word in enumerate(image) if at not in station_words]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thousand_results_are_the_same_everywhere(  # noqa: PLR0917 - the peers
    cell, outlets, broker, listen, plc, found_opcua_node, request
):
    """1,000 results taken at once by libmodbus, node-opcua, mosquitto_sub and ZeroMQ are identical."""
    modbus, opcua = peers.free_port(), peers.free_port()
    line = cell({
        "modbus": {"port": modbus},
        "opcua": {"port": opcua, "anonymous": True, "security": "none"},
        "mqtt": {"host": "127.0.0.1", "port": broker.port},
    })  # fmt: skip
    running = outlets(line)
    peers.wait_for(lambda: running.status()["mqtt"]["figures"].get("connected"), "the broker")
    sub = listen(broker.port, "edgead/v1/#")
    peers.wait_for(sub.lines, "the subscription")
    found = {}

    def by_zeromq():
        with subscribe(line.station.deliveries, "mes", from_oldest=True) as results:
            kept = []
            for each in results:
                kept.append(result_values(each.inspection, historical=False))
                if len(kept) == PARTS:
                    break
            found["zeromq"] = kept

    ready = threading.Event()
    client = plc(modbus)
    other = None
    if not isinstance(found_opcua_node, str):
        other = peers.NodeOpcUa(found_opcua_node, opcua)
        request.addfinalizer(other.close)

    threads = [
        threading.Thread(target=by_zeromq),
        threading.Thread(target=lambda: found.update(modbus=take_by_modbus(client, PARTS))),
        threading.Thread(target=lambda: found.update(opcua=take_by_either(other, opcua, ready))),
    ]
    for thread in threads:
        thread.start()
    assert ready.wait(60)
    for _ in range(PARTS // 10):
        line.produce(10)
        time.sleep(0.05)
    for thread in threads:
        thread.join(300)
    peers.wait_for(lambda: len(sub.records("/result")) >= PARTS, "all by MQTT")
    recorded = [result_values(each, historical=False) for each in line.results()]

    def live(values):
        return {name: value for name, value in values.items() if name not in {"historical", "schema"}}

    wanted = [live(each) for each in recorded]
    assert [live(each) for each in found["zeromq"]] == wanted
    assert [live(each) for each in found["opcua"]] == wanted
    mqtt = {each["result_id"]: each for each in sub.records("/result")}
    assert [live(each) for each in mqtt.values()] == wanted
    images = [register_part(each) for each in found["modbus"]]
    assert images == [register_part(pack_result(each, {})) for each in recorded]
    if isinstance(found_opcua_node, str):
        pytest.skip(f"all agree, but OPC UA was read by asyncua's own client: {found_opcua_node}")
