"""The line between host and worker: whole records, a death seen at once, and garbage that is the worker's fault."""

import socket
import subprocess
import sys

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import StationError
from runtime.worker.link import MAX_RECORD_BYTES, Link


@pytest.fixture
def ends():
    """Return the host's end and the worker's bare socket."""
    host, worker = Link.pair()
    yield host, worker
    host.close()
    worker.close()


def adopt(worker):
    """Return the worker's end over the socket's descriptor, as the worker process makes it."""
    return Link.adopt(worker.detach())


def test_records_arrive_whole_and_in_order(ends):
    """Each record comes out as it went in, one at a time; then there is nothing, and nothing blocks."""
    host, worker = ends[0], adopt(ends[1])
    records = [{"op": "done", "ticket": number, "score": 1.5, "map": {"height": 3}} for number in range(20)]
    for record in records:
        worker.send(record)
    assert [host.receive() for _ in records] == records
    assert host.receive() is None
    host.send({"op": "stop"})
    assert worker.receive() == {"op": "stop"}
    worker.close()


def test_a_closed_end_is_an_end_of_file(ends):
    """What was sent before the other side went still arrives; then there is EOFError, on sending too."""
    host, worker = ends[0], adopt(ends[1])
    worker.send({"op": "ready"})
    worker.close()
    assert host.receive() == {"op": "ready"}
    with pytest.raises(EOFError):
        host.receive()
    with pytest.raises(EOFError):
        host.send({"op": "stop"})


def test_what_was_said_before_the_end_is_heard(ends):
    """A worker that ends with records unread, which resets the line, had said what it had: that arrives first."""
    host, worker = ends[0], adopt(ends[1])
    host.send({"op": "inspect", "ticket": 1})
    host.send({"op": "inspect", "ticket": 2})
    assert worker.receive()["ticket"] == 1
    worker.send({"op": "done", "ticket": 1})
    worker.close()
    assert host.receive() == {"op": "done", "ticket": 1}
    with pytest.raises(EOFError):
        host.receive()


@pytest.mark.system
@pytest.mark.parametrize("unread", [0, 3])
def test_a_killed_process_is_an_end_of_file(ends, unread):
    """A worker killed by SIGKILL is seen as end-of-file at once, whether or not it had read its records."""
    host, worker = ends
    command = [sys.executable, "-P", "-c", "import time; time.sleep(60)", str(worker.fileno())]
    with subprocess.Popen(command, pass_fds=(worker.fileno(),)) as process:
        worker.close()
        for ticket in range(unread):
            host.send({"op": "inspect", "ticket": ticket})
        assert host.receive() is None
        process.kill()
    with pytest.raises(EOFError):
        host.receive()


def test_a_worker_that_does_not_read_is_gone(ends):
    """A full line raises EOFError instead of blocking the host: it then buries the worker."""
    host, _worker = ends

    def fill():
        for ticket in range(1_000_000):
            host.send({"op": "inspect", "ticket": ticket})

    with pytest.raises(EOFError, match="does not take records"):
        fill()


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"\xc1", "damaged record"),
        (b"\x81\xa2op", "damaged record"),
        (b"\x80\x80", "damaged record"),
        (b"\x93\x01\x02\x03", "sent list where a record"),
        (b"\xc0", "sent NoneType"),
        (b"\x81\x01\x02", "damaged record"),
        (b"\xdb\xff\xff\xff\xff", "damaged record"),
    ],
)
def test_garbage_is_the_workers_fault(ends, packet, words):
    """A packet that is no record is a StationError, so the host can bury the worker that sent it."""
    host, worker = ends
    worker.send(packet)
    with pytest.raises(StationError, match=words):
        host.receive()


@given(packet=st.binary(min_size=1, max_size=200))
def test_any_packet_is_a_record_or_a_station_error(packet):
    """Whatever bytes a dying worker sends, the host gets a record or a StationError, and nothing else."""
    host, worker = Link.pair()
    worker.send(packet)
    try:
        assert isinstance(host.receive(), dict)
    except StationError:
        pass
    finally:
        host.close()
        worker.close()


def test_a_packet_beyond_the_limit_is_damaged(ends):
    """A record longer than the limit is cut by the socket and refused, not read in part."""
    host, worker = ends
    worker.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_RECORD_BYTES)
    worker.send(msgpack.packb({"detail": "x" * (MAX_RECORD_BYTES + 1000)}))
    with pytest.raises(StationError, match="damaged record"):
        host.receive()


def test_closing_twice_is_harmless(ends):
    """Closing a closed end does nothing."""
    ends[0].close()
    ends[0].close()
    assert ends[0].fileno() == -1
