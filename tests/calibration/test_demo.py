"""The demo's own judgement: what passes, what does not, and which folder it may replace."""

import pytest

from calibration import demo
from calibration.calibrate import CalibrationOptions
from calibration.demo import MARKER, DemoOptions, DemoOutcome, is_defective, run_demo
from runtime.client.watch import Tally
from runtime.errors import ConfigError
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.station.config import load_station


def inspection(seq, kind, verdict, score):
    """Return the result of one simulated part."""
    decided = verdict is not Verdict.NOT_DECIDABLE
    return Inspection(
        result_id=f"r-{seq}", seq=seq, station="demo", camera="top", session=1, frame_id=seq, verdict=verdict,
        error=ErrorWord.NONE if decided else ErrorWord.OVERLOAD, error_detail="" if decided else "full",
        score=score if decided else None, threshold=0.5 if decided else None, pixel_threshold=None, product="bracket",
        detector="hetmm", detector_version="1", template="0" * 64, frame_height=4, frame_width=6, acquired_ns=1,
        received_ns=2, published_ns=3, queue_us=4, detect_us=5, latency_us=6, source=f"{seq:03d}_{kind}.png",
    )  # fmt: skip


def outcome(good=(20, 0), bad=(20, 0), undecided=0, frames=None, duplicates=0):
    """Return an outcome of (right, wrong) good and bad parts and some that were not decided."""
    plan = [("good", Verdict.OK, 0.2)] * good[0] + [("good", Verdict.NOT_OK, 0.7)] * good[1]
    plan += [("scratch", Verdict.NOT_OK, 0.9)] * bad[0] + [("scratch", Verdict.OK, 0.3)] * bad[1]
    plan += [("dent", Verdict.NOT_DECIDABLE, None)] * undecided
    inspections = [inspection(seq, *each) for seq, each in enumerate(plan)]
    made = DemoOutcome(
        len(plan) if frames is None else frames, Tally(), inspections, seconds=10.0, duplicates=duplicates
    )
    for each in inspections:
        made.tally.add(each)
    return made


@pytest.mark.parametrize(
    ("made", "passed"),
    [
        (outcome(), True),
        (outcome(good=(18, 2)), True),
        (outcome(good=(17, 3)), False),
        (outcome(bad=(19, 1)), True),
        (outcome(bad=(17, 3)), False),
        (outcome(undecided=1), False),
        (outcome(frames=41), False),
        (outcome(duplicates=1), False),
    ],
)
def test_what_passes(made, passed):
    """All answered once and decided, nine in ten defects found and as many good parts passed: no less will do."""
    assert made.passed is passed
    assert made.as_json()["passed"] is passed


def test_the_figures_are_those_of_the_results():
    """The figures count what came over the wire; the AUROC is that of its scores."""
    figures = outcome(good=(18, 2), bad=(19, 1)).as_json()
    assert (figures["frames"], figures["inspections"], figures["ok"], figures["not_ok"]) == (40, 40, 19, 21)
    assert (figures["defects_found"], figures["good_passed"], figures["throughput_fps"]) == (0.95, 0.9, 4.0)
    # 19 bad parts at 0.9 beat all good ones; the one at 0.3 beats 18 of 20.
    assert figures["image_auroc"] == pytest.approx((19 * 20 + 18) / 400)
    assert outcome(good=(0, 0), bad=(0, 0)).as_json()["image_auroc"] is None


def test_a_defect_is_told_by_its_name():
    """The truth of a replayed part is in its file's name."""
    assert is_defective(inspection(1, "scratch", Verdict.OK, 0.1))
    assert not is_defective(inspection(1, "good", Verdict.OK, 0.1))


class Stop(Exception):  # noqa: N818 - no error: the test has seen enough
    """The demo got as far as the test wanted."""


def test_only_a_former_demo_is_replaced(tmp_path, monkeypatch):
    """A folder with anything in it but a former demo is refused and left alone; a former demo is emptied."""

    def stop(*_):
        raise Stop

    monkeypatch.setattr(demo, "_draw", stop)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--out"):
        run_demo(None, DemoOptions(out=tmp_path / "mine"), stop)
    assert (tmp_path / "mine" / "work.txt").read_text() == "mine"
    (tmp_path / "former").mkdir()
    (tmp_path / "former" / MARKER).write_text("")
    (tmp_path / "former" / "old.png").write_text("")
    for name in ("former", "new", "new"):
        with pytest.raises(Stop):
            run_demo(None, DemoOptions(out=tmp_path / name), stop)
        assert [path.name for path in (tmp_path / name).iterdir()] == [MARKER]


def test_the_line_holds_every_test_part(tmp_path, monkeypatch):
    """The parts come along the line mixed, each test picture once, its truth in its name; a seed gives one order."""
    monkeypatch.setattr(demo, "REFERENCES", 1)  # they do not come along the line
    lines = [demo._draw(tmp_path / name, 3, lambda *_: None) for name in ("a", "b")]
    names = [sorted(path.name for path in line.iterdir()) for line in lines]
    kinds = [name.split("_", 1)[1] for name in names[0]]
    assert names[0] == names[1]
    assert len(kinds) == 82
    assert kinds.count("good.png") == 40
    assert kinds != sorted(kinds)
    assert all((a / n).read_bytes() == (b / n).read_bytes() for a, b in [lines] for n in names[0])


def test_the_station_is_patient(tmp_path):
    """The demo's station file is a whole one, on loopback, with time enough for a loaded machine."""
    station = load_station(demo._write_station(tmp_path, "hetmm"))
    assert station.frames.startswith("tcp://127.0.0.1:")
    assert station.cameras["top"].deadline_ms >= 60_000
    assert station.worker.hang_s >= station.cameras["top"].deadline_ms / 1000
    assert CalibrationOptions().false_reject < 1 - demo.PASSED_SHARE
