"""OPC 40100-1 (Machine Vision): each camera as a VisionSystem with its state machines, managers and events.

The types come from the NodeSet the OPC Foundation publishes (the option ``nodeset``); what of the "Simple Inline Vision
System Server Profile" holds is said in docs/opcua.md. States are those of the station, as its inspection loop tells::

    Preoperational: starting    Operational: inspects    Error: host or detector gone    Halted: by the method Halt

Within Operational the camera is Ready; a job passes through SingleExecution while its trigger is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncua import ua

from edgead import Pulse
from plugins.publishers.opcua.camera import Answer, Camera, Refusal
from plugins.publishers.opcua.nodes import Space
from plugins.publishers.opcua.vision_methods import Methods
from plugins.publishers.opcua.vision_results import Results, fields_of, identity, kind_of
from plugins.publishers.opcua.vision_types import SYSTEM

#: Numbers of the NodeSet's own nodes: types, and states of the two machines.
AUTOMATIC_MODE = 1021
RECIPES, CONFIGURATIONS, RESULTS = 1004, 1006, 1007
STATES = {"Preoperational": 5028, "Halted": 5029, "Error": 5030, "Operational": 5031}
MODES = {"Initialized": 5056, "Ready": 5057, "SingleExecution": 5058}
EVENTS = {
    "RecipePreparedEventType": 1022, "JobStartedEventType": 1013, "ReadyEventType": 1023, "ResultReadyEventType": 1024,
    "StateChangedEventType": 1018, "ErrorEventType": 1019, "ErrorResolvedEventType": 1020,
    "VisionInformationEventType": 1038,
}  # fmt: skip
#: SystemState (SEMI E10): productive, standby, unscheduled downtime.
_PRODUCTIVE, _STANDBY, _DOWN = 1, 2, 5
_SYSTEM_STATES = {"Operational": _PRODUCTIVE, "Preoperational": _STANDBY, "Halted": _STANDBY, "Error": _DOWN}
_CALM, _GOOD, _BAD = 50, 100, 500


class VisionSystem:
    """One camera as a VisionSystem. ``types``: namespace index of the NodeSet; ``config``: id of the configuration."""

    def __init__(self, space: Space, types: int, camera: Camera, recipes: tuple[str, ...], config: str) -> None:
        self.camera, self.recipes, self.config = camera, recipes, config
        self.results = Results()
        self.state, self.mode = "Preoperational", "Initialized"
        self.is_halted = False
        self._space, self._types = space, types
        self._events: dict[str, Any] = {}
        self._states: dict[str, tuple[Any, Any]] = {}
        self._system_state: Any = None
        self._active: Any = None

    # --- the address space --------------------------------------------------------------------------------------

    async def build(self, parent: Any, path: str) -> None:
        """Add the system below the camera's object. ``path``: its string NodeId."""
        system = await self._add(parent, path, "VisionSystem", SYSTEM)
        machine = await system.get_child(f"{self._types}:VisionStateMachine")
        mode = await self._add(machine, f"{path}.VisionStateMachine.AutomaticModeStateMachine",
                               "AutomaticModeStateMachine", AUTOMATIC_MODE)  # fmt: skip
        managers = {
            name: await self._add(system, f"{path}.{name}", name, kind)
            for name, kind in (
                ("RecipeManagement", RECIPES), ("ConfigurationManagement", CONFIGURATIONS),
                ("ResultManagement", RESULTS),
            )
        }  # fmt: skip
        for name, node in (("state", machine), ("mode", mode)):
            current = await node.get_child("0:CurrentState")
            self._states[name] = current, await current.get_child("0:Id")
        self._system_state = await system.add_variable(
            ua.NodeId(f"{path}.SystemState", self._space.index), ua.QualifiedName("SystemState", self._types),
            ua.Variant(None, ua.VariantType.Null), datatype=ua.NodeId(3024, self._types),
        )  # fmt: skip
        self._active = await managers["ConfigurationManagement"].get_child(f"{self._types}:ActiveConfiguration")
        self._write_configuration()
        await self._build_events(system)
        await Methods(self, self._space, self._types).link(machine, mode, managers)
        self._write_states()

    async def _add(self, parent: Any, path: str, name: str, kind: int) -> Any:
        return await parent.add_object(
            ua.NodeId(path, self._space.index), ua.QualifiedName(name, self._types),
            objecttype=self._space.server.get_node(ua.NodeId(kind, self._types)), instantiate_optional=False,
        )  # fmt: skip

    async def _build_events(self, system: Any) -> None:
        for name, number in EVENTS.items():
            kind = self._space.server.get_node(ua.NodeId(number, self._types))
            self._events[name] = await self._space.server.get_event_generator(kind, system)

    # --- what it shows ------------------------------------------------------------------------------------------

    def configuration(self) -> Any:
        """Return the one configuration there is: the station file's content, by its checksum."""
        made = ua.ConfigurationDataType()
        made.InternalId = identity("ConfigurationIdDataType", self.config)
        return made

    async def beat(self, pulse: Pulse, config: str) -> None:
        """Take the state from the station's sign of life. ``config``: id of the configuration that is applied now."""
        if config != self.config:
            self.config = config
            self._write_configuration()
        worker = str(pulse.status.get("cameras", {}).get(self.camera.name, {}).get("worker"))
        if self.is_halted:
            state = "Halted"
        elif not pulse.alive:
            state = "Error"
        else:
            state = {"ready": "Operational", "starting": "Preoperational"}.get(worker, "Error")
        await self.enter(state)

    async def enter(self, state: str) -> None:
        """Go to a state of the outer machine, with its events; the inner one is Ready when that is Operational."""
        if state == self.state:
            return
        before, self.state = self.state, state
        self.mode = self._rest()
        self._write_states()
        await self.say("StateChangedEventType", f"{before} -> {state}", _CALM)
        if state == "Error":
            await self.say("ErrorEventType", "the station does not inspect this camera", _BAD)
        elif before == "Error":
            await self.say("ErrorResolvedEventType", f"{before} -> {state}", _CALM)

    def _rest(self) -> str:
        """Return the inner machine's state while no job is being started."""
        return "Ready" if self.state == "Operational" else "Initialized"

    async def started(self, job: str, error: Answer) -> None:
        """Pass through SingleExecution with a job: when its trigger is written down, the next may be started."""
        if error is not Answer.DONE:
            return
        named = {"JobId": identity("JobIdDataType", job)}
        self.mode = "SingleExecution"
        self._write_states()
        await self.say("JobStartedEventType", f"job {job} started", _CALM, named)
        self.mode = self._rest()  # a job is taken in every state but Halted; Ready is said in Operational alone
        self._write_states()
        if self.mode == "Ready":
            await self.say("ReadyEventType", f"ready after job {job}", _CALM, named)

    async def announce(self, values: Mapping[str, Any]) -> None:
        """Send the ResultReady event of a result, and keep it to be asked for by id."""
        fields = fields_of(values, self.config)
        self.results.add(fields)
        text = f"{values['verdict_name']} {values['part_id']}".strip()
        await self.say("ResultReadyEventType", text, _GOOD if values["verdict"] == 1 else _BAD, fields)

    async def refuse(self, refusal: Refusal) -> None:
        """Send a VisionInformation event of a job that will have no result."""
        job = refusal.job
        named = {
            "JobId": identity("JobIdDataType", str(job.number)), "MeasId": identity("MeasIdDataType", job.meas_id),
            "PartId": identity("PartIdDataType", job.part_id),
        }  # fmt: skip
        await self.say("VisionInformationEventType", f"no result: {refusal.reason}", _BAD, named)

    async def say(self, kind: str, text: str, severity: int, fields: Mapping[str, Any] | None = None) -> None:
        """Send an event with these fields; those of it that are not given are null."""
        generator = self._events[kind]
        for name, value in (fields or {}).items():
            generator.event.add_property(name, value, kind_of(name))  # asyncua knows no type of a type's own
        generator.event.Severity = severity
        await generator.trigger(message=text)

    def _write_configuration(self) -> None:
        self._space.write(self._active, ua.Variant(self.configuration(), ua.VariantType.ExtensionObject))

    def _write_states(self) -> None:
        shown = {"state": (self.state, STATES[self.state]), "mode": (self.mode, MODES[self.mode])}
        for name, (text, number) in shown.items():
            current, identifier = self._states[name]
            self._space.write(current, ua.Variant(ua.LocalizedText(text), ua.VariantType.LocalizedText))
            self._space.write(identifier, ua.Variant(ua.NodeId(number, self._types), ua.VariantType.NodeId))
        said = ua.SystemStateDescriptionDataType()
        said.State = ua.SystemStateDataType(_SYSTEM_STATES[self.state])
        self._space.write(self._system_state, ua.Variant(said, ua.VariantType.ExtensionObject))
