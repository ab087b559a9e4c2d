"""asyncua at the border: one event loop that owns the address space, shows results one by one and beats."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncua import Server, ua

from edgead import Delivered, PublisherContext, result_values
from plugins.publishers.opcua.camera import Camera, Refusal
from plugins.publishers.opcua.flat import FlatCamera, FlatEvents
from plugins.publishers.opcua.nodes import Space, variant
from plugins.publishers.opcua.security import Users, secure
from plugins.publishers.opcua.vision import VisionSystem
from plugins.publishers.opcua.vision_types import load_types

if TYPE_CHECKING:
    from pathlib import Path

    from plugins.publishers.opcua.camera import Desk
    from plugins.publishers.opcua.publisher import OpcUaOptions

log = logging.getLogger("edgead.opcua")

NAMESPACE = "urn:edgead:results:1"
_BEAT_S = 0.25
#: Time the connections have to close at the end: a publisher must end within three seconds.
STOP_S = 1.5


class StationServer:
    """The server of a station. ``offer``, ``settled``, ``answer`` and the methods run in its event loop."""

    def __init__(self, options: OpcUaOptions, context: PublisherContext, desk: Desk) -> None:
        self._options, self._context, self._desk = options, context, desk
        self._refused = self._shown = 0
        self._reasons = dict.fromkeys(context.cameras, "")
        self._cameras = {
            name: Camera(name, context, desk, partial(self._refuse, name),
                         acknowledge=options.acknowledge)
            for name in context.cameras
        }  # fmt: skip
        self._flat: dict[str, FlatCamera] = {}
        self._visions: dict[str, VisionSystem] = {}
        self._station: dict[str, Any] = {}
        self._space: Any = None
        self._to_tell: asyncio.Queue[Delivered | tuple[str, Refusal]] = asyncio.Queue()

    async def serve(self, started: Callable[[], None], end: asyncio.Event) -> None:
        """Serve until ``end``."""
        for noisy in ("asyncua", "asyncuagds.validate"):  # a peer's mistake is no error of ours, with a traceback
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        server = Server(user_manager=Users(self._options, self._context.base))
        await server.init()
        await secure(server, self._options, self._context)
        await self._build(server)
        await server.start()
        telling = asyncio.create_task(self._tell_all())
        try:
            log.info("OPC UA on opc.tcp://%s:%d", self._options.host, self._options.port)
            for camera in self._cameras.values():
                camera.begin()
            started()
            while not end.is_set() and not telling.done():
                await self._beat()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(end.wait(), _BEAT_S)
            if telling.done():
                telling.result()  # it never ends by itself: this raises what ended it
        finally:
            telling.cancel()
            with contextlib.suppress(TimeoutError):  # asyncua waits for peers that say nothing
                await asyncio.wait_for(server.stop(), STOP_S)

    async def _build(self, server: Any) -> None:
        self._space = space = Space(server, await server.register_namespace(NAMESPACE))
        root = await server.nodes.objects.add_folder(space.index, "EdgeAD")
        name = self._context.station
        station = await root.add_object(ua.NodeId(name, space.index), name)
        for each, kind in (("State", "text"), ("Heartbeat", "uint"), ("ConfigCrc32", "uint")):
            self._station[each] = await space.variable(station, f"{name}.{each}", each, kind)
        events = await FlatEvents.build(space)
        for each, camera in self._cameras.items():
            self._flat[each] = FlatCamera(space, camera)
            await self._flat[each].build(station, f"{name}.{each}", events)
        if self._options.nodeset is not None:
            await self._build_visions(self._context.base / self._options.nodeset)

    async def _build_visions(self, nodeset: Path) -> None:
        types = await load_types(self._space, nodeset)
        config = _config_id(self._context.config_crc32)
        for name, camera in self._cameras.items():
            vision = VisionSystem(self._space, types, camera, self._context.cameras[name], config)
            await vision.build(self._flat[name].node, f"{self._context.station}.{name}.VisionSystem")
            self._visions[name] = vision

    # --- from the main thread, by the loop ----------------------------------------------------------------------

    def offer(self, delivered: Delivered) -> None:
        """Take the next result."""
        camera = self._cameras.get(delivered.inspection.camera)
        if camera is None:  # of a camera the station had before
            self._desk.settle(delivered)
        else:
            self._show(camera.offer(delivered))

    def settled(self, delivered: Delivered) -> None:
        """Note that a result is remembered as handed over."""
        camera = self._cameras.get(delivered.inspection.camera)
        if camera is not None:
            self._show(camera.settled(delivered))

    def answer(self, camera: str, trigger_id: int, seq: int, refused: str) -> None:
        """Take the station's word on a trigger."""
        if camera in self._cameras:
            refusal = self._cameras[camera].answer(trigger_id, seq, refused)
            if refusal is not None:
                self._to_tell.put_nowait((camera, refusal))

    def _show(self, delivered: Delivered | None) -> None:
        if delivered is not None:
            self._to_tell.put_nowait(delivered)

    # --- to the clients -----------------------------------------------------------------------------------------

    async def _tell_all(self) -> None:
        """Tell one after the other: an event is filled and sent before the next is begun."""
        while True:
            told = await self._to_tell.get()
            if isinstance(told, Delivered):
                await self._publish(told)
            else:
                await self._flat[told[0]].refuse(told[1])
                if told[0] in self._visions:
                    await self._visions[told[0]].refuse(told[1])

    async def _publish(self, delivered: Delivered) -> None:
        name = delivered.inspection.camera
        values = result_values(delivered.inspection, historical=delivered.historical)
        self._flat[name].show(values)
        self._flat[name].count(self._reasons[name])
        self._shown += 1
        await self._flat[name].announce(values)
        if name in self._visions:
            await self._visions[name].announce(values)
        # Not before: the station sends a bounded number of results ahead, and a backlog of days must not pile up here.
        self._cameras[name].announced(delivered)

    async def _beat(self) -> None:
        pulse = self._context.line.pulse()
        state = str(pulse.status.get("state", "starting")) if pulse.alive else "host_lost"
        self._space.write(self._station["State"], variant("text", state))
        self._space.write(self._station["Heartbeat"], variant("uint", pulse.beats))
        checksum = self._context.config_crc32
        self._space.write(self._station["ConfigCrc32"], variant("uint", checksum))
        for name, flat in self._flat.items():
            flat.count(self._reasons[name])
        for vision in self._visions.values():
            await vision.beat(pulse, _config_id(checksum))

    def _refuse(self, camera: str, why: str) -> None:
        """Count a refused call: a client that repeats it for ever must not fill the log."""
        self._refused += 1
        self._reasons[camera] = why

    def figures(self) -> dict[str, Any]:
        """Return what `edgead status` shows; from any thread."""
        cameras = self._cameras.values()
        waiting, jobs = sum(each.shelf.waiting for each in cameras), sum(len(each.jobs.open) for each in cameras)
        last = next((why for why in self._reasons.values() if why), "")
        return {"shown": self._shown, "waiting": waiting, "jobs": jobs, "refused": self._refused, "last_refusal": last}


def _config_id(checksum: int) -> str:
    return f"{checksum:08x}"
