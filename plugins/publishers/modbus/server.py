"""pymodbus at the border: its server, its registers' callback, and limits on connections that it has not.

Only what pymodbus 3.16 documents is used, but for ``ServerRequestHandler``'s two callbacks that tell of a connection's
begin and end, and its ``transport``; the version is pinned for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from plugins.publishers.modbus.image import CONTROL_ADDRESS, CONTROL_WORDS, IMAGE_WORDS

if TYPE_CHECKING:
    from plugins.publishers.modbus.publisher import ModbusOptions
    from plugins.publishers.modbus.unit import Unit

log = logging.getLogger("edgead.modbus")

#: Largest Modbus TCP message; a peer that sends more without making one is cut off.
MAX_MESSAGE_BYTES = 260
#: Function codes of holding and input registers; those of coils would write single bits where words are meant.
_REGISTER_FUNCTIONS = frozenset({3, 4, 6, 16, 22, 23})
#: Pause between two looks at silent connections.
_LOOK_S = 1.0


async def serve(
    options: ModbusOptions,
    units: Mapping[int, Unit],
    tally: Counter[str],
    started: Callable[[], None],
    end: asyncio.Event,
) -> None:
    """Serve until ``end``; call ``started`` when the port is open. Raises ``RuntimeError`` or ``OSError`` if not.

    ``tally`` counts connections: ``accepted``, ``refused``, ``silent`` (closed for it).
    """
    # Its own log shows every broken request of every peer as an error, with a traceback.
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    open_now: set[Any] = set()
    server = _server(options, units, open_now, tally)
    await server.serve_forever(background=True)
    log.info("Modbus TCP on %s:%d, unit ids %s", options.host, options.port, ", ".join(map(str, units)))
    started()
    try:
        while not end.is_set():
            for each in [each for each in open_now if time.monotonic() - each.heard > options.idle_s]:
                tally["silent"] += 1
                each.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(end.wait(), _LOOK_S)
    finally:
        for each in tuple(open_now):
            each.close()
        await server.shutdown()


def _server(options: ModbusOptions, units: Mapping[int, Unit], open_now: set[Any], tally: Counter[str]) -> Any:
    """Return the server, not listening yet; ``open_now`` holds its connections."""
    from pymodbus.server import ModbusTcpServer
    from pymodbus.server.requesthandler import ServerRequestHandler

    class Connection(ServerRequestHandler):
        heard = 0.0

        def callback_connected(self) -> None:
            super().callback_connected()
            self.heard = time.monotonic()
            peer = self.transport.get_extra_info("peername") or ("",)
            stranger = options.clients is not None and peer[0] not in options.clients
            if stranger or len(open_now) >= options.connections:
                tally["refused"] += 1  # counted, not logged: a flood must not fill the disk
                self.close()
                return
            tally["accepted"] += 1
            open_now.add(self)

        def callback_disconnected(self, reason: Exception | None) -> None:
            open_now.discard(self)
            super().callback_disconnected(reason)

        def callback_data(self, data: bytes, addr: tuple[Any, ...] | None = None) -> int:
            self.heard = time.monotonic()
            used = int(super().callback_data(data, addr))
            if len(data) - used > MAX_MESSAGE_BYTES:
                self.close()
                return len(data)
            return used

    class Server(ModbusTcpServer):
        def callback_new_connection(self) -> Connection:
            return Connection(self, self.trace_packet, self.trace_pdu, self.trace_connect)

    return Server([_device(unit) for unit in units.values()], address=(options.host, options.port))


def _device(unit: Unit) -> Any:
    """Return a unit's registers: the image read-only, computed by each read; the control words the PLC's."""
    from pymodbus.constants import ExcCodes
    from pymodbus.simulator import DataType, SimData, SimDevice

    async def action(  # noqa: PLR0917 - pymodbus's own
        function: int, start: int, address: int, count: int, registers: list[int], written: list[int] | None
    ) -> ExcCodes | None:
        if function not in _REGISTER_FUNCTIONS:
            return ExcCodes.ILLEGAL_FUNCTION
        if written is not None:
            unit.write(address - CONTROL_ADDRESS, [int(word) for word in written])
        elif address < IMAGE_WORDS:
            registers[0 - start : IMAGE_WORDS - start] = unit.image()
            if address <= 1 < address + count:
                unit.handshake.looked()
        return None

    image = SimData(0, values=[0] * IMAGE_WORDS, datatype=DataType.REGISTERS, readonly=True)
    gap = SimData(IMAGE_WORDS, count=CONTROL_ADDRESS - IMAGE_WORDS, datatype=DataType.INVALID)
    control = SimData(CONTROL_ADDRESS, values=[0] * CONTROL_WORDS, datatype=DataType.REGISTERS)
    return SimDevice(id=unit.number, simdata=[image, gap, control], action=action)
