"""Nodes and values of the OPC UA server: how a field's type becomes OPC UA's, and writes that no reader can split."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from asyncua import ua

KINDS = {
    "uint": ua.VariantType.UInt64, "float": ua.VariantType.Double, "text": ua.VariantType.String,
    "bool": ua.VariantType.Boolean,
}  # fmt: skip


class Space:
    """The address space of ``server``, with ``index``: the namespace of our own nodes."""

    def __init__(self, server: Any, index: int) -> None:
        self.server, self.index = server, index

    async def variable(self, parent: Any, path: str, name: str, kind: str) -> Any:
        """Add a variable, null until it is first written. ``path``: its string NodeId; ``kind``: a key of ``KINDS``."""
        return await parent.add_variable(
            ua.NodeId(path, self.index), ua.QualifiedName(name, self.index), variant(kind, None),
            datatype=ua.NodeId(getattr(ua.ObjectIds, KINDS[kind].name)),
        )  # fmt: skip

    def write(self, node: Any, value: ua.Variant) -> None:
        """Write a value without an await, so that several are one step for every reader."""
        data = ua.DataValue(value, SourceTimestamp=datetime.now(UTC))
        step = self.server.iserver.aspace.write_attribute_value(node.nodeid, ua.AttributeIds.Value, data)
        with contextlib.suppress(StopIteration):
            step.send(None)
            step.close()
            raise RuntimeError("asyncua's address space gave up the loop within a write")


def variant(kind: str, value: Any) -> ua.Variant:
    """Return a value as its node carries it; None is OPC UA's null."""
    return ua.Variant(None, ua.VariantType.Null) if value is None else ua.Variant(value, KINDS[kind])


def argument(name: str, kind: ua.VariantType) -> ua.Argument:
    """Return the description of a method's scalar argument."""
    return ua.Argument(Name=name, DataType=ua.NodeId(getattr(ua.ObjectIds, kind.name)), ValueRank=-1)
