"""The host and its ledger: what came in is written down once, answered once, and never forgotten by a restart."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.client.subscriber import Subscriber, ask_status
from runtime.delivery.client import subscribe
from runtime.errors import LedgerError
from runtime.host.loop import Host
from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import FrameKey, Ledger, LedgerFull, Reader, check, evidence, journal
from runtime.local import free_addresses
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import MAP_SIDE, Faulty
from runtime.testing.played_worker import PlayedSupervisor, PlayedWorker
from runtime.testing.station import PRODUCT, HandCamera, put_template, write_station
from runtime.wire.header import open_header
from runtime.wire.messages import FRAME_SCHEMA, decode_inspection

IMAGE = np.arange(6, dtype=np.uint8).reshape(2, 3)
MAP = b"\x00\x3c" * (MAP_SIDE * MAP_SIDE)


class Played:
    """One station whose worker the test plays, run after run on the same ledger."""

    def __init__(self, folder: Path, *, deliveries: str | None = None, **ledger: Any) -> None:
        put_template(Store.create(folder / "store"), Faulty(), 0.5)
        frames, results, status = free_addresses(3)
        addresses = {"frames": frames, "results": results, "status": status, "deliveries": deliveries}
        camera = {"product": PRODUCT, "detector": "faulty", "deadline_ms": 5000, "queue": 4}
        self.path = write_station(folder, {"top": camera}, max_frame_bytes=64, ledger=ledger, **addresses)
        self.station = load_station(self.path)
        self.file, self.folder = self.station.ledger.file, self.station.ledger.evidence_folder
        self.host: Host

    @contextmanager
    def run(self) -> Iterator[HandCamera]:
        """Run the host in a thread of its own, its worker ready; lend a camera."""
        self.host = Host(self.station, ())
        thread = threading.Thread(target=self.host.run)
        thread.start()
        try:
            self.wait(lambda: self.worker.starts == 1)
            assert self.worker.played()["op"] == "setup"
            self.worker.end.send({"op": "ready"})
            self.wait(lambda: ask_status(self.station.status, 10)["ready"])
            with HandCamera(self.station.frames) as camera:
                yield camera
        finally:
            self.host.stop()
            thread.join(20)
            self.worker.end.close()
            assert not thread.is_alive()

    @property
    def worker(self) -> PlayedWorker:
        """The worker."""
        return self.host.lanes["top"].worker

    def wait(self, reached) -> None:
        """Wait until ``reached()``."""
        give_up = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < give_up
            time.sleep(0.005)

    def status(self) -> dict[str, Any]:
        """Return the ledger's part of the status."""
        return ask_status(self.station.status, 10)["ledger"]

    def held(self) -> dict[str, Any]:
        """Return the record of the next frame the worker gets; signs of life asked for before it are given."""
        while (record := self.worker.played())["op"] == "ping":
            self.worker.end.send({"op": "alive", "golden": False})
        return record

    def answer(self, score: float = 0.25) -> None:
        """Have the worker answer the next frame."""
        self.release(self.held(), score)

    def release(self, record: dict[str, Any], score: float = 0.25) -> None:
        """Have the worker answer a frame it was given."""
        slots = self.host.lanes["top"]._slots
        slots.answer(record["slot"], len(MAP))[:] = MAP
        info = {"encoding": "raw", "dtype": "float16", "height": MAP_SIDE, "width": MAP_SIDE}
        answer = {"op": "done", "ticket": record["ticket"], "score": score, "detect_us": 5, "map": info}
        self.worker.end.send(answer | {"map_bytes": len(MAP), "preview_bytes": 0})

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the details of the events of one kind."""
        with Reader(self.file) as reader:
            return [each.detail for each in reader.events(kind=kind)]

    def totals(self) -> Counter[str]:
        """Return the ledger's totals, having proven it."""
        assert check(self.file, folder=self.folder) == []
        with Reader(self.file) as reader:
            return reader.head()[3]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a maker of stations; keywords are those of the station file's ``ledger``."""
    monkeypatch.setattr("runtime.lane.workers.Supervisor", PlayedSupervisor)
    return lambda **ledger: Played(tmp_path, **ledger)


