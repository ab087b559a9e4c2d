"""A small loop standing in for the host: a real ledger, a real ROUTER, parts whenever asked for.

In a test ``Station`` is driven turn by turn. Run as ``python station.py FOLDER`` it starts processes and kills them,
told what to do line by line, so that a kill costs milliseconds and not a start of the interpreter:

``serve NAME ADDRESS PARTS_PER_S PARTS`` be a station; ``subscribe NAME ADDRESS`` be the subscriber NAME, who writes
each result to FOLDER/NAME before acknowledging it; ``signal NAME NUMBER`` sends a signal. Each answers ``done``, or
``gone`` where the process has ended by itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib import util
from pathlib import Path

import zmq

from runtime.delivery.client import subscribe
from runtime.delivery.router import open_router
from runtime.delivery.server import Deliveries
from runtime.inspection import MapInfo
from runtime.ledger import Ledger, Outbox

LEDGER = "ledger.db"
SIDE = 16


def _load_line():
    # By path: the tests are no package. The ledger's own tests drive it with the same parts.
    spec = util.spec_from_file_location("delivery_line", Path(__file__).parents[1] / "test_ledger" / "line.py")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulator = _load_line()


def map_of(seq, side=SIDE):
    """Return the map payload of a result: told from every other one's by its first bytes."""
    return seq.to_bytes(8, "little") + bytes(side * side * 2 - 8)


class Station:
    """A ledger, its outbox and the deliveries, in one thread; a context manager."""

    def __init__(self, path, address="tcp://127.0.0.1:*", *, side=SIDE, evidence=None, **options):
        """Open the ledger and bind; ``side`` of the square maps, ``options`` for ``Ledger``."""
        self.ledger = Ledger(path, simulator.STATION, **options)
        self.line = simulator.Line(self.ledger, time.time_ns, frames=time.time_ns())
        for each in self.ledger.open_triggers():
            self.line.answer(each.trigger, each.frame, error=simulator.ErrorWord.STOPPING)
        self.ledger.commit()
        self.outbox = Outbox(self.ledger)
        self.context = zmq.Context()
        self.router = open_router(self.context)
        self.router.bind(address)
        self.address = self.router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.deliveries = Deliveries(self.router, self.outbox, evidence=evidence)
        self.side = side

    def produce(self, number, *, offer=True, **fields):
        """Inspect that many parts, commit each, and offer it."""
        for _ in range(number):
            seq = self._answer(**fields)
            self.ledger.commit()
            if offer:
                self.deliveries.offer(seq, self.line.headers.pop(seq), map_of(seq, self.side))

    def _answer(self, **fields):
        info = MapInfo(encoding="raw", dtype="float16", height=self.side, width=self.side)
        return self.line.answer(*self.line.arrive(), **({"map": info} | fields))

    def turn(self, wait_ms=0):
        """Do what a host does in a turn of its loop."""
        if self.router.poll(wait_ms):
            self.deliveries.take()
        self.ledger.commit()
        self.deliveries.turn(time.monotonic_ns())

    def wait_ms(self, most_ms):
        """Return how long the loop may wait for a message."""
        due_ns = self.deliveries.next_due_ns()
        if due_ns is None:
            return most_ms
        return min(most_ms, max(0, -(-(due_ns - time.monotonic_ns()) // 10**6)))

    def kill(self):
        """End as SIGKILL would: what is not committed is lost, nothing is said."""
        self.context.destroy(linger=0)
        self.ledger._checkpointer.close()
        self.ledger.journal.connection.close()
        os.close(self.ledger._lock)
        self.ledger._lock = -1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.ledger._lock >= 0:
            self.deliveries.close()
            self.context.destroy(linger=0)
            self.ledger.close()


# --- processes ----------------------------------------------------------------------------------------------------


def serve(folder, name, address, parts_per_s, parts):
    """Be a station until killed; write the status to FOLDER/NAME ten times a second."""
    with Station(folder / LEDGER, address) as station:
        begun, made, told = time.monotonic(), 0, 0.0
        while True:
            station.turn(station.wait_ms(1))
            passed_s = time.monotonic() - begun
            due = min(int(parts), int(passed_s * float(parts_per_s))) - made
            station.produce(min(due, 20))
            made += min(due, 20)
            if passed_s - told >= 0.1:
                told = passed_s
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                status = station.deliveries.status() | {
                    "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
                    "last_seq": station.ledger.written_seq,
                    "made": made,
                }
                unfinished = folder / f"{name}.unfinished"
                unfinished.write_text(json.dumps(status))
                unfinished.replace(folder / name)


def follow(folder, name, address):
    """Be a subscriber until killed: each result is a line ``seq result_id historical delay_us`` before it is acked."""
    out = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with subscribe(address, name, from_oldest=True) as results:
        for each in results:
            delay_us = (time.time_ns() - each.inspection.published_ns) // 1000
            line = f"{each.seq} {each.inspection.result_id} {each.historical:d} {delay_us}\n"
            os.write(out, line.encode())


def _forked(work, *arguments):
    if child := os.fork():
        return child
    try:
        work(*arguments)
    except BaseException:  # noqa: BLE001 -- a child must never run on into the code of its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def main():
    """Answer commands until standard input ends; then kill what is left."""
    folder = Path(sys.argv[1])
    children = {}
    work = {"serve": serve, "subscribe": follow}
    for command in sys.stdin:
        verb, name, *arguments = command.split()
        answer = "done"
        if verb in work:
            children[name] = _forked(work[verb], folder, name, *arguments)
        else:
            number = int(arguments[0])
            ended, _ = os.waitpid(children[name], os.WNOHANG)
            if ended:
                answer = "gone"
            else:
                os.kill(children[name], number)
            if number == 9:
                if not ended:
                    os.waitpid(children[name], 0)
                del children[name]
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    for child in children.values():
        os.kill(child, 9)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
