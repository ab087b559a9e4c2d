"""A station killed again and again forgets nothing, answers everything once, and can compute its verdicts again."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from runtime.camera import CameraOptions, replay
from runtime.errors import ConfigError, LedgerError, PluginError, TemplateError
from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import Ledger, Reader, check, evidence
from runtime.ledger.listing import whole
from runtime.ledger.removal import forget
from runtime.registry import load_plugins
from runtime.replay import replay as compute
from runtime.sources import Acquired
from runtime.station.config import load_station
from runtime.store import Store
from runtime.testing.faulty import Fault, Faulty, marked, right_answer
from runtime.testing.station import local_station

pytestmark = pytest.mark.system
FAULTY = ("runtime.testing.faulty",)
FRAMES = 160
#: Answers after which the host is killed, and the frames whose detector raises or answers nonsense.
KILLS = (20, 60, 100)
FAULTS = {number: (Fault.RAISE, Fault.NAN_SCORE, Fault.MAP_SHAPE)[number % 3] for number in range(4, FRAMES, 9)}


class Line:
    """A camera that sends ``FRAMES`` frames, some of them marked to make the detector fail."""

    def __init__(self, address, picture):
        """Prepare the pictures."""
        pictures = [picture(number * 8) for number in range(FRAMES)]
        self.images = [
            marked(image, FAULTS[number]) if number in FAULTS else image for number, image in enumerate(pictures)
        ]
        self.answered = 0
        self.count = None
        self._options = CameraOptions(name="top", address=address, rate=100.0, window=4, timeout_s=60.0)
        self.thread = threading.Thread(target=self._send)

    def _send(self):
        def source(_due):
            return (Acquired(image, time.time_ns()) for image in self.images)

        self.count = replay(source, self._options, lambda answered: setattr(self, "answered", answered))

    def wait_for(self, answered):
        """Wait until so many frames have a receipt."""
        give_up = time.monotonic() + 60
        while self.answered < answered:
            assert time.monotonic() < give_up
            time.sleep(0.002)


def test_a_host_killed_in_mid_stream(station_file, picture):
    """Three SIGKILLs: each frame is inspected once, with its own answer, in one sequence, and the ledger proves it."""
    path = station_file(ledger={"evidence": {"ok_every": 10}})
    station = load_station(path)
    line = Line(station.frames, picture)
    try:
        for kill_at in (*KILLS, None):
            with local_station(path, FAULTY, lambda _status: True) as running:
                if line.thread.ident is None:
                    running.wait(lambda status: status["ready"])
                    line.thread.start()
                if kill_at is None:
                    line.thread.join(60)
                else:
                    line.wait_for(kill_at)
                    running.process.kill()
                    running.process.wait()
    finally:
        line.thread.join(70)
    assert (line.count.sent, line.count.answered, line.count.refused) == (FRAMES, FRAMES, {})
    assert line.count.sent_again > 0
    assert check(station.ledger.file, folder=station.ledger.evidence_folder) == []
    with Reader(station.ledger.file) as reader:
        stored = list(reader.inspections())
        _, _, seq, totals = reader.head()
        openings = [each.detail["clean"] for each in reader.events(kind="opened")]
    assert [each.seq for each in stored] == list(range(1, seq + 1))
    assert totals["triggers"] == totals["inspections"] == FRAMES
    assert openings == [True, False, False, False]
    assert sorted(each.frame.frame_id for each in stored) == list(range(FRAMES)), "none twice, none left out"
    for each in stored:
        number = each.frame.frame_id
        if each.verdict is Verdict.NOT_DECIDABLE:
            assert number in FAULTS or each.error in {ErrorWord.HOST_LOST, ErrorWord.DETECTOR_STARTING}
        else:
            score = right_answer(line.images[number])[1]
            assert number not in FAULTS
            assert each.score == pytest.approx(score, abs=1e-6)
            assert each.verdict is (Verdict.NOT_OK if score > 0.5 else Verdict.OK)


@pytest.fixture
def recorded(station_file, picture):
    """Return a station that has inspected a good frame, a bad one and one its detector raised on, and ended."""
    path = station_file(ledger={"evidence": {"ok_every": 1}}, worker={"threads": 1})
    with local_station(path, FAULTY) as running, running.camera() as camera:
        for image in (picture(1), np.full((9, 7, 3), 200, np.uint8), marked(picture(2), Fault.RAISE)):
            camera.answer(image)
    return load_station(path)


def registry():
    """Return the plugins of this file's stations."""
    return load_plugins(FAULTY, entry_points=False)


