"""Processes of a station of our own: found when ready, explained when not, gone afterwards."""

import subprocess
import sys

import pytest
import zmq

from runtime.errors import StationError
from runtime.local import child, edgead_command, free_addresses, running_host, wait_until

#: A host that says it is ready from its second answer on, and ends in order on SIGTERM.
HOST = """
import json, os, signal, sys, zmq
print("a host starts", flush=True)
if sys.argv[2:]:
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
sock = zmq.Context().socket(zmq.REP)
sock.bind(sys.argv[1])
for number in range(10**6):
    while not sock.poll(100):  # a signal just before a wait without end would be heeded after it
        pass
    sock.recv()
    status = {"station": "s", "state": "running", "cameras": {}, "ready": number > 0, "number": number}
    sock.send(json.dumps(status).encode())
"""


def command(address, *arguments):
    """Return the command line of that host."""
    return [sys.executable, "-c", HOST, address, *arguments]


def test_addresses_are_free_and_differ():
    """Addresses can be bound at once, all of them."""
    addresses = free_addresses(5)
    assert len(set(addresses)) == 5
    with zmq.Context() as context, context.socket(zmq.REP) as sock:
        for address in addresses:
            sock.bind(address)


@pytest.mark.system
def test_a_host_is_lent_when_ready(tmp_path):
    """A host is lent once its status says ready, and has ended in order afterwards; what it printed is in the log."""
    (address,) = free_addresses(1)
    with running_host(command(address), address, tmp_path / "log") as process:
        assert process.poll() is None
        assert wait_until(address, lambda status: status["number"] > 2, process, tmp_path / "log")["ready"]
    assert process.returncode == 0
    assert (tmp_path / "log").read_text() == "a host starts\n"


@pytest.mark.system
def test_a_host_that_ends_is_explained(tmp_path):
    """A host that ends instead of becoming ready is a StationError with its status and last words."""
    (address,) = free_addresses(1)
    with (
        pytest.raises(StationError, match="status 3: a host starts"),
        running_host(command(address, "3"), address, tmp_path / "log"),
    ):
        pass


@pytest.mark.system
def test_a_host_that_is_late_is_explained(tmp_path):
    """A host that does not get there in time is a StationError with its last words."""
    (address,) = free_addresses(1)
    with (
        running_host(command(address), address, tmp_path / "log") as process,
        pytest.raises(StationError, match=r"0\.3 s: a host starts"),
    ):
        wait_until(address, lambda _status: False, process, tmp_path / "log", 0.3)


@pytest.mark.system
def test_a_child_is_gone_after_its_block():
    """A process ends with its block, also when the block fails."""
    with child(["sleep", "60"]) as first:
        assert first.poll() is None
    with pytest.raises(ZeroDivisionError), child(["sleep", "60"]) as second:
        _ = 1 / 0
    assert (first.returncode, second.returncode) == (-9, -9)


@pytest.mark.system
def test_our_own_command_is_safe_anywhere(tmp_path):
    """The command is this installation's edgead, even in a folder with modules of the same names."""
    for name in ("edgead", "runtime", "typer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger')")
    done = subprocess.run(
        edgead_command("--version"), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "edgead", "")