@pytest.fixture
def played(make) -> Played:
    """Return a station with a ledger as it comes."""
    return make()


def test_nobody_waits_for_what_could_come_later(played, monkeypatch):
    """The worker is asked before the frame is recorded; a result is sent behind its commit and before its evidence."""
    steps: list[str] = []
    with played.run() as camera:
        records, lane = played.host.outlet.records, played.host.lanes["top"]
        asked = lane.worker.send

        def ask(record):
            steps.append(record["op"])
            asked(record)

        monkeypatch.setattr(lane.worker, "send", ask)
        for owner, name, step in (
            (records, "enter", "recorded"),
            (records.ledger, "commit", "committed"),
            (played.host.outlet, "_send_outgoing", "sent"),
            (records, "keep", "kept"),
        ):
            told = getattr(owner, name)

            def note(*given, told=told, step=step, **named):
                if step != "sent" or played.host.outlet.waits:
                    steps.append(step)
                return told(*given, **named)

            monkeypatch.setattr(owner, name, note)
        camera.send(IMAGE)
        played.answer(0.75)
        assert camera.receipt().verdict is Verdict.NOT_OK
        played.wait(lambda: "kept" in steps)
    begun = steps.index("recorded")
    assert "inspect" in steps[:begun]
    sent = steps.index("sent", begun)
    assert "committed" in steps[begun:sent]
    assert sent < steps.index("kept", begun)


def test_every_frame_is_one_trigger_one_frame_and_one_inspection(played):
    """What is published is what was recorded, byte for byte, numbered in the order it was published."""
    with played.run() as camera, Subscriber(played.station.results) as subscriber:
        played.wait(lambda: ask_status(played.station.status, 10)["subscriptions"] == 1)
        for score in (0.25, 0.75, 0.5):
            camera.send(IMAGE, part_id=f"P{score}")
            played.answer(score)
            assert camera.receipt().verdict is (Verdict.NOT_OK if score > 0.5 else Verdict.OK)
        published = [subscriber.receive(10_000).inspection for _ in range(3)]
        assert played.status()["seq"] == 3
    totals = played.totals()
    assert [totals[name] for name in ("triggers", "frames", "inspections", "inspections.OK", "inspections.NotOK")] == [
        *(3, 3, 3, 2, 1)
    ]
    with Reader(played.file) as reader:
        stored = list(reader.inspections())
    assert [decode_inspection(each.header) for each in stored] == published
    assert [(each.seq, each.part_id) for each in stored] == [(1, "P0.25"), (2, "P0.75"), (3, "P0.5")]
    (in_use,) = played.events("in_use")
    assert (in_use["camera"], in_use["template"]) == ("top", published[0].template)


def test_a_frame_sent_twice_is_inspected_once(played):
    """A repeated frame gets the first one's answer: while that is in work, afterwards, and after a restart."""
    with played.run() as camera:
        message = camera.message(IMAGE)
        camera.send_parts(message)
        record = played.held()
        camera.send_parts(message)
        played.wait(lambda: played.status()["duplicates"] == 1)
        assert not camera.has_receipt()
        played.release(record, 0.75)
        receipts = camera.receipts(2)
        camera.send_parts(message)
        receipts.append(camera.receipt())
    with played.run() as camera:
        camera.send_parts(message)
        receipts.append(camera.receipt())
        camera.send(IMAGE)
        played.answer()
        new = camera.receipt()
    assert len(set(receipts)) == 1
    assert (receipts[0].seq, receipts[0].verdict, receipts[0].accepted) == (1, Verdict.NOT_OK, True)
    assert (new.seq, new.verdict) == (2, Verdict.OK)
    totals = played.totals()
    assert (totals["triggers"], totals["inspections"], totals["frames.dropped.duplicate"]) == (2, 2, 3)


