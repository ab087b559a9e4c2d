"""The methods of OPC 40100-1, linked to the nodes the NodeSet's types gave: thin, for ``Camera`` does the work.

Error 0 is done; below 0 as ``Answer`` says. What a station cannot do is refused with -1, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asyncua import ua
from asyncua.common.methods import uamethod

from plugins.publishers.opcua.camera import Answer
from plugins.publishers.opcua.nodes import Space
from plugins.publishers.opcua.vision_results import identity, kind_of, structure, text_of

if TYPE_CHECKING:
    from plugins.publishers.opcua.vision import VisionSystem

#: A handle that names nothing: everything is in the answer, nothing is kept for it.
_NO_HANDLE = 0
_FILTERS = (
    "MeasId", "PartId", "ExternalRecipeId", "InternalRecipeId", "ExternalConfigurationId", "InternalConfigurationId",
    "ProductId", "JobId",
)  # fmt: skip
_COMPONENTS = (
    "IsPartial", "IsSimulated", "ResultState", "MeasId", "PartId", "ExternalRecipeId", "InternalRecipeId", "ProductId",
    "ExternalConfigurationId", "InternalConfigurationId", "JobId", "CreationTime", "ProcessingTimes", "ResultContent",
)  # fmt: skip


class Methods:
    """The methods of one VisionSystem."""

    def __init__(self, system: VisionSystem, space: Space, types: int) -> None:
        self._system, self._space, self._types = system, space, types

    async def link(self, machine: Any, mode: Any, managers: Mapping[str, Any]) -> None:
        """Link every method the types made mandatory, and no other."""
        tables = (
            (machine, {"Halt": self.halt, "Reset": self.reset}),
            (mode, {"StartSingleJob": self.start, "StartContinuous": self.continuous, "Stop": self.stop,
                    "Abort": self.stop}),
            (managers["RecipeManagement"], {"PrepareRecipe": self.prepare, "UnprepareRecipe": self.unprepare,
                                            "GetRecipeListFiltered": self.recipes}),
            (managers["ConfigurationManagement"], {"ActivateConfiguration": self.activate,
                                                   "GetConfigurationById": self.configuration,
                                                   "GetConfigurationList": self.configurations}),
            (managers["ResultManagement"], {"GetResultById": self.result,
                                            "GetResultComponentsById": self.components,
                                            "GetResultListFiltered": self.results}),
        )  # fmt: skip
        for parent, methods in tables:
            for name, call in methods.items():
                node = await parent.get_child(f"{self._types}:{name}")
                self._space.server.link_method(node, uamethod(call))

    # --- states and jobs ----------------------------------------------------------------------------------------

    async def halt(self, _parent: Any, _cause: int, _description: str) -> Any:
        """Take no more jobs, of any client, until Reset."""
        self._system.is_halted = self._system.camera.is_halted = True
        await self._system.enter("Halted")
        return _error(Answer.DONE)

    async def reset(self, _parent: Any, _cause: int, _description: str) -> Any:
        """Leave Halted; the station's own state comes with its next sign of life."""
        self._system.is_halted = self._system.camera.is_halted = False
        await self._system.enter("Preoperational")
        return _error(Answer.DONE)

    async def start(self, _parent: Any, meas: Any, part: Any, recipe: Any, _product: Any, _parameters: Any) -> Any:
        """Start a single job; see ``Camera.start``."""
        job, answer = self._system.camera.start(text_of(meas), text_of(part), text_of(recipe))
        await self._system.started(job, answer)
        return identity("JobIdDataType", job), _error(answer)

    async def continuous(
        self, _parent: Any, _meas: Any, _part: Any, _recipe: Any, _product: Any, _parameters: Any
    ) -> Any:
        """Refuse: every part has a trigger of its own."""
        return identity("JobIdDataType", ""), _error(Answer.REFUSED)

    async def stop(self, _parent: Any, _cause: int, _description: str) -> Any:
        """Refuse: a job that was taken is answered, and none runs on."""
        return _error(Answer.REFUSED)

    # --- recipes and configurations -----------------------------------------------------------------------------

    async def prepare(self, _parent: Any, external: Any, internal: Any) -> Any:
        """Make a recipe the current one; empty: the camera's own."""
        recipe = text_of(external) or text_of(internal)
        answer = await self._system.camera.prepare(recipe)
        named = identity("RecipeIdInternalDataType", recipe)
        if answer is Answer.DONE:
            await self._system.say("RecipePreparedEventType", f"recipe {recipe or 'of the camera'}", 50, {
                "InternalId": named, "ExternalId": identity("RecipeIdExternalDataType", recipe),
            })  # fmt: skip
        return named, answer is Answer.DONE, _error(answer)

    async def unprepare(self, _parent: Any, external: Any, internal: Any) -> Any:
        """Refuse: every recipe of the station file is loaded for as long as the file has it."""
        recipe = text_of(external) or text_of(internal)
        return identity("RecipeIdInternalDataType", recipe), _error(Answer.REFUSED)

    async def recipes(
        self, _parent: Any, external: Any, _product: Any, prepared: Any, most: int, start: int, _timeout: int
    ) -> Any:
        """Return the camera's recipes; all are prepared."""
        wanted = text_of(external)
        found = [] if prepared is not None and int(prepared) == 0 else list(self._system.recipes)
        chosen, is_complete = _cut([each for each in found if not wanted or each == wanted], most, start)
        listed = [identity("RecipeIdInternalDataType", each) for each in chosen]
        return is_complete, _count(listed), _handle(), _list(listed), _error(Answer.DONE)

    async def activate(self, _parent: Any, internal: Any) -> Any:
        """Take the configuration that is active; another comes by `edgead apply` only."""
        return _error(Answer.DONE if text_of(internal) == self._system.config else Answer.REFUSED)

    async def configuration(self, _parent: Any, internal: Any, _timeout: int) -> Any:
        """Return the active configuration if it is asked for."""
        known = text_of(internal) == self._system.config
        return _handle(), self._system.configuration(), _error(Answer.DONE if known else Answer.UNKNOWN)

    async def configurations(self, _parent: Any, most: int, start: int, _timeout: int) -> Any:
        """Return the active configuration: there is no other."""
        listed, is_complete = _cut([self._system.configuration()], most, start)
        return is_complete, _count(listed), _handle(), _list(listed), _error(Answer.DONE)

    # --- results ------------------------------------------------------------------------------------------------

    async def result(self, _parent: Any, result_id: Any, _timeout: int) -> Any:
        """Return one of the newest results by its id."""
        found = self._system.results.find(text_of(result_id))
        answer = Answer.UNKNOWN if found is None else Answer.DONE
        return _handle(), structure(found or {}), _error(answer)

    async def components(self, _parent: Any, result_id: Any, _timeout: int) -> Any:
        """Return one of the newest results by its id, in pieces."""
        found = self._system.results.find(text_of(result_id))
        pieces = [_piece(name, (found or {}).get(name)) for name in _COMPONENTS]
        return False, _handle(), *pieces, _error(Answer.UNKNOWN if found is None else Answer.DONE)

    async def results(self, _parent: Any, state: int, *arguments: Any) -> Any:
        """Return those of the newest results that match, the oldest first."""
        wanted = {name: text_of(each) for name, each in zip(_FILTERS, arguments, strict=False)}
        most, start, _timeout = arguments[len(_FILTERS) :]
        found, is_complete = _cut(self._system.results.filtered(int(state or 0), wanted), most, start)
        listed = [structure(each) for each in found]
        return is_complete, _count(listed), _handle(), _list(listed), _error(Answer.DONE)


def _error(answer: Answer) -> ua.Variant:
    return ua.Variant(int(answer), ua.VariantType.Int32)


def _handle() -> ua.Variant:
    return ua.Variant(_NO_HANDLE, ua.VariantType.UInt32)


def _count(listed: list[Any]) -> ua.Variant:
    return ua.Variant(len(listed), ua.VariantType.UInt32)


def _list(listed: list[Any]) -> ua.Variant:
    return ua.Variant(listed, ua.VariantType.ExtensionObject, is_array=True)


def _cut(found: list[Any], most: int, start: int) -> tuple[list[Any], bool]:
    """Return the part a client asked for, ``most`` 0: all of it, and whether nothing comes behind."""
    end = len(found) if not most else min(len(found), int(start) + int(most))
    return found[int(start) : end], end == len(found)


def _piece(name: str, value: Any) -> ua.Variant:
    return ua.Variant(None, ua.VariantType.Null) if value is None else ua.Variant(value, kind_of(name))
