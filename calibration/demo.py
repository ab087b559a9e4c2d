"""`edgead demo`: a simulated product, a real calibration, and a real station over ZeroMQ on loopback.

Three processes beside this one: the host, its detector worker, and a camera that replays the simulated parts; this
process is the subscriber. Passed means: every frame was answered exactly once and decided, at least ``FOUND_SHARE`` of
the planted defects are NotOK, and at least ``PASSED_SHARE`` of the good parts are OK.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.calibrate import CalibrationOptions, Progress, calibrate, resolve_settings, save
from calibration.contact_sheet import Picture, write_contact_sheet
from calibration.dataset import references_from
from calibration.metrics import auroc
from calibration.references import References
from calibration.report import write_report
from runtime.client.subscriber import Received, Subscriber
from runtime.client.watch import Tally, save_overlay, shown
from runtime.detector import Detector
from runtime.errors import ConfigError, StationError
from runtime.inspection import Inspection, Verdict
from runtime.local import child, edgead_command, free_addresses, running_host, wait_until
from runtime.station.config import Station, load_station
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity
from runtime.terminal import say
from runtime.testing.product import DEFECTS, SimulatedProduct, write_dataset

REFERENCES, GOOD, PER_DEFECT = 60, 40, 6
FOUND_SHARE, PASSED_SHARE = 0.90, 0.90
PRODUCT = "bracket"
#: One frame with the worker and one on its way to it: the worker never waits, and the latency is not the queue's.
WINDOW = 2
#: Longest wait for a verdict, and for a worker that says nothing: a loaded machine shall be slow, not undecided.
DEADLINE_MS, HANG_S = 60_000, 120
#: A demo writes this file first: only a folder that holds it is ever replaced.
MARKER = "edgead-demo.txt"


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Where to put everything, how fast to send (0 = as fast as answered), and which simulated product."""

    out: Path
    rate: float = 0.0
    seed: int = 0


@dataclass
class DemoOutcome:
    """What the demo saw; ``passed`` is its exit code."""

    frames: int
    tally: Tally
    inspections: list[Inspection] = field(default_factory=list)
    overlays: dict[int, Path] = field(default_factory=dict)
    """Overlay picture by sequence number, of the results that carried a map."""
    seconds: float = 0.0
    duplicates: int = 0

    @property
    def image_auroc(self) -> float | None:
        """Image AUROC of the scores that came over the wire."""
        decided = [each for each in self.inspections if each.score is not None]
        return auroc([is_defective(each) for each in decided], [each.score for each in decided])  # type: ignore[misc]

    @property
    def found(self) -> float:
        """Share of planted defects that came back NotOK."""
        bad = [each for each in self.inspections if is_defective(each)]
        return sum(each.verdict is Verdict.NOT_OK for each in bad) / max(1, len(bad))

    @property
    def good_passed(self) -> float:
        """Share of good parts that came back OK."""
        good = [each for each in self.inspections if not is_defective(each)]
        return sum(each.verdict is Verdict.OK for each in good) / max(1, len(good))

    @property
    def passed(self) -> bool:
        """See the module docstring."""
        answered = self.tally.received == self.frames and self.duplicates == 0
        decided = not self.tally.verdicts["NotDecidable"]
        return answered and decided and self.found >= FOUND_SHARE and self.good_passed >= PASSED_SHARE

    def as_json(self) -> dict[str, Any]:
        """Return the figures `edgead demo --json` ends with."""
        return {
            "frames": self.frames,
            **self.tally.as_json(),
            "image_auroc": self.image_auroc,
            "defects_found": round(self.found, 4),
            "good_passed": round(self.good_passed, 4),
            "throughput_fps": round(self.tally.received / self.seconds, 2) if self.seconds else None,
            "passed": self.passed,
        }


def is_defective(inspection: Inspection) -> bool:
    """Tell from the replayed file's name (``017_scratch.png``) whether a defect was planted."""
    return not inspection.source.endswith("_good.png")


def run_demo(detector: Detector, options: DemoOptions, progress: Progress) -> DemoOutcome:
    """Draw, calibrate, run a station on it, and sum up. Raises ``StationError`` when a process fails."""
    out = _fresh(options.out)
    line = _draw(out, options.seed, progress)
    _calibrate(detector, out, progress)
    station = load_station(_write_station(out, detector.name))
    say(f"station {station.station}: frames {station.frames}, results {station.results}")
    outcome = _inspect(station, out, line, options.rate)
    sheet = _contact_sheet(out, outcome)
    _sum_up(outcome, out, sheet)
    return outcome


def _fresh(out: Path) -> Path:
    """Return an empty folder: a new one, or a former demo's, emptied."""
    if out.exists() and not (out / MARKER).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: expected no such folder, or one a former demo made; name another with --out")
    try:
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
        (out / MARKER).write_text("Made by `edgead demo`, which replaces it when run again.\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}; name another with --out") from error
    return out


def _draw(out: Path, seed: int, progress: Progress) -> Path:
    """Draw the data set and lay the test parts out as they come along the line, good and bad mixed."""
    parts = out / "parts"
    write_dataset(
        parts,
        SimulatedProduct(seed=seed),
        REFERENCES,
        GOOD,
        PER_DEFECT,
        progress=lambda done, total: progress(done, total, "drawing simulated parts"),
    )
    line = out / "line"
    line.mkdir()
    pictures = sorted((parts / "test").rglob("*.png"))
    order = np.random.default_rng(seed).permutation(len(pictures))
    for place, index in enumerate(order):
        shutil.copyfile(pictures[index], line / f"{place:03d}_{pictures[index].parent.name}.png")
    return line


