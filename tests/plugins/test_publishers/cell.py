"""A station without detectors, in a process to be killed: a real ledger, real deliveries, status and triggers.

``python cell.py STATION_FILE``; standard input takes ``produce N`` (inspect N parts) and ``quit``; each is answered
with ``done SEQ`` when it is committed. A trigger is answered with an inspection of its own as soon as it comes; sent
again, with a receipt of the first. Verdicts, scores and parts differ from result to result.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from importlib import util
from pathlib import Path

import zmq

from runtime.delivery.router import open_router
from runtime.delivery.server import Deliveries
from runtime.errors import WireError
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.ledger import Ledger, Outbox, Reader
from runtime.station.config import load_station
from runtime.wire.messages import Receipt, decode_inspection, decode_trigger, encode_receipt

SIDE = 16


def _line():
    # By path: the tests are no package. The ledger's own tests drive it with the same parts.
    spec = util.spec_from_file_location(
        "publisher_line_of_parts", Path(__file__).parents[2] / "runtime" / "test_ledger" / "line.py"
    )
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parts_of_line = _line()


def fields_of(seq):
    """Return what the inspection ``seq`` says: anything, but always the same for one seq."""
    rng = random.Random(seq)
    verdict = rng.choices((Verdict.OK, Verdict.NOT_OK, Verdict.NOT_DECIDABLE), (8, 3, 1))[0]
    fields = {"verdict": verdict, "map": None, "part_id": f"P{seq:06d}-{'ß' if seq % 7 == 0 else 'x'}"}
    fields |= {"queue_us": rng.randrange(1000), "detect_us": rng.randrange(10**5), "latency_us": rng.randrange(10**6)}
    fields |= {"simulated": seq % 11 == 0, "trigger_id": seq if seq % 3 else None}
    if verdict is Verdict.NOT_DECIDABLE:
        word = rng.choice([each for each in ErrorWord if each is not ErrorWord.NONE])
        return fields | {"error": word, "error_detail": "for the test", "score": None, "threshold": None}
    score = rng.random() * 2
    return fields | {"score": score, "threshold": score - 0.1 if verdict is Verdict.NOT_OK else score + 0.1}


class Cell:
    """The station of a file, driven by ``turn``."""

    def __init__(self, path):
        self.station = load_station(path)
        self.ledger = Ledger(self.station.ledger.file, self.station.station)
        self.line = parts_of_line.Line(self.ledger, time.time_ns, frames=time.time_ns())
        for each in self.ledger.open_triggers():
            self.line.answer(each.trigger, each.frame or self.line.key(), error=ErrorWord.HOST_LOST, map=None,
                             trigger_id=each.trigger_id, part_id=each.part_id)  # fmt: skip
        self.ledger.commit()
        self.context = zmq.Context()
        self.router = open_router(self.context)
        self.router.bind(self.station.deliveries)
        self.deliveries = Deliveries(self.router, Outbox(self.ledger))
        self.status = self._bound(self.station.status)
        self.frames = self._bound(self.station.frames)
        self.run_id = f"{os.getpid():x}-{time.time_ns():x}"
        with Reader(self.station.ledger.file) as reader:
            results = [decode_inspection(each.header) for each in reader.inspections()]
        # A trigger is known by these, as a real host knows it from its ledger.
        self.known = {(each.camera, each.trigger_id, each.part_id, each.triggered_ns): each.seq for each in results}

    def _bound(self, address):
        sock = self.context.socket(zmq.ROUTER)
        sock.setsockopt(zmq.LINGER, 0)
        sock.bind(address)
        return sock

    def produce(self, number, camera="top", **fields):
        """Inspect that many parts, commit each and deliver it; return the last seq."""
        for _ in range(number):
            key = self.line.key(camera)
            now_ns = time.time_ns()
            trigger = self.ledger.trigger(
                camera, received_ns=now_ns, deadline_ns=now_ns + 10**9, trigger_id=fields.get("trigger_id"),
                part_id=fields.get("part_id", ""),
            )  # fmt: skip
            self.ledger.frame(key, received_ns=now_ns, trigger=trigger)
            seq = self.ledger.next_seq
            values = fields_of(seq) | {"result_id": f"{self.run_id}-{seq}"} | fields
            inspection = parts_of_line.inspection(seq, key, now_ns, **values)
            assert isinstance(inspection, Inspection)
            _, header = self.ledger.inspect(trigger, inspection)
            self.ledger.commit()
            self.deliveries.offer(seq, header, None)
        return self.ledger.written_seq

    def turn(self, poller):
        """Do what a host does in a turn of its loop; return the descriptors that are ready."""
        ready = dict(poller.poll(20))
        self.deliveries.take()
        if self.frames in ready:
            self._take_trigger()
        if self.status in ready:
            identity, empty, _ = self.status.recv_multipart()
            cameras = {name: {"worker": "ready", "recipe": ""} for name in self.station.cameras}
            said = {"station": self.station.station, "state": "ready", "ready": True, "cameras": cameras,
                    "deliveries": self.deliveries.status()}  # fmt: skip
            self.status.send_multipart([identity, empty, json.dumps(said).encode()])
        self.ledger.commit()
        self.deliveries.turn(time.monotonic_ns())
        return ready

    def _take_trigger(self):
        identity, *parts = self.frames.recv_multipart()
        try:
            header = decode_trigger(parts)
        except WireError:
            return
        name = (header.camera, header.trigger_id, header.part_id, header.raised_ns)
        common = {"camera": header.camera, "session": 0, "frame_id": 0, "message": "trigger"}
        if header.camera not in self.station.cameras:
            receipt = Receipt(**common, accepted=False, reason="unknown_camera", trigger_id=header.trigger_id)
            self.frames.send_multipart([identity, *encode_receipt(receipt)])
            return
        if name not in self.known:
            fields = {"trigger_id": header.trigger_id, "part_id": header.part_id, "triggered_ns": header.raised_ns}
            self.known[name] = self.produce(1, header.camera, **fields)
        receipt = Receipt(**common, accepted=True, seq=self.known[name], verdict=Verdict.OK,
                          trigger_id=header.trigger_id)  # fmt: skip
        self.frames.send_multipart([identity, *encode_receipt(receipt)])


def main():
    """Serve until told to quit or killed."""
    cell = Cell(Path(sys.argv[1]))
    poller = zmq.Poller()
    for sock in (cell.router, cell.status, cell.frames, 0):
        poller.register(sock, zmq.POLLIN)
    sys.stdout.write("done 0\n")
    sys.stdout.flush()
    while True:
        if 0 in cell.turn(poller):
            words = os.read(0, 100).decode().split()
            if not words or words[0] == "quit":
                break
            seq = cell.produce(int(words[1]))
            sys.stdout.write(f"done {seq}\n")
            sys.stdout.flush()
    cell.deliveries.close()
    cell.context.destroy(linger=100)
    cell.ledger.close()


if __name__ == "__main__":
    main()
