"""Results as OPC 40100-1 has them: its structures, and a small memory to ask again by id.

The structures exist in ``asyncua.ua`` only after the NodeSet was loaded, so they are looked up when they are made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from asyncua import ua

from edgead import RESULT_FIELDS
from plugins.publishers.opcua.nodes import variant

#: Results a camera's clients may ask for again by id; older ones are in the ledger.
REMEMBERED = 256
#: ResultState of OPC 40100-1: a result that is not decidable is one of a failed job.
COMPLETED, FAILED = 1, 4
_NOT_DECIDABLE = 3


#: How fields that are no structures travel; the others are extension objects.
_PLAIN = {
    "ResultState": ua.VariantType.Int32, "IsPartial": ua.VariantType.Boolean, "IsSimulated": ua.VariantType.Boolean,
    "CreationTime": ua.VariantType.DateTime, "ResultContent": ua.VariantType.Variant,
}  # fmt: skip


def kind_of(field: str) -> ua.VariantType:
    """Return how a field of a result, event or answer travels."""
    return _PLAIN.get(field, ua.VariantType.ExtensionObject)


def identity(kind: str, text: str) -> Any:
    """Return a structure that names something, such as ``MeasIdDataType``."""
    made = getattr(ua, kind)()
    made.Id = text
    return made


def text_of(found: Any) -> str:
    """Return the Id of such a structure as a client sent it; empty for null."""
    return str(getattr(found, "Id", None) or "")


def fields_of(values: Mapping[str, Any], config: str) -> dict[str, Any]:
    """Return the fields of a ResultDataType. ``values``: of a result; ``config``: id of the configuration.

    ResultContent holds every field of docs/publishers.md, in its order; ResultState is Completed or Failed.
    """
    times = ua.ProcessingTimesDataType()
    times.StartTime, times.EndTime = _utc(values["received_ns"]), _utc(values["published_ns"])
    times.ProcessingDuration = values["detect_us"] / 1000
    job = "" if values["trigger_id"] is None else str(values["trigger_id"])
    return {
        "ResultId": identity("ResultIdDataType", values["result_id"]),
        "IsPartial": False,
        "IsSimulated": values["simulated"],
        "ResultState": FAILED if values["verdict"] == _NOT_DECIDABLE else COMPLETED,
        "MeasId": identity("MeasIdDataType", job),
        "PartId": identity("PartIdDataType", values["part_id"]),
        "ExternalRecipeId": identity("RecipeIdExternalDataType", values["recipe"]),
        "InternalRecipeId": identity("RecipeIdInternalDataType", values["template"]),
        "ProductId": identity("ProductIdDataType", values["product"]),
        "InternalConfigurationId": identity("ConfigurationIdDataType", config),
        "JobId": identity("JobIdDataType", job),
        "CreationTime": _utc(values["published_ns"]),
        "ProcessingTimes": times,
        "ResultContent": [variant(each.kind, values[each.name]) for each in RESULT_FIELDS],
    }


def structure(fields: Mapping[str, Any]) -> Any:
    """Return a ResultDataType of these fields."""
    made = ua.ResultDataType()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class Results:
    """The newest results of a camera by their id, each as fields of a ResultDataType."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def add(self, fields: dict[str, Any]) -> None:
        """Keep one; the oldest gives way."""
        self._kept[fields["ResultId"].Id] = fields
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)

    def find(self, result_id: str) -> dict[str, Any] | None:
        """Return the one of this id."""
        return self._kept.get(result_id)

    def filtered(self, state: int, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return those that match, the oldest first. ``state`` 0 and empty texts match everything."""

        def matches(fields: Mapping[str, Any]) -> bool:
            same = all(text == text_of(fields.get(name)) for name, text in wanted.items() if text)
            return same and state in (0, fields["ResultState"])

        return [each for each in self._kept.values() if matches(each)]


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, UTC)
