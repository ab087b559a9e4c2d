"""Tells systemd how the host is: ready, alive, stopping, and a line of text (``Type=notify``, see sd_notify(3)).

The host's loop calls ``turn`` once per turn, and nothing else feeds the watchdog: a host whose loop stands still is
restarted, whatever its other threads do. Without systemd every call does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Self

from runtime.lifecycle import State

log = logging.getLogger("edgead.host")

#: Pause between two looks at the host, ns: what is told need not be fresher, and every turn of the loop counts.
LOOK_NS = 250_000_000
#: Longest status text, in characters: one line of `systemctl status`.
MAX_STATUS_CHARACTERS = 200


class Notifier:
    """The way to the service manager. ``address``: its datagram socket, ``@`` first for an abstract name; None: nobody.

    ``watchdog_ns``: how often it wants to hear from the loop, in nanoseconds; None: not at all.
    """

    def __init__(self, address: str | None = None, watchdog_ns: int | None = None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        # Twice within the interval, as sd_watchdog_enabled(3) asks.
        self._feed_every_ns = watchdog_ns // 2 if watchdog_ns else None
        self._look_every_ns = min(LOOK_NS, self._feed_every_ns or LOOK_NS)
        self._looked_ns: int | None = None
        self._fed_ns: int | None = None
        self._is_ready = False
        self._text = ""
        self._complained = False
        # Without waiting: a service manager that does not read must not hold a trigger up.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Self:
        """Read and remove NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID: workers must not speak for the host."""
        names = os.environ if environ is None else environ
        address = names.pop("NOTIFY_SOCKET", "")
        microseconds, pid = names.pop("WATCHDOG_USEC", ""), names.pop("WATCHDOG_PID", "")
        is_ours = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        # Other kinds of address (vsock) belong to virtual machines' own managers.
        return cls(
            address if address.startswith(("/", "@")) else None,
            int(microseconds) * 1000 if is_ours else None,
        )

    def turn(self, now_ns: int, look: Callable[[], tuple[State, str]]) -> None:
        """Tell what is new: ready (once, as soon as nothing is starting any more), alive, and the text if it changed.

        ``now_ns``: monotonic nanoseconds. ``look`` returns the station's state and a line about it.
        """
        if self._socket is None or (self._looked_ns is not None and now_ns - self._looked_ns < self._look_every_ns):
            return
        self._looked_ns = now_ns
        state, text = look()
        is_ready = self._is_ready or state not in (State.STARTING, State.STOPPING)
        feeds = self._feed_every_ns is not None and (
            self._fed_ns is None or now_ns - self._fed_ns >= self._feed_every_ns
        )
        news = ["READY=1"] * (is_ready and not self._is_ready) + ["WATCHDOG=1"] * feeds
        if text != self._text:
            news.append(f"STATUS={' '.join(text.split())[:MAX_STATUS_CHARACTERS]}")  # a line break would end it
        if news and self._send(news):  # else all of it is told again at the next look
            self._is_ready, self._text = is_ready, text
            self._fed_ns = now_ns if feeds else self._fed_ns

    def next_due_ns(self) -> int | None:
        """Return when ``turn`` must be called again to feed the watchdog, or None."""
        if self._socket is None or self._feed_every_ns is None or self._looked_ns is None:
            return None
        # Not before the next look: what is due and not done would keep the loop from sleeping.
        return max((self._fed_ns or 0) + self._feed_every_ns, self._looked_ns + self._look_every_ns)

    def stopping(self) -> None:
        """Tell that the host drains and ends; the watchdog is fed on, for as long as the loop turns."""
        self._send(["STOPPING=1"])

    def close(self) -> None:
        """Close the socket; later calls do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, lines: list[str]) -> bool:
        """Send one datagram without waiting; False if it did not get through."""
        if self._socket is None or self._address is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            if not self._complained:  # inspection goes on; a watchdog that hears nothing acts by itself
                log.warning("cannot tell the service manager %s: %s", ", ".join(lines), error)
            self._complained = True
            return False
        return True