def _calibrate(detector: Detector, out: Path, progress: Progress) -> None:
    references = References(references_from(out / "parts"))
    options = CalibrationOptions()
    calibration = calibrate(detector, references, resolve_settings(detector, {}), options, progress)
    store = Store.create(out / "store")
    identity = DetectorIdentity(name=detector.name, version=detector.version, distribution="edgead")
    template = save(calibration, store, product=PRODUCT, detector=identity, who="edgead demo", why="demo")
    store.activate(template.digest, who="edgead demo", why="demo")
    write_report(calibration, template, out / "report.html")
    say(
        f"calibrated {detector.name} on {len(references)} good parts: template {template.digest[:12]}, "
        f"image threshold {calibration.thresholds.image:.4f}"
    )


def _write_station(out: Path, detector: str) -> Path:
    frames, results, status = free_addresses(3)
    path = out / "station.yaml"
    path.write_text(
        "schema: edgead.station/1\nstation: demo\nstore: store\n"
        f"frames: {frames}\nresults: {results}\nstatus: {status}\n"
        f"cameras:\n  top:\n    product: {PRODUCT}\n    detector: {detector}\n    deadline_ms: {DEADLINE_MS}\n"
        f"worker:\n  hang_s: {HANG_S}\n"
        "publish:\n  map: raw\n  preview: true\n",
        encoding="utf-8",
    )
    return path


def _inspect(station: Station, out: Path, line: Path, rate: float) -> DemoOutcome:
    """Run host, camera and subscriber until every frame is answered or nothing comes any more."""
    outcome = DemoOutcome(len(list(line.iterdir())), Tally())
    path = str(out / "station.yaml")
    with (
        running_host(edgead_command("run", path), station.status, out / "host.log") as host,
        Subscriber(station.results) as subscriber,
    ):
        wait_until(station.status, lambda status: status["subscriptions"] >= 1, host, out / "host.log", 10.0)
        with _camera(path, line, rate, out / "camera.log") as camera:
            started = time.monotonic()
            seen: set[int] = set()
            for received in shown(_results(subscriber, outcome.frames, camera), outcome.tally, "edgead demo"):
                outcome.seconds = time.monotonic() - started
                outcome.duplicates += received.inspection.frame_id in seen
                seen.add(received.inspection.frame_id)
                outcome.inspections.append(received.inspection)
                if (picture := save_overlay(received, out / "overlays")) is not None:
                    outcome.tally.pictures.append(str(picture))
                    outcome.overlays[received.inspection.seq] = picture
    return outcome


@contextlib.contextmanager
def _camera(station: str, line: Path, rate: float, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["camera", str(line), "--station", station, "--name", "top", "--simulated"]
    arguments += ["--rate", str(rate), "--window", str(WINDOW), "--timeout", str(DEADLINE_MS / 1000)]
    with log.open("wb") as stream, child(edgead_command(*arguments), stream) as camera:
        yield camera
        with contextlib.suppress(subprocess.TimeoutExpired):
            camera.wait(10)


def _results(subscriber: Subscriber, frames: int, camera: subprocess.Popen[bytes]) -> Iterator[Received]:
    """Yield results until all frames are answered, and half a second longer to catch one too many.

    Raises ``StationError`` if the camera failed.
    """
    count = 0
    while count < frames:
        received = subscriber.receive(1000)
        if received is not None:
            count += 1
            yield received
        elif camera.poll() not in {None, 0}:
            raise StationError(f"the camera ended with status {camera.returncode}: see camera.log")
        elif camera.poll() == 0:
            return
    extra = subscriber.receive(500)
    if extra is not None:
        yield extra


def _contact_sheet(out: Path, outcome: DemoOutcome) -> str:
    """Write one picture of a good part and one of every defect kind, with maps and verdicts."""
    chosen: list[Picture] = []
    for kind in ("good", *DEFECTS):
        suffix = f"_{kind}.png"
        first = next((each for each in outcome.inspections if each.source.endswith(suffix)), None)
        if first is not None and first.seq in outcome.overlays:
            caption = f"{kind.replace('_', ' ')}: {first.verdict.label} {first.score or 0:.2f}"
            chosen.append(Picture(out / "line" / first.source, outcome.overlays[first.seq], caption, first.verdict))
    sheet = out / "demo.png"
    write_contact_sheet(chosen, sheet)
    outcome.tally.pictures.insert(0, str(sheet))
    return str(sheet)


def _sum_up(outcome: DemoOutcome, out: Path, sheet: str) -> None:
    figures = outcome.as_json()
    area = "-" if figures["image_auroc"] is None else f"{figures['image_auroc']:.4f}"
    answered = "" if outcome.frames == outcome.tally.received else ": NOT EVERY FRAME WAS ANSWERED"
    say("")
    say(f"frames sent {outcome.frames}, inspections received {outcome.tally.received}{answered}")
    say(f"verdicts: {figures['ok']} OK, {figures['not_ok']} NotOK, {figures['not_decidable']} NotDecidable")
    say(f"defects found {outcome.found:.1%}, good parts passed {outcome.good_passed:.1%}, image AUROC {area}")
    say(
        f"latency p50 {figures['latency_ms_p50']} ms, p99 {figures['latency_ms_p99']} ms; "
        f"{figures['throughput_fps']} frames/s"
    )
    say(f"pictures: {sheet} and {out / 'overlays'}; report: {out / 'report.html'}")
    say("demo passed" if outcome.passed else "DEMO FAILED")
