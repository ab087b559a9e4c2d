"""Triggers ahead of frames at a real station: a camera that stalls, a host that is killed, the command by hand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest

from runtime.client.triggers import TriggerClient
from runtime.inspection import ErrorWord, Verdict
from runtime.ledger import Reader, check
from runtime.local import edgead_command
from runtime.testing.station import HandCamera, local_station

FAULTY = ("runtime.testing.faulty",)
pytestmark = pytest.mark.system
WAIT_S = 60.0
#: What the answers in time have on a machine that is loaded; what is lost waits for it.
DEADLINE_MS = 4000
#: Sends a frame for every trigger id it reads, then tells what its receipts said.
CAMERA = """
import json, sys, time
import numpy as np
from runtime.camera import CameraClient, CameraOptions
from runtime.sources import Acquired
client = CameraClient(CameraOptions(name="top", address=sys.argv[1], simulated=True))
print("ready", flush=True)
for line in sys.stdin:
    client.send(Acquired(np.full((8, 8), 20, np.uint8), source="drawn", acquired_ns=time.time_ns()), int(line))
client.wait_until_outstanding(0)
print(json.dumps({"verdicts": client.count.verdicts, "refused": client.count.refused}))
client.close()
"""


def ledger_of(station):
    """Return the file of a station's ledger."""
    return station.station.ledger.file


def prove(station, triggers: int) -> Counter[str]:
    """Check that a stopped station's ledger is sound and has as many inspections as triggers; return the totals."""
    assert check(ledger_of(station)) == []
    with Reader(ledger_of(station)) as reader:
        totals = reader.head()[3]
    assert totals["triggers"] == totals["inspections"] == triggers
    dropped = sum(number for name, number in totals.items() if name.startswith("frames.dropped."))
    assert totals["frames"] == totals["frames.inspected"] + dropped
    return totals


def test_a_camera_that_stalls(station_file):
    """Frozen in the middle of 60 triggers: each has one answer, decided or camera_lost; late frames are told so."""
    path = station_file(triggers="ahead", deadline_ms=DEADLINE_MS)
    with local_station(path, FAULTY) as station:
        address = station.station.frames
        command = [sys.executable, "-P", "-c", CAMERA, address]
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as camera,
            station.subscriber() as subscriber,
            TriggerClient(address) as plc,
        ):
            assert camera.stdout.readline() == "ready\n"
            for number in range(60):
                plc.raise_trigger("top", number, part_id=f"SN-{number}")
                print(number, file=camera.stdin, flush=True)
                if number == 0:  # it is up and has sent one before it is frozen
                    receipts = [plc.receive(WAIT_S)]
                elif number == 30:
                    camera.send_signal(signal.SIGSTOP)
            receipts += [plc.receive(WAIT_S) for _ in range(59)]
            camera.send_signal(signal.SIGCONT)
            told, _ = camera.communicate(timeout=WAIT_S)
            results = [subscriber.receive(int(WAIT_S * 1000)).inspection for _ in range(60)]
            assert subscriber.receive(200) is None
        waiting = station.status()["cameras"]["top"]["triggers_waiting"]
    assert waiting == 0
    assert sorted(receipt.trigger_id for receipt in receipts) == sorted(each.trigger_id for each in results)
    assert sorted(each.part_id for each in results) == sorted(f"SN-{number}" for number in range(60))
    lost = [each for each in results if each.error is ErrorWord.CAMERA_LOST]
    assert {each.verdict for each in results if each not in lost} <= {Verdict.OK, Verdict.NOT_OK}
    assert 20 <= len(lost) < 60
    assert min(each.latency_us for each in lost) >= DEADLINE_MS * 1000
    camera_told = json.loads(told)
    assert camera_told["refused"] == {"late": len(lost)}
    assert sum(camera_told["verdicts"].values()) == 60 - len(lost)
    totals = prove(station, 60)
    assert (totals["frames"], totals["frames.dropped.late"]) == (60, len(lost))


def test_a_killed_host(station_file):
    """Killed with a trigger open: the next run answers it, host_lost, and the client hears of it by itself, once."""
    path = station_file(triggers="ahead", deadline_ms=60_000)
    with local_station(path, FAULTY) as station, TriggerClient(station.station.frames) as plc:
        with station.camera() as camera:
            plc.raise_trigger("top", 1)
            camera.send(np.full((8, 8), 20, np.uint8), trigger_id=1)
            first = plc.receive(WAIT_S)
        plc.raise_trigger("top", 2)
        station.wait(lambda status: status["ledger"]["open_triggers"] == 1 and status["ledger"]["unwritten"] == 0)
        station.process.kill()
        station.process.wait()
        with local_station(path, FAULTY) as again:
            second = plc.receive(WAIT_S)
            assert plc.receive(0.2) is None
            with again.camera() as camera:
                camera.send(np.full((8, 8), 20, np.uint8), trigger_id=2)
                late = camera.receipt()
    assert (first.seq, first.error) == (1, ErrorWord.NONE)
    assert (second.trigger_id, second.seq, second.error) == (2, 2, ErrorWord.HOST_LOST)
    assert (late.reason, plc.waiting) == ("late", 0)
    prove(again, 2)


def test_by_hand(station_file):
    """`edgead trigger` shows the verdict of its frame, camera_lost without one, a refusal, and that nobody is there."""
    path = station_file(triggers="ahead", deadline_ms=DEADLINE_MS)

    def raised(*arguments: str) -> tuple[int, dict]:
        command = edgead_command("trigger", *arguments, "--station", str(path), "--json", "--timeout", "20")
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
        return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}

    with local_station(path, FAULTY) as station:
        with HandCamera(station.station.frames) as camera:
            sender = threading.Timer(0.0, lambda: frame_when_asked(station, camera))
            sender.start()
            code, answer = raised("top", "--id", "7", "--part", "SN-7")
            sender.join()
            assert (code, answer["trigger_id"], answer["session"]) == (0, 7, camera.session)
            assert answer["verdict"] in {"OK", "NotOK"}
        code, answer = raised("top", "--deadline", "50")
        assert (code, answer["verdict"], answer["error"]) == (1, "NotDecidable", "camera_lost")
        code, answer = raised("side")
        assert (code, answer["accepted"], answer["reason"]) == (1, False, "unknown_camera")
    command = edgead_command("trigger", "top", "--station", str(path), "--timeout", "0.2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 7
    assert "without a receipt" in done.stderr


def frame_when_asked(station, camera) -> None:
    """Send the frame of trigger 7 once the host has the trigger."""
    station.wait(lambda status: status["cameras"]["top"]["triggers_waiting"] == 1)
    camera.send(np.full((8, 8), 20, np.uint8), trigger_id=7)