def test_another_frame_under_a_used_name_never_gets_the_old_answer(played):
    """A camera that starts anew with its old session is refused, in work and afterwards and after a restart; no OK."""
    with played.run() as camera:
        camera.send(IMAGE, session=5, frame_id=0)
        record = played.held()
        camera.send(IMAGE, session=5, frame_id=0)
        in_work = camera.receipt()
        played.release(record, 0.25)
        first = camera.receipt()
        camera.send(IMAGE, session=5, frame_id=0)
        afterwards = camera.receipt()
    with played.run() as camera:
        camera.send(IMAGE, session=5, frame_id=0)
        restarted = camera.receipt()
    assert first.verdict is Verdict.OK
    for refusal in (in_work, afterwards, restarted):
        assert (refusal.accepted, refusal.reason) == (False, "frame_reused")
    assert played.totals()["inspections"] == 1


def test_a_trigger_is_inspected_once(make):
    """Another frame with a trigger id its camera just brought gets the first one's answer; after a while, its own."""
    played = make(trigger_repeat_s=1.0)
    with played.run() as camera:
        camera.send(IMAGE, trigger_id=2**64 - 1)
        played.answer(0.75)
        first = camera.receipt()
        repeated = camera.send(IMAGE, trigger_id=2**64 - 1)
        second = camera.receipt()
        camera.send(IMAGE, trigger_id=7)
        played.answer()
        other = camera.receipt()
        camera.send(IMAGE, trigger_id=7, part_id="another")
        played.answer()
        part = camera.receipt()
        time.sleep(1.1)
        camera.send(IMAGE, trigger_id=2**64 - 1)
        played.answer()
        later = camera.receipt()
    assert (second.seq, second.verdict, second.frame_id) == (first.seq, Verdict.NOT_OK, repeated)
    assert [(each.seq, each.verdict) for each in (other, part, later)] == [(seq, Verdict.OK) for seq in (2, 3, 4)]
    assert played.totals()["frames.dropped.duplicate"] == 1


def test_trigger_ids_can_be_left_alone(make):
    """With ``trigger_repeat_s: 0`` a camera that gives every frame the same id has every frame inspected."""
    played = make(trigger_repeat_s=0.0)
    with played.run() as camera:
        for seq in (1, 2):
            camera.send(IMAGE, trigger_id=0)
            played.answer()
            assert camera.receipt().seq == seq


def test_what_a_killed_host_left_open_is_answered(played):
    """Triggers of a killed run become NotDecidable, host_lost, before anything else, and their frames are known."""
    with played.run():
        pass
    now_ns = time.time_ns()
    lost = Ledger(played.file, "test")
    for number in range(2):
        key = FrameKey("top", 5, number)
        lost.arrive(key, received_ns=now_ns, deadline_ns=now_ns, trigger_id=number, part_id=f"P{number}")
    alone = lost.trigger("gone", received_ns=now_ns, deadline_ns=now_ns)
    lost.commit()
    with suppress(LedgerError):
        lost.journal.connection.close()  # not ``close``: a killed writer says no farewell
        lost.close()
    with played.run() as camera:
        assert played.status()["open_triggers"] == 0
        camera.send(IMAGE, session=5, frame_id=1)
        again = camera.receipt()
        camera.send(IMAGE)
        played.answer()
        assert camera.receipt().seq == 4
    assert (again.seq, again.verdict, again.error) == (2, Verdict.NOT_DECIDABLE, ErrorWord.HOST_LOST)
    assert played.totals()["inspections.NotDecidable"] == 3
    with Reader(played.file) as reader:
        stored = [decode_inspection(reader.inspection(seq).header) for seq in (1, 2, 3)]
    assert [(each.camera, each.session, each.part_id, each.trigger_id) for each in stored] == [
        ("top", 5, "P0", 0), ("top", 5, "P1", 1), ("gone", 0, "", None),
    ]  # fmt: skip
    assert all(each.result_id == f"{played.host.run_id}-{each.seq}" for each in stored)
    assert alone > 0


