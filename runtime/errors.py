"""The exception family: one class per party to blame, one exit code per class.

Every message says, in one screen: what was expected, what was found, where, and what to do. Foreign exceptions are
wrapped where they enter (``raise ... from``), so callers of a room see this family only.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeadError(Exception):
    """Anything edgead reports on purpose. Commands print it as one line and exit with ``exit_code``."""

    exit_code: ClassVar[int] = 1


class ConfigError(EdgeadError):
    """The integrator's input is wrong: station file, option, address, folder of images."""

    exit_code = 2


class WireError(EdgeadError):
    """A peer sent bytes that are not a message of this protocol.

    ``reason`` is one word of ``runtime.wire.messages.REFUSALS``: stable, countable, sent back to the peer.
    """

    exit_code = 3

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class TemplateError(EdgeadError):
    """A template or the store that holds it is missing, damaged, or does not fit the detector."""

    exit_code = 4


class PluginError(EdgeadError):
    """A plugin broke its contract; names the plugin (and its distribution where known)."""

    exit_code = 5

    def __init__(self, plugin: str, message: str) -> None:
        super().__init__(f"plugin {plugin!r}: {message}")
        self.plugin = plugin


class WeightsError(EdgeadError):
    """A backbone weight file is missing, or is not the file whose digest is pinned."""

    exit_code = 6


class StationError(EdgeadError):
    """A running station failed: a worker that never became ready, an address already taken, no answer in time."""

    exit_code = 7


class LedgerError(EdgeadError):
    """The ledger is missing, damaged, held by another process, or was asked for what would break its rules."""

    exit_code = 8


class EngineError(EdgeadError):
    """A compiled engine is missing, damaged, refused by the parity gate, or cannot be built on this machine."""

    exit_code = 9
