"""The types of OPC 40100-1, loaded from the NodeSet that the OPC Foundation publishes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from asyncua import ua

from edgead import ConfigError
from plugins.publishers.opcua.nodes import Space
from plugins.publishers.opcua.nodeset import NAMESPACE

#: Number of the node of VisionSystemType.
SYSTEM = 1003
#: The abstract structure of three others that add no field, and those.
_BASE = 3019
_INHERITING = {"RecipeIdExternalDataType": 3002, "RecipeIdInternalDataType": 3013, "ConfigurationIdDataType": 3008}


async def load_types(space: Space, nodeset: Path) -> int:
    """Load the NodeSet and return its namespace index; ``ConfigError`` if the file is not it."""
    try:
        await space.server.import_xml(str(nodeset))
        index = int(await space.server.get_namespace_index(NAMESPACE))
        await space.server.get_node(ua.NodeId(SYSTEM, index)).read_browse_name()
        await space.server.load_data_type_definitions()
        await _complete(space.server, index)
    except (OSError, ValueError, ParseError, ua.UaError) as error:  # asyncua's ways to refuse a file
        raise ConfigError(
            f"nodeset: expected the NodeSet of OPC 40100-1 (Opc.Ua.MachineVision.NodeSet2.xml), {nodeset} cannot be "
            f"used: {error}"
        ) from error
    return index


async def _complete(server: Any, index: int) -> None:
    """Make structures whole that inherit every field.

    asyncua 2.1 takes them for their base: clients would find no definition, and the base's id on the wire.
    """
    base = server.get_node(ua.NodeId(_BASE, index))
    fields = await base.read_data_type_definition()
    for name, number in _INHERITING.items():
        node = server.get_node(ua.NodeId(number, index))
        encodings = await node.get_referenced_nodes(ua.ObjectIds.HasEncoding)
        (encoding,) = [each for each in encodings if (await each.read_browse_name()).Name == "Default Binary"]
        own = ua.StructureDefinition(
            DefaultEncodingId=encoding.nodeid, BaseDataType=base.nodeid, StructureType=fields.StructureType,
            Fields=fields.Fields,
        )  # fmt: skip
        await node.write_data_type_definition(own)
        made: type = dataclass(type(name, (ua.BinaryIdBaseDataType,), {"data_type": node.nodeid}))
        if hasattr(ua, name):  # the alias of the base: asyncua would keep it
            delattr(ua, name)
        ua.register_extension_object(name, encoding.nodeid, made, node.nodeid)