def test_what_else_happens_is_an_event(played):
    """A refusal, a worker that dies and an answer that comes too late are recorded, and change no count of frames."""
    with played.run() as camera:
        played.host.lanes["top"].pipeline.deadline_ns = 20_000_000
        camera.send_parts([b"x"])
        assert camera.receipt().reason == "parts"
        camera.send(IMAGE)
        record = played.held()
        assert camera.receipt().error is ErrorWord.DETECTOR_TIMEOUT
        played.release(record, 0.75)
        played.wait(lambda: ask_status(played.station.status, 10)["cameras"]["top"]["late_answers"] == 1)
        played.worker.end.close()
        played.wait(lambda: played.worker.starts == 2)
    assert played.events("refused") == [{"parts": 1}]
    (late,) = played.events("late_answer")
    assert (late["camera"], late["trigger"], late["score"]) == ("top", record["ticket"], 0.75)
    (restart,) = played.events("restart")
    assert restart["restarts"] == 1
    assert "died" in restart["why"]
    totals = played.totals()
    assert (totals["triggers"], totals["frames"], totals["inspections"], totals["refused.parts"]) == (1, 1, 1, 1)


def test_evidence_is_kept_by_verdict(make):
    """Frame, header and map of NotOK, NotDecidable and every n-th OK inspection lie beside the ledger, as they came."""
    played = make(evidence={"ok_every": 3})
    with played.run() as camera:
        for number, score in enumerate((0.25, 0.75, 0.25, float("nan"), 0.25)):
            camera.send(IMAGE + number, part_id=f"P{number}")
            played.answer(score)
            camera.receipt()
        assert played.status()["evidence_skipped"] == {}
    assert sorted(evidence.listed(played.folder)) == [2, 3, 4]
    played.totals()
    with Reader(played.file) as reader:
        for seq in (2, 3, 4):
            parts = evidence.read(played.folder, reader.evidence(seq))
            assert parts["frame"] == (IMAGE + seq - 1).tobytes()
            assert open_header(parts["header"], FRAME_SCHEMA)["part_id"] == f"P{seq - 1}"
            assert parts.get("map") == (None if seq == 4 else MAP)


def test_frames_that_never_got_a_slot_are_evidence_too(played):
    """A frame answered at once (overload) is kept like any other NotDecidable one."""
    with played.run() as camera:
        for number in range(8):  # four wait, two are with the worker
            camera.send(IMAGE + number)
        receipts = camera.receipts(2)
        for _ in range(6):
            played.answer()
        receipts += camera.receipts(6)
    assert [each.error for each in receipts[:2]] == [ErrorWord.OVERLOAD] * 2
    with Reader(played.file) as reader:
        kept = [evidence.read(played.folder, reader.evidence(receipt.seq)) for receipt in receipts[:2]]
    assert [each["frame"] for each in kept] == [(IMAGE + each.frame_id).tobytes() for each in receipts[:2]]


def test_a_subscriber_that_was_away_gets_everything(make):
    """Results of its absence come first, marked historical, over a restart; then live ones, with their maps."""
    (address,) = free_addresses(1)
    played = make(deliveries=address)

    def inspect(camera):
        camera.send(IMAGE)
        played.answer(0.75)
        return camera.receipt().seq

    with played.run() as camera:
        with subscribe(address, "mes", maps=True) as results:
            played.wait(lambda: "mes" in ask_status(played.station.status, 10)["deliveries"]["subscribers"])
            assert inspect(camera) == 1
            first = results.receive(20)
            first.ack()
        assert inspect(camera) == 2
    with played.run() as camera:
        assert inspect(camera) == 3
        played.wait(lambda: [played.status()[key] for key in ("evidence_waiting", "unwritten")] == [0, 0])
        with subscribe(address, "mes", maps=True) as results:
            away = []
            for _ in range(2):
                away.append(results.receive(20))
                away[-1].ack()
            assert inspect(camera) == 4
            live = results.receive(20)
            live.ack()
            played.wait(lambda: not played.host.outlet.records.ledger.pending)
    assert [(each.seq, each.historical) for each in (first, *away, live)] == [
        *((1, False), (2, True), (3, True), (4, False)),
    ]
    assert {bytes(each.map_payload) for each in (first, *away, live)} == {MAP}
    played.totals()
    with closing(sqlite3.connect(played.file)) as connection:
        assert connection.execute("SELECT name, acked FROM cursors").fetchall() == [("mes", 4)]


