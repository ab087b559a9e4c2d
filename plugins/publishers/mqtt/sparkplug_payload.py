"""Sparkplug B payloads: the protobuf message, built from its published field numbers.

The numbers and types are those of the Eclipse Sparkplug 3.0 specification (payload definition, chapter 6); the
descriptor is made here, in code, of the part an edge node needs. Metrics' values of other kinds (data sets, templates)
are skipped when a command is read, as protobuf does with fields it does not know.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

from edgead import ConfigError


class DataType(IntEnum):
    """Sparkplug's numbers of the types used here."""

    INT64 = 4
    UINT64 = 8
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


class Metric(NamedTuple):
    """One metric; ``value`` None is Sparkplug's null. ``time_ms``: UTC milliseconds."""

    name: str
    kind: DataType
    value: int | float | bool | str | None
    time_ms: int
    historical: bool = False


_VALUE = {
    DataType.INT64: "long_value",
    DataType.UINT64: "long_value",
    DataType.DOUBLE: "double_value",
    DataType.BOOLEAN: "boolean_value",
    DataType.STRING: "string_value",
}
#: Field name, number, type (a name of FieldDescriptorProto.Type), whether it is one of the values.
_METRIC = (
    ("name", 1, "STRING", False), ("alias", 2, "UINT64", False), ("timestamp", 3, "UINT64", False),
    ("datatype", 4, "UINT32", False), ("is_historical", 5, "BOOL", False), ("is_transient", 6, "BOOL", False),
    ("is_null", 7, "BOOL", False), ("int_value", 10, "UINT32", True), ("long_value", 11, "UINT64", True),
    ("float_value", 12, "FLOAT", True), ("double_value", 13, "DOUBLE", True), ("boolean_value", 14, "BOOL", True),
    ("string_value", 15, "STRING", True), ("bytes_value", 16, "BYTES", True),
)  # fmt: skip


@cache
def _payload_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="edgead/sparkplug_b.proto", package="edgead.spb", syntax="proto2")
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    for name, number, kind, is_value in _METRIC:
        made = metric.field.add(
            name=name, number=number, label=kinds.LABEL_OPTIONAL, type=getattr(kinds, f"TYPE_{kind}")
        )
        if is_value:
            made.oneof_index = 0
    payload.field.add(name="timestamp", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_UINT64)
    payload.field.add(
        name="metrics", number=2, label=kinds.LABEL_REPEATED, type=kinds.TYPE_MESSAGE,
        type_name=".edgead.spb.Payload.Metric",
    )  # fmt: skip
    payload.field.add(name="seq", number=3, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_UINT64)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("edgead.spb.Payload"))


def encode(metrics: list[Metric], time_ms: int, seq: int | None) -> bytes:
    """Return a payload; ``seq`` None: without one, as in NDEATH."""
    payload = _payload_class()(timestamp=time_ms)
    if seq is not None:
        payload.seq = seq
    for each in metrics:
        made = payload.metrics.add(name=each.name, timestamp=each.time_ms, datatype=int(each.kind))
        if each.historical:
            made.is_historical = True
        if each.value is None:
            made.is_null = True
        else:
            setattr(made, _VALUE[each.kind], each.value)
    data: bytes = payload.SerializeToString()
    return data


def decode(data: bytes) -> dict[str, int | float | bool | str | bytes | None]:
    """Return the metrics of a payload by name; ``ConfigError`` for bytes that are none."""
    from google.protobuf.message import DecodeError

    payload = _payload_class()()
    try:
        payload.ParseFromString(data)
    except DecodeError as error:
        raise ConfigError(f"expected a Sparkplug B payload, found {len(data)} other bytes") from error
    found = {}
    for each in payload.metrics:
        kind = each.WhichOneof("value")
        found[each.name] = None if kind is None or each.is_null else getattr(each, kind)
    return found
