"""The flat side of the OPC UA server, for clients that know no companion specification: scalars, events, methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from asyncua import ua
from asyncua.common.methods import uamethod

from edgead import RESULT_FIELDS
from plugins.publishers.opcua.camera import Camera, Refusal
from plugins.publishers.opcua.nodes import KINDS, Space, argument, variant

_GOOD, _BAD = 100, 500
_REFUSAL = ("JobId", "MeasId", "PartId", "Reason")
_COUNTS = (("waiting", "Waiting", "uint"), ("jobs", "OpenJobs", "uint"))


class FlatEvents:
    """The types of the events: a result, and a job that will have none."""

    def __init__(self, result: Any, refusal: Any) -> None:
        self.result, self.refusal = result, refusal

    @classmethod
    async def build(cls, space: Space) -> Self:
        """Add them below BaseEventType."""
        fields = [(each.node, KINDS[each.kind]) for each in RESULT_FIELDS]
        texts = [(name, ua.VariantType.String) for name in _REFUSAL]
        base, make = ua.ObjectIds.BaseEventType, space.server.create_custom_event_type
        return cls(
            await make(space.index, "ResultReadyType", base, fields),
            await make(space.index, "JobRefusedType", base, texts),
        )


class FlatCamera:
    """The nodes of one camera."""

    def __init__(self, space: Space, camera: Camera) -> None:
        #: The camera's object, once it is built.
        self.node: Any = None
        self._space, self._camera = space, camera
        self._fields: dict[str, Any] = {}
        self._own: dict[str, Any] = {}
        self._result_event: Any = None
        self._refusal_event: Any = None

    async def build(self, station: Any, path: str, events: FlatEvents) -> None:
        """Add the camera's object to ``station``. ``path``: its string NodeId."""
        space = self._space
        self.node = node = await station.add_object(ua.NodeId(path, space.index), self._camera.name)
        last = await node.add_folder(ua.NodeId(f"{path}.Last", space.index), "Last")
        for each in RESULT_FIELDS:
            self._fields[each.name] = await space.variable(last, f"{path}.Last.{each.node}", each.node, each.kind)
        for key, name, kind in (*_COUNTS, ("refused", "RefusedJob", "text"), ("reason", "RefusedReason", "text")):
            self._own[key] = await space.variable(node, f"{path}.{name}", name, kind)
        self._result_event = await space.server.get_event_generator(events.result, node)
        self._refusal_event = await space.server.get_event_generator(events.refusal, node)
        await self._add_methods(node, path)

    async def _add_methods(self, node: Any, path: str) -> None:
        camera, text, number = self._camera, ua.VariantType.String, ua.VariantType.Int32

        def error(answer: int) -> ua.Variant:
            return ua.Variant(int(answer), number)

        @uamethod
        async def start(_parent: Any, meas_id: str, part_id: str, recipe_id: str, product_id: str) -> Any:
            del product_id
            job, answer = camera.start(meas_id or "", part_id or "", recipe_id or "")
            return job, error(answer)

        @uamethod
        async def prepare(_parent: Any, recipe_id: str) -> Any:
            return error(await camera.prepare(recipe_id or ""))

        @uamethod
        async def acknowledge(_parent: Any, result_id: str) -> Any:
            return error(await camera.acknowledge(result_id or ""))

        start_takes = ("MeasId", "PartId", "RecipeId", "ProductId")
        for name, call, takes, gives in (
            ("StartSingleJob", start, start_takes, (("JobId", text), ("Error", number))),
            ("PrepareRecipe", prepare, ("RecipeId",), (("Error", number),)),
            ("AcknowledgeResult", acknowledge, ("ResultId",), (("Error", number),)),
        ):
            await node.add_method(
                ua.NodeId(f"{path}.{name}", self._space.index), ua.QualifiedName(name, self._space.index), call,
                [argument(each, text) for each in takes], [argument(*each) for each in gives],
            )  # fmt: skip

    def show(self, values: Mapping[str, Any]) -> None:
        """Write a result. Nothing here gives up the loop: no reader sees half of it."""
        event = self._result_event.event
        for each in RESULT_FIELDS:
            value = variant(each.kind, values[each.name])
            self._space.write(self._fields[each.name], value)
            setattr(event, each.node, value)
        event.Severity = _GOOD if values["verdict"] == 1 else _BAD

    async def announce(self, values: Mapping[str, Any]) -> None:
        """Send the event of the result that was shown last."""
        await self._result_event.trigger(message=f"{values['verdict_name']} {values['part_id']}".strip())

    async def refuse(self, refusal: Refusal) -> None:
        """Say of a job that it will have no result."""
        job, event = refusal.job, self._refusal_event.event
        said = dict(zip(_REFUSAL, (str(job.number), job.meas_id, job.part_id, refusal.reason), strict=True))
        for name, value in said.items():
            setattr(event, name, variant("text", value))
        event.Severity = _BAD
        self._space.write(self._own["refused"], variant("text", str(job.number)))
        await self._refusal_event.trigger(message=f"job {job.number} has no result: {refusal.reason}")

    def count(self, last_refusal: str) -> None:
        """Write how much waits, and the reason of the last refusal."""
        found = {"waiting": self._camera.shelf.waiting, "jobs": len(self._camera.jobs.open)}
        for key, number in found.items():
            self._space.write(self._own[key], variant("uint", number))
        self._space.write(self._own["reason"], variant("text", last_refusal))
