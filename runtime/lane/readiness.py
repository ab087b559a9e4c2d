"""What a worker says of itself when it is ready, read as what it may be: it comes from another process."""

from __future__ import annotations

from typing import Any

#: Longest text kept, in characters.
_MOST = 300


def read_device_memory(record: dict[str, Any]) -> dict[str, int] | None:
    """Return bytes of device memory ``free``, ``total`` and ``used`` by the worker; None on a CPU.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else, as ``read_engine`` does.
    """
    found = record.get("device_memory")
    sizes = None if found is None else {name: found[name] for name in ("free", "total", "used")}
    if sizes is not None and not all(type(size) is int and size >= 0 for size in sizes.values()):
        raise ValueError(f"device_memory: expected whole numbers of bytes, found {sizes}")
    return sizes


def read_engine(record: dict[str, Any]) -> dict[str, str] | None:
    """Return the ``backend``, ``precision`` and ``note`` of what the worker computes with; None if it does not say."""
    found = record.get("engine")
    return None if found is None else {name: str(found[name])[:_MOST] for name in ("backend", "precision", "note")}
