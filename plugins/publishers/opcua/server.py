"""asyncua at the border: address space, security, events and methods."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncua import Server, ua
from asyncua.common.methods import uamethod

from edgead import RESULT_FIELDS, Delivered, EdgeadError, PublisherContext, result_values
from plugins.publishers.opcua.publisher import Shelf
from plugins.publishers.opcua.security import Users, secure

if TYPE_CHECKING:
    from plugins.publishers.opcua.publisher import Desk, OpcUaOptions

log = logging.getLogger("edgead.opcua")

NAMESPACE = "urn:edgead:results:1"
_KINDS = {
    "uint": ua.VariantType.UInt64, "float": ua.VariantType.Double, "text": ua.VariantType.String,
    "bool": ua.VariantType.Boolean,
}  # fmt: skip
#: Error numbers of the methods: 0 done, else as OPC 40100-1 leaves it to the vendor.
DONE, REFUSED = 0, -1
#: Longest a method waits for an acknowledgement to be on disk.
_SETTLE_S = 2.0
_BEAT_S = 0.25


class StationServer:
    """The server of a station. ``offer``, ``settled`` and the methods run in its event loop."""

    def __init__(self, options: OpcUaOptions, context: PublisherContext, desk: Desk) -> None:
        self._options, self._context, self._desk = options, context, desk
        self._shelves = {camera: Shelf(desk, acknowledge=options.acknowledge) for camera in context.cameras}
        self._nodes: dict[str, dict[str, Any]] = {}
        self._events: dict[str, Any] = {}
        self._station: dict[str, Any] = {}
        self._settling: dict[str, asyncio.Future[None]] = {}
        self._shown = self._refused = 0
        self._last_refusal = ""
        self._jobs = time.time_ns() // 1000  # ids of jobs that name none: never used before, also after a restart
        self._server: Any = None
        self._to_show: asyncio.Queue[Delivered] = asyncio.Queue()

    async def serve(self, started: Callable[[], None], end: asyncio.Event) -> None:
        """Serve until ``end``."""
        for noisy in ("asyncua", "asyncuagds.validate"):  # a peer's mistake is no error of ours, with a traceback
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        self._server = server = Server(user_manager=Users(self._options, self._context.base))
        await server.init()
        await secure(server, self._options, self._context)
        await self._build(server)
        await server.start()
        showing = asyncio.create_task(self._show_all())
        try:
            log.info("OPC UA on opc.tcp://%s:%d", self._options.host, self._options.port)
            started()
            while not end.is_set() and not showing.done():
                await self._beat()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(end.wait(), _BEAT_S)
            if showing.done():
                showing.result()  # it never ends by itself: this raises what ended it
        finally:
            showing.cancel()
            await server.stop()

    # --- the address space --------------------------------------------------------------------------------------

    async def _build(self, server: Any) -> None:
        space = await server.register_namespace(NAMESPACE)
        root = await server.nodes.objects.add_folder(space, "EdgeAD")
        station = await root.add_object(ua.NodeId(self._context.station, space), self._context.station)
        for name, kind in (("State", "text"), ("Heartbeat", "uint"), ("ConfigCrc32", "uint")):
            self._station[name] = await _variable(station, space, f"{self._context.station}.{name}", name, kind)
        self._write(self._station["ConfigCrc32"], "uint", self._context.config_crc32)
        properties = [(each.node, _KINDS[each.kind]) for each in RESULT_FIELDS]
        event = await server.create_custom_event_type(space, "ResultReadyType", ua.ObjectIds.BaseEventType, properties)
        for camera in self._context.cameras:
            path = f"{self._context.station}.{camera}"
            node = await station.add_object(ua.NodeId(path, space), camera)
            last = await node.add_folder(ua.NodeId(f"{path}.Last", space), "Last")
            self._nodes[camera] = {
                each.name: await _variable(last, space, f"{path}.Last.{each.node}", each.node, each.kind)
                for each in RESULT_FIELDS
            }
            self._nodes[camera]["waiting"] = await _variable(node, space, f"{path}.Waiting", "Waiting", "uint")
            self._events[camera] = await server.get_event_generator(event, node)
            await self._add_methods(node, space, path, camera)

    async def _add_methods(self, node: Any, space: int, path: str, camera: str) -> None:
        text, number = ua.VariantType.String, ua.VariantType.Int32

        @uamethod
        async def start(_parent: Any, meas_id: str, part_id: str, recipe_id: str, product_id: str) -> Any:
            del product_id
            return self._start(camera, meas_id or "", part_id or "", recipe_id or "")

        @uamethod
        async def prepare(_parent: Any, recipe_id: str) -> Any:
            return await self._prepare(camera, recipe_id or "")

        @uamethod
        async def acknowledge(_parent: Any, result_id: str) -> Any:
            return await self._acknowledge(camera, result_id or "")

        for name, call, takes, gives in (
            (
                "StartSingleJob",
                start,
                ("MeasId", "PartId", "RecipeId", "ProductId"),
                (("JobId", text), ("Error", number)),
            ),
            ("PrepareRecipe", prepare, ("RecipeId",), (("Error", number),)),
            ("AcknowledgeResult", acknowledge, ("ResultId",), (("Error", number),)),
        ):
            await node.add_method(
                ua.NodeId(f"{path}.{name}", space), ua.QualifiedName(name, space), call,
                [_argument(each, text) for each in takes], [_argument(*each) for each in gives],
            )  # fmt: skip

    # --- results ------------------------------------------------------------------------------------------------

    def offer(self, delivered: Delivered) -> None:
        """Take the next result."""
        shelf = self._shelves.get(delivered.inspection.camera)
        if shelf is None:  # of a camera the station had before
            self._desk.settle(delivered)
            return
        self._show(shelf.offer(delivered))

    def settled(self, delivered: Delivered) -> None:
        """Note that a result is remembered as handed over."""
        shelf = self._shelves.get(delivered.inspection.camera)
        if shelf is not None:
            self._show(shelf.settled(delivered))
        waiting = self._settling.pop(delivered.inspection.result_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _show(self, delivered: Delivered | None) -> None:
        if delivered is not None:
            self._to_show.put_nowait(delivered)

    async def _show_all(self) -> None:
        """Show one result after the other: an event is filled and sent before the next is begun."""
        while True:
            await self._publish(await self._to_show.get())

    async def _publish(self, delivered: Delivered) -> None:
        camera = delivered.inspection.camera
        values = result_values(delivered.inspection, historical=delivered.historical)
        nodes, event = self._nodes[camera], self._events[camera]
        for each in RESULT_FIELDS:  # nothing here gives up the loop: no reader sees half a result
            self._write(nodes[each.name], each.kind, values[each.name])
            setattr(event.event, each.node, _variant(each.kind, values[each.name]))
        self._write(nodes["waiting"], "uint", self._shelves[camera].waiting)
        self._shown += 1
        event.event.Severity = 100 if values["verdict"] == 1 else 500
        await event.trigger(message=f"{values['verdict_name']} {values['part_id']}".strip())

    def _write(self, node: Any, kind: str, value: Any) -> None:
        """Write a value without an await, so that several are one step for every reader."""
        now = datetime.now(UTC)
        data = ua.DataValue(_variant(kind, value), SourceTimestamp=now)
        step = self._server.iserver.aspace.write_attribute_value(node.nodeid, ua.AttributeIds.Value, data)
        with contextlib.suppress(StopIteration):
            step.send(None)
            step.close()
            raise RuntimeError("asyncua's address space gave up the loop within a write")

    async def _beat(self) -> None:
        pulse = self._context.line.pulse()
        state = str(pulse.status.get("state", "starting")) if pulse.alive else "host_lost"
        self._write(self._station["State"], "text", state)
        self._write(self._station["Heartbeat"], "uint", pulse.beats)

    def _refuse(self, error: EdgeadError) -> None:
        """Count a refused call: a client that repeats it for ever must not fill the log."""
        self._refused += 1
        self._last_refusal = str(error)

    def figures(self) -> dict[str, Any]:
        """Return what `edgead status` shows; from any thread."""
        waiting = sum(shelf.waiting for shelf in self._shelves.values())
        return {"shown": self._shown, "waiting": waiting, "refused": self._refused, "last_refusal": self._last_refusal}

    # --- methods ------------------------------------------------------------------------------------------------

    def _start(self, camera: str, meas_id: str, part_id: str, recipe_id: str) -> Any:
        """Raise a trigger: ``meas_id`` as a number is its id, so that a call repeated is the same job."""
        if meas_id.isdecimal() and int(meas_id) < 2**64:
            job = int(meas_id)
        else:
            self._jobs = job = self._jobs + 1
        try:
            if not self._context.line.pulse().alive:
                return "", ua.Variant(REFUSED, ua.VariantType.Int32)
            self._context.line.trigger(camera, job, part_id, recipe_id)
        except EdgeadError as error:
            self._refuse(error)
            return "", ua.Variant(REFUSED, ua.VariantType.Int32)
        return str(job), ua.Variant(DONE, ua.VariantType.Int32)

    async def _prepare(self, camera: str, recipe_id: str) -> Any:
        try:
            await asyncio.to_thread(self._context.line.select_recipe, camera, recipe_id)
        except EdgeadError as error:
            self._refuse(error)
            return ua.Variant(REFUSED, ua.VariantType.Int32)
        return ua.Variant(DONE, ua.VariantType.Int32)

    async def _acknowledge(self, camera: str, result_id: str) -> Any:
        """Answer once the acknowledgement is on disk: an answer that came is never taken back."""
        try:
            delivered = self._shelves[camera].acknowledge(result_id)
        except ValueError:
            return ua.Variant(REFUSED, ua.VariantType.Int32)
        if delivered is not None:
            waiting = self._settling.get(result_id)
            if waiting is None:
                waiting = self._settling[result_id] = asyncio.get_running_loop().create_future()
                self._desk.settle(delivered)
            try:
                await asyncio.wait_for(asyncio.shield(waiting), _SETTLE_S)
            except TimeoutError:
                return ua.Variant(REFUSED, ua.VariantType.Int32)
        return ua.Variant(DONE, ua.VariantType.Int32)


async def _variable(parent: Any, space: int, path: str, name: str, kind: str) -> Any:
    return await parent.add_variable(
        ua.NodeId(path, space), ua.QualifiedName(name, space), _variant(kind, None),
        datatype=ua.NodeId(getattr(ua.ObjectIds, _KINDS[kind].name)),
    )  # fmt: skip


def _variant(kind: str, value: Any) -> ua.Variant:
    """Return a value as its node carries it; None is OPC UA's null."""
    return ua.Variant(None, ua.VariantType.Null) if value is None else ua.Variant(value, _KINDS[kind])


def _argument(name: str, kind: ua.VariantType) -> ua.Argument:
    return ua.Argument(Name=name, DataType=ua.NodeId(getattr(ua.ObjectIds, kind.name)), ValueRank=-1)
