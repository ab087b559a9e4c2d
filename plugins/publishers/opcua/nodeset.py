"""The file of OPC 40100-1's types, looked at without a server: `edgead validate` names a wrong one."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from edgead import ConfigError

#: Namespace of OPC 40100-1, and what the root of every NodeSet is.
NAMESPACE = "http://opcfoundation.org/UA/MachineVision"
_ROOT = "UANodeSet"
_FILE = "nodeset: expected the NodeSet of OPC 40100-1 (Opc.Ua.MachineVision.NodeSet2.xml)"
_WHERE = "it is in the OPC Foundation's repository UA-Nodeset, under MachineVision"


def check_nodeset(path: Path) -> None:
    """Read the whole file, some megabytes; ``ConfigError`` unless it is XML and brings the namespace's types."""
    try:
        found = _namespaces(path)
    except OSError as error:
        raise ConfigError(f"{_FILE}, {path} cannot be read: {error.strerror or error}; {_WHERE}") from error
    except ET.ParseError as error:
        raise ConfigError(f"{_FILE}, {path} is not XML: {error}; {_WHERE}") from error
    if found is None:
        raise ConfigError(f"{_FILE}, {path} is other XML; {_WHERE}")
    if NAMESPACE not in found:
        raise ConfigError(f"{_FILE}, {path} brings the types of {', '.join(found) or 'no namespace'}; {_WHERE}")


def _namespaces(path: Path) -> list[str] | None:
    """Return the namespaces the NodeSet says it brings types of; None where the XML is no NodeSet."""
    found: list[str] = []
    root = ""
    for event, element in ET.iterparse(path, ("start", "end")):  # noqa: S314 - expat bounds entities itself
        name = element.tag.rpartition("}")[2]
        root = root or name
        if event == "start" and name == "Model":
            found.append(element.get("ModelUri", ""))
        elif event == "end" and name != "Model":
            element.clear()
    return found if root == _ROOT else None
