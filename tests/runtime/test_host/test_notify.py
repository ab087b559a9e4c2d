"""What systemd hears, on a real datagram socket: ready once, alive while the loop turns, stopping."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator

import pytest

from runtime.host.notify import LOOK_NS, MAX_STATUS_CHARACTERS, Notifier
from runtime.lifecycle import State

S = 1_000_000_000


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> list[str]:
        """Return the lines of every datagram that has come."""
        lines = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path) -> Iterator[Manager]:
    """Return a manager that listens on a path, or on an abstract name."""
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@edgead-{secrets.token_hex(8)}")
    yield made
    made.close()


@pytest.fixture
def notifier(manager) -> Iterator[Notifier]:
    """Return a notifier told by the environment, with a watchdog of four seconds."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
    made = Notifier.from_environment(environ)
    assert environ == {}
    yield made
    made.close()


def test_ready_is_told_once_when_nothing_starts_any_more(manager, notifier):
    """Starting is not ready; degraded and failed are, for every frame is answered then."""
    for second, state in enumerate((State.STARTING, State.STARTING, State.DEGRADED, State.READY, State.FAILED)):
        notifier.turn(second * S, lambda state=state: (state, ""))
        assert ("READY=1" in manager.heard()) is (state is State.DEGRADED)


@pytest.mark.parametrize("state", [State.READY, State.DEGRADED, State.FAILED])
def test_each_state_after_the_start_is_ready(manager, notifier, state):
    """A station that answers is up for systemd, however many of its cameras are inspected."""
    notifier.turn(0, lambda: (state, ""))
    assert "READY=1" in manager.heard()


def test_the_watchdog_is_fed_by_turns_alone(manager, notifier):
    """Twice within the interval while the loop turns, in every state, and never while it does not."""
    fed_at = []
    for quarter in range(41):
        notifier.turn(quarter * S // 4, lambda: (State.STARTING, ""))
        fed_at += [quarter / 4] * manager.heard().count("WATCHDOG=1")
    assert fed_at == [0, 2, 4, 6, 8, 10]
    assert notifier.next_due_ns() == 12 * S
    assert manager.heard() == []


def test_a_loop_that_sleeps_until_the_watchdog_is_due(manager, notifier):
    """Whoever sleeps until the time announced feeds in time and never finds that it woke up for nothing."""
    now_ns, fed = 0, 0
    for _ in range(50):
        notifier.turn(now_ns, lambda: (State.READY, ""))
        fed += manager.heard().count("WATCHDOG=1")
        assert now_ns < notifier.next_due_ns() <= now_ns + 2 * S
        now_ns = notifier.next_due_ns()
    assert fed == 50


def test_the_status_line_is_told_when_it_changes(manager, notifier):
    """One line, short, and only when it is another one."""
    for second, text in enumerate(("a", "a", "b\nREADY=1", "x" * 1000)):
        notifier.turn(second * S, lambda text=text: (State.STARTING, text))
    told = [line for line in manager.heard() if line != "WATCHDOG=1"]
    assert told == ["STATUS=a", "STATUS=b READY=1", f"STATUS={'x' * MAX_STATUS_CHARACTERS}"]


def test_the_host_is_not_looked_at_every_turn(manager, notifier):
    """A loop that turns a thousand times a second is asked four times a second for its state."""
    looks = []
    for ms in range(1000):
        notifier.turn(ms * 1_000_000, lambda: looks.append(1) or (State.READY, ""))
    assert len(looks) == S // LOOK_NS
    assert manager.heard().count("READY=1") == 1


def test_stopping(manager, notifier):
    """The drain is announced; a host that is stopped before it was ready does not say ready."""
    notifier.stopping()
    notifier.turn(S, lambda: (State.STOPPING, "drains"))
    assert manager.heard() == ["STOPPING=1", "WATCHDOG=1", "STATUS=drains"]


@pytest.mark.parametrize(
    "changes",
    [{"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_PID": "1"}],
    ids=["none", "no number", "another process's"],
)
def test_a_watchdog_that_is_not_ours(manager, changes):
    """Without a watchdog of this process's own nothing is fed, and ready is told all the same."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000", **changes}
    notifier = Notifier.from_environment(environ)
    notifier.turn(0, lambda: (State.READY, ""))
    assert (manager.heard(), notifier.next_due_ns()) == (["READY=1"], None)
    notifier.close()


@pytest.mark.parametrize("address", ["", "vsock:2:1234"])
def test_without_systemd_nothing_happens(address):
    """No address, or one of another kind: every call is silent, and the host is not even looked at."""
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000"})
    notifier.turn(0, lambda: pytest.fail("looked at"))
    notifier.stopping()
    assert notifier.next_due_ns() is None
    notifier.close()


def test_a_manager_that_is_gone(tmp_path, caplog):
    """A socket nobody listens on is logged once and never raised: inspection goes on."""
    notifier = Notifier(str(tmp_path / "nobody"), 2 * S)
    with caplog.at_level(logging.WARNING):
        for second in range(5):
            notifier.turn(second * S, lambda: (State.READY, "fine"))
    assert [record.message[:31] for record in caplog.records] == ["cannot tell the service manager"]
    notifier.close()


def test_a_manager_that_does_not_read(manager, notifier):
    """A full socket holds nothing up, and what did not get through is told again: ready must not be lost."""
    for second in range(5000):
        notifier.turn(second * S, lambda second=second: (State.STARTING, str(second)))
    notifier.turn(5000 * S, lambda: (State.READY, "ready"))
    assert "READY=1" not in manager.heard()
    notifier.turn(5001 * S, lambda: (State.READY, "ready"))
    assert manager.heard() == ["READY=1", "WATCHDOG=1", "STATUS=ready"]
