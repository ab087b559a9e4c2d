"""What the options of several publishers have in common."""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

from pydantic import BaseModel, Field

from edgead import Options

Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
#: One level of an MQTT topic.
Level: TypeAlias = Annotated[str, Field(pattern=r"^[^/+#\x00]{1,64}$")]
_Kind = TypeVar("_Kind", bound=BaseModel)


class ListeningOptions(Options):
    """Options of a publisher that is a server; each says which port it is found at by default."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: every network card."""


def own(options: BaseModel, kind: type[_Kind]) -> _Kind:
    """Return a publisher's options as what they are; ``TypeError`` for another's, which edgead never gives."""
    if not isinstance(options, kind):
        raise TypeError(f"expected {kind.__name__}, found {options!r}")
    return options