@pytest.mark.parametrize("seq", [1, 2])
def test_a_verdict_can_be_computed_again(recorded, seq):
    """Score and map of a stored frame come out the same, bit for bit, by seq and by result id."""
    with Reader(recorded.ledger.file) as reader:
        stored = whole(reader, str(seq))
    for name in (str(seq), stored["result_id"]):
        again = compute(recorded, name, registry())
        assert (again.difference, again.score, again.verdict.label) == ("", stored["score"], stored["verdict"])
        assert again.stored.seq == seq


def test_a_difference_is_told(recorded):
    """A stored map that the detector does not give again is a difference; a detector that raises again is named."""
    folder = recorded.ledger.evidence_folder
    with Reader(recorded.ledger.file) as reader:
        parts = evidence.read(folder, reader.evidence(1))
    changed = bytearray(parts["map"])
    changed[3] ^= 1
    other = evidence.write(folder, 1, Verdict.OK, parts | {"map": bytes(changed)})
    with closing(sqlite3.connect(recorded.ledger.file, isolation_level=None)) as connection:
        connection.execute("UPDATE evidence SET sha256 = ? WHERE seq = 1", (other.sha256,))
    assert "of the map's 288 bytes 1 differ" in compute(recorded, "1", registry()).difference
    with pytest.raises(PluginError, match=r"'faulty': .* asked for an exception"):
        compute(recorded, "3", registry())


def test_what_cannot_be_computed_again_is_said(recorded, monkeypatch):
    """Each missing piece has its own error: inspection, detector version, template, evidence, ledger."""
    with pytest.raises(LedgerError, match="expected inspection 9, found none"):
        compute(recorded, "9", registry())
    with monkeypatch.context() as patch:
        patch.setattr(Faulty, "version", "2")
        with pytest.raises(TemplateError, match="version 1"):
            compute(recorded, "1", registry())
    with pytest.raises(TemplateError):
        compute(
            recorded.model_copy(update={"store": Store.create(recorded.store.parent / "other").root}), "1", registry()
        )
    evidence.unlink(recorded.ledger.evidence_folder, 1)
    with pytest.raises(LedgerError, match="cannot read"):
        compute(recorded, "1", registry())
    with Ledger(recorded.ledger.file, "test") as ledger:
        forget(ledger, recorded.ledger.evidence_folder, [2], "age")
    with pytest.raises(LedgerError, match="expected its evidence, found none"):
        compute(recorded, "2", registry())
    with pytest.raises(ConfigError, match="no ledger"):
        compute(recorded.model_copy(update={"ledger": None}), "1", registry())


DISK = """
import json, sys, threading, time
from pathlib import Path
import numpy as np
from runtime.station.config import load_station
from runtime.ledger import Reader, check
from runtime.testing.station import local_station

path = Path(sys.argv[1])
frames = np.random.default_rng(0).integers(200, 250, (40, 200, 200), np.uint8)
with local_station(path, ("runtime.testing.faulty",)) as running, running.camera() as camera:
    verdicts = [camera.answer(frames[number % 40]).verdict.label for number in range(400)]
    running.wait(lambda status: status["ledger"]["unwritten"] == 0 and not status["ledger"]["evidence_waiting"])
    status = running.status()["ledger"]
station = load_station(path)
problems = check(station.ledger.file, folder=station.ledger.evidence_folder)
with Reader(station.ledger.file) as reader:
    removed = [each.detail["reason"] for each in reader.events(kind="evidence_removed")]
    skipped = sum(each.detail.get("disk_full", 0) for each in reader.events(kind="evidence_skipped"))
    seq = reader.head()[2]
print(json.dumps([sorted(set(verdicts)), seq, [str(each) for each in problems], removed, skipped, status["trouble"]]))
"""


def may_mount():
    """Tell whether this user may mount a file system of its own."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not may_mount(), reason="needs a user namespace with mounts of its own (unshare --user --mount)")
def test_a_station_on_a_disk_that_is_really_full(station_file, tmp_path):
    """16 MB of evidence on a disk of 8: every frame is answered and recorded, the oldest evidence goes, it is told."""
    disk = tmp_path / "disk"
    disk.mkdir()
    path = station_file(ledger={"path": str(disk / "ledger")})
    (tmp_path / "disk.py").write_text(DISK)
    script = f"mount -t tmpfs -o size=8m none {disk} && exec {sys.executable} {tmp_path / 'disk.py'} {path}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    verdicts, seq, problems, removed, skipped, trouble = json.loads(done.stdout.splitlines()[-1])
    assert (verdicts, seq, problems, trouble) == (["NotOK"], 400, [], "")
    assert set(removed) == {"disk_full"}
    assert skipped > 0
