"""Measures the time from a verdict's publication to its reading in a Modbus register, quiet and under attack.

``python tests/bench/bench_publishers.py [--parts 500] [--json FILE]``. Needs libmodbus (Debian: mbpoll). The station is
the one of the publishers' tests: ledger, deliveries and publishers are real, verdicts are made up. The reader polls as
fast as it is answered, so its own round trip is in the figure. Both cases in one run: read the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from importlib import util
from pathlib import Path

import edgead

_spec = util.spec_from_file_location(
    "bench_publisher_peers", Path(__file__).parents[1] / "plugins" / "test_publishers" / "peers.py"
)
peers = util.module_from_spec(_spec)
_spec.loader.exec_module(peers)


def watch(client, first, last, seen):
    """Note when each sequence number is read for the first time, UTC nanoseconds."""
    newest = first - 1
    while newest < last:
        words = client.read(0, 6)
        seq = words[4] << 16 | words[5]
        if seq > newest and words[1] & 0b1000:
            newest = seq
            seen[seq] = time.time_ns()


@contextlib.contextmanager
def attack(port):
    """Keep half-open connections, open and drop others, and send garbage, until the block ends."""
    stop, rng = threading.Event(), random.Random(0)

    def flood():
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
                sock.sendall(rng.randbytes(rng.randrange(1, 2000)))
                stop.wait(0.005)

    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def measure(cell, client, first, parts, interval_s):
    """Return the latencies of parts made at a pace, in ms."""
    seen = {}
    reader = threading.Thread(target=watch, args=(client, first, first + parts - 1, seen), daemon=True)
    reader.start()
    for _ in range(parts):
        cell.produce(1)
        time.sleep(interval_s)
    reader.join(30)
    published = {each.seq: each.published_ns for each in cell.results()}
    late = [(seen[seq] - published[seq]) / 1e6 for seq in seen]
    cuts = statistics.quantiles(late, n=100)
    return {
        "read": len(late),
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "max_ms": round(max(late), 2),
    }


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, default=500)
    parser.add_argument("--interval-ms", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    port = peers.free_port()
    with tempfile.TemporaryDirectory() as folder:
        publishers = {"modbus": {"port": port, "handshake": False, "connections": 8}}
        # A broker that is not there, and a receiver nobody serves: they must cost the others nothing.
        publishers |= {"webhook": {"url": "http://127.0.0.1:9/"}}
        cell = peers.Cell(Path(folder), publishers).start()
        running = peers.Outlets(cell, edgead.BUILTIN_PLUGINS)
        client = peers.LibModbus(port)
        try:
            client.connect()
            measure(cell, client, 1, 50, 0.01)
            pace = options.interval_ms / 1000
            figures = {"quiet": measure(cell, client, 51, options.parts, pace)}
            with attack(port):
                figures["attacked"] = measure(cell, client, 51 + options.parts, options.parts, pace)
        finally:
            client.close()
            running.stop()
            cell.kill()
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
