"""Addresses of a station as somebody who connects to them needs them."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from runtime.errors import ConfigError
from runtime.station.config import Address


def reachable(address: str) -> str:
    """Return ``address`` with ``*`` (every network card, for a host that binds) as this machine's loopback.

    Raises ``ConfigError`` for text that is no ZeroMQ address.
    """
    try:
        checked = TypeAdapter(Address).validate_python(address)
    except ValidationError as error:
        raise ConfigError(
            f"expected a ZeroMQ address such as tcp://127.0.0.1:5601 or ipc:///run/edgead/frames, found {address!r}"
        ) from error
    return checked.replace("tcp://*:", "tcp://127.0.0.1:", 1)