def test_the_status_of_a_host_that_has_ended_is_no_trouble(make, caplog):
    """What `edgead run` asks for its last line is answered without a question to the closed ledger."""
    (address,) = free_addresses(1)
    played = make(deliveries=address)
    with played.run() as camera:
        camera.send(IMAGE)
        played.answer()
        camera.receipt()
    status = played.host.status()
    assert (status["frames"], status["inspections"], status["deliveries"]) == (1, 1, None)
    assert "closed database" not in caplog.text


def test_a_second_host_is_refused(played):
    """A ledger has one writer: a second host of the same station ends with the ledger's error, and harms nothing."""
    with played.run() as camera:
        other = Played.__new__(Played)
        path = played.path.with_name("other.yaml")
        text = played.path.read_text()
        for address, fresh in zip(
            (played.station.frames, played.station.results, played.station.status), free_addresses(3), strict=True
        ):
            text = text.replace(address, fresh)
        path.write_text(text)
        other.host = Host(load_station(path), ())
        with pytest.raises(LedgerError, match="only writer"):
            other.host.run()
        camera.send(IMAGE)
        played.answer()
        assert camera.receipt().seq == 1
    assert played.totals()["inspections"] == 1


def test_a_disk_that_is_full_does_not_stop_inspection(played, monkeypatch):
    """While the ledger cannot grow frames are answered all the same, and the status and the log say what is wrong."""
    opened = journal.open_writer

    def small(path):
        connection = opened(path)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")
        return connection

    monkeypatch.setattr(journal, "open_writer", small)
    with played.run() as camera:
        seqs = []
        for _ in range(60):
            camera.send(IMAGE)
            played.answer()
            receipt = camera.receipt()
            assert receipt.verdict is Verdict.OK
            seqs.append(receipt.seq)
        status = played.status()
    assert seqs == list(range(1, 61))
    assert 0 < status["seq"] < 60
    assert (status["short_of_room"], status["unwritten"] > 0) == (True, True)
    assert "full" in status["trouble"]
    assert check(played.file, folder=played.folder, now_ns=0) == [], "what was written is whole"


def test_a_disk_full_for_too_long_refuses_at_the_door(played, monkeypatch):
    """Past the limit of records in memory a frame is refused, unrecorded: no verdict, and no silent pass."""
    with played.run() as camera:

        def refuse(*_, **__):
            raise LedgerFull("no room")

        monkeypatch.setattr(played.host.outlet.records.ledger, "repeated", refuse)
        camera.send(IMAGE)
        receipt = camera.receipt()
    assert (receipt.accepted, receipt.reason, receipt.verdict) == (False, "unrecorded", Verdict.UNDEFINED)
    assert played.totals()["refused.unrecorded"] == 1
    assert played.totals()["triggers"] == 0


def test_a_lost_record_is_found(played, monkeypatch):
    """A bug, planted here, that loses one inspection on its way to the disk is found by the check, which names it."""
    write, lost = journal.Journal._write, []

    def forgetful(self):
        if not lost and self.seq == 2:
            lost.append(self.rows["inspections"].pop())
        write(self)

    monkeypatch.setattr(journal.Journal, "_write", forgetful)
    with played.run() as camera:
        for _ in range(3):
            camera.send(IMAGE)
            played.answer()
            camera.receipt()
    problems = check(played.file, folder=played.folder, now_ns=10**30)
    assert {each.kind for each in problems} >= {"missing", "sequence", "trigger", "totals"}
    assert [each.record for each in problems if each.kind == "missing"] == [lost[0][0]]
    assert [each.record for each in problems if each.kind == "trigger"] == [lost[0][2]]
