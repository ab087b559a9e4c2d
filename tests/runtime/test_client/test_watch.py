"""What `edgead watch` counts, shows and draws."""

from collections import deque

import cv2
import numpy as np
import pytest
from rich.console import Console

from runtime import terminal
from runtime.client import watch as room
from runtime.client.subscriber import Received
from runtime.client.watch import Tally, as_record, live_table, percentile, save_overlay, shown
from runtime.errors import ConfigError, StationError
from runtime.inspection import ErrorWord, Inspection, Verdict
from runtime.wire.answers import encode_map, encode_preview

RUN = "0123456789abcdef"


def inspection(seq=1, verdict=Verdict.OK, run=RUN, **fields):
    """Return a result of a frame of 60 x 80 px."""
    values = {
        "result_id": f"{run}-{seq}", "seq": seq, "station": "line1", "camera": "top", "session": 1, "frame_id": seq,
        "verdict": verdict, "error": ErrorWord.NONE, "error_detail": "",
        "score": 0.75 if verdict is Verdict.NOT_OK else 0.25, "threshold": 0.5,
        "pixel_threshold": 0.5, "product": "part", "detector": "hetmm", "detector_version": "1", "template": "0" * 64,
        "frame_height": 60, "frame_width": 80, "acquired_ns": 1, "received_ns": 2, "published_ns": 3, "queue_us": 4,
        "detect_us": 5, "latency_us": 1000 * seq,
    }  # fmt: skip
    return Inspection(**(values | fields))


def received(anomaly_map=None, preview=None, **fields):
    """Return a received result, with a map and a preview where they are given."""
    info, payload = encode_map(anomaly_map, "raw") if anomaly_map is not None else (None, None)
    each = inspection(map=info, preview="jpeg" if preview is not None else None, **fields)
    jpeg = None if preview is None else encode_preview(preview)
    return Received(each, None if info is None else payload.tobytes(), jpeg)


def undecided(seq=1):
    """Return a result without a decision."""
    nothing = {"score": None, "threshold": None, "pixel_threshold": None}
    return inspection(seq, Verdict.NOT_DECIDABLE, error=ErrorWord.OVERLOAD, error_detail="8 frames wait", **nothing)


class Results:
    """A subscriber whose results are given; an exception type among them is raised."""

    address = "tcp://127.0.0.1:5602"

    def __init__(self, *items):
        """Keep what is to come."""
        self.items = items

    def results(self, _idle_s=None):
        """Yield what was given."""
        for item in self.items:
            if isinstance(item, type):
                raise item
            yield item


def test_the_tally_counts_everything():
    """Verdicts, error words and latencies are counted, and the percentiles are those of the results seen."""
    tally = Tally()
    for each in (inspection(1), inspection(2), inspection(3, Verdict.NOT_OK), undecided(4)):
        tally.add(each)
    record = tally.as_json()
    assert (record["inspections"], record["ok"], record["not_ok"], record["not_decidable"]) == (4, 2, 1, 1)
    assert record["errors"] == {"overload": 1}
    assert (record["latency_ms_p50"], record["latency_ms_p99"]) == (2.0, 4.0)
    assert tally.sentence() == "4 results: 1 NotDecidable, 1 NotOK, 2 OK"


@pytest.mark.parametrize(("numbers", "missing"), [([5, 6, 7], 0), ([5, 7], 1), ([7, 5, 6], 0), ([1, 10], 8), ([], 0)])
def test_missing_results_are_counted(numbers, missing):
    """A number of the host's sequence that did not come is missing, whatever order the others came in."""
    tally = Tally()
    for seq in numbers:
        tally.add(inspection(seq))
    assert tally.missing == tally.as_json()["missing"] == missing


def test_a_restarted_host_is_no_loss():
    """A host that starts again counts from 1 again: nothing is missing."""
    tally = Tally()
    for run, seq in ((RUN, 8), (RUN, 9), ("fedcba9876543210", 1), ("fedcba9876543210", 2)):
        tally.add(inspection(seq, run=run))
    assert tally.missing == 0


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101, 1000])
def test_percentile_is_the_nearest_rank(count):
    """At least p percent of the values are not above the percentile, fewer are below it, and it is one of them."""
    values = sorted(np.random.default_rng(count).choice(10**6, count, replace=False).tolist())
    for percent in (50, 99):
        found = round(percentile(values, percent) * 1000)
        assert found in values
        assert sum(value <= found for value in values) >= count * percent / 100
        assert sum(value < found for value in values) < count * percent / 100


def test_percentile_of_nothing():
    """No results have no latency."""
    assert percentile([], 50) is None


def drawn(table):
    """Return the lines a table takes on a terminal of 80 columns."""
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_the_live_table_has_a_line_a_result():
    """Newest first, one line each at 80 columns, however long the source or the reason."""
    long = inspection(2, Verdict.NOT_OK, source="a/very/long/path/" * 8 + "004.png")
    recent = deque([inspection(1, source="good/000.png"), long, undecided(123456)])
    lines = drawn(live_table(recent, Tally(), "line1"))
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if " top " in line]
    assert [row.split()[0] for row in rows] == ["123456", "2", "1"]
    assert "overload: 8" in rows[0]
    assert "a/very/long" in rows[1]
    assert any("threshold" in line for line in lines)
    assert rows[2].split() == ["1", "top", "OK", "0.2500", "0.5000", "1.0", "good/000.png"]


def test_without_a_terminal_a_line_each(capsys):
    """Where stderr is no terminal every result is a line; a frame without a source goes by its part or number."""
    named = [received(seq=1, source="a.png"), received(seq=2, part_id="P7"), received(seq=3)]
    tally = Tally()
    assert list(shown(iter(named), tally, "line1")) == named
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["a.png", "P7", "3"]
    assert tally.received == 3
    assert list(shown(iter(named), tally, "line1", lines=False)) == named
    assert capsys.readouterr().err == ""


def test_records_are_plain_json(capsys):
    """A result as JSON has verdict and error as words, and neither map nor preview."""
    terminal.print_json(as_record(received(np.ones((4, 4), np.float32), source="a.png")))
    assert '"verdict": "OK", "error": "none"' in capsys.readouterr().out
    assert not {"map", "preview"} & as_record(received()).keys()


def test_an_overlay_shows_where(tmp_path):
    """The map is drawn on the preview: coloured where it is high, the frame itself where it is zero, and a contour."""
    frame = np.full((60, 80, 3), 90, np.uint8)
    anomaly_map = np.zeros((30, 40), np.float32)
    anomaly_map[10:20, 20:30] = 1.0
    each = received(anomaly_map, frame, seq=7, verdict=Verdict.NOT_OK, source="bad/004.png")
    path = save_overlay(each, tmp_path / "maps")
    assert path.name == "01234567_00000007_top_bad-004_NotOK.png"
    picture = cv2.imread(str(path)).astype(int)
    assert picture.shape == (60, 80, 3)
    assert np.abs(picture[:15, :30] - 90).max() <= 3  # JPEG
    assert np.abs(picture[28:32, 48:52] - 90).max() > 30
    assert (picture == 255).all(axis=2).any()


def test_a_restarted_host_overwrites_no_overlay(tmp_path):
    """The same number of another run of the host is another picture, and a run's name cannot lead out of the folder."""
    runs = (RUN, "fedcba9876543210", "../../up")
    paths = [save_overlay(received(np.ones((2, 2), np.float32), run=run), tmp_path) for run in runs]
    assert {*paths} == {*tmp_path.iterdir()}
    assert len({*paths}) == 3


def test_a_preview_in_an_unknown_encoding_is_skipped(tmp_path):
    """A preview that is no JPEG by its header is not decoded: the map is drawn on black."""
    anomaly_map = np.zeros((30, 40), np.float32)
    jpeg = encode_preview(np.full((60, 80, 3), 90, np.uint8))
    info, payload = encode_map(anomaly_map, "raw")
    for seq, (encoding, grey) in enumerate({"jpeg": 90, "avif": 0}.items()):
        each = Received(inspection(seq, map=info, preview=encoding), payload.tobytes(), jpeg)
        assert cv2.imread(str(save_overlay(each, tmp_path))).mean() == pytest.approx(grey, abs=3)


def test_the_same_value_has_the_same_colour(tmp_path):
    """Colour follows the template's pixel threshold, not the picture: one value looks alike on every picture."""
    pictures = []
    for seq, peak in enumerate((0.4, 5.0)):
        anomaly_map = np.full((30, 40), 0.3, np.float32)
        anomaly_map[0, 0] = peak
        pictures.append(cv2.imread(str(save_overlay(received(anomaly_map, seq=seq), tmp_path))))
    assert (pictures[0][40:, 40:] == pictures[1][40:, 40:]).all()
    assert pictures[0][50, 60].any()


def test_an_overlay_without_threshold_or_map(tmp_path):
    """Without a pixel threshold the map spans its own range, be it empty; without a map there is no picture."""
    anomaly_map = np.linspace(0, 1e-3, 1200, dtype=np.float32).reshape(30, 40)
    picture = cv2.imread(str(save_overlay(received(anomaly_map, pixel_threshold=None), tmp_path)))
    assert picture[-1, -1].any()
    assert save_overlay(received(np.zeros((2, 2), np.float32), seq=2, pixel_threshold=None), tmp_path).exists()
    assert save_overlay(received(), tmp_path) is None


def test_a_folder_that_cannot_be_made(tmp_path):
    """A file where the folder should be is said so."""
    (tmp_path / "maps").write_bytes(b"")
    with pytest.raises(ConfigError, match="maps"):
        save_overlay(received(np.ones((2, 2), np.float32)), tmp_path / "maps")


def watch(*items, **options):
    """Watch the given results."""
    usual = {"as_json": True, "save_maps": None, "count": None, "idle_s": 1.0}
    return room.watch(Results(*items), **(usual | options))


def test_watching_stops_at_the_count(tmp_path, capsys):
    """--count stops after so many results, though more are there; their overlays are listed."""
    items = [received(np.ones((2, 2), np.float32), seq=seq) for seq in (1, 2, 3)]
    tally = watch(*items, count=2, save_maps=tmp_path)
    assert tally.received == 2
    assert tally.as_json()["pictures"] == sorted(map(str, tmp_path.iterdir()))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_list_of_overlays_is_bounded(tmp_path, monkeypatch):
    """However long watching lasts, only the latest 1000 overlays are listed."""
    numbers = iter(range(10**6))
    monkeypatch.setattr(room, "save_overlay", lambda _received, folder: folder / f"{next(numbers)}.png")
    tally = watch(*[received(seq=seq) for seq in range(1, 1004)], save_maps=tmp_path)
    assert tally.as_json()["pictures"] == [str(tmp_path / f"{number}.png") for number in range(3, 1003)]


def test_watching_nothing_is_an_error():
    """Silence from the start is a StationError that says what to check."""
    with pytest.raises(StationError, match="edgead run"):
        watch()


def test_ctrl_c_ends_watching():
    """Ctrl-C ends watching with what has been counted, even when nothing has come."""
    assert watch(received(), KeyboardInterrupt).received == 1
    assert watch(KeyboardInterrupt, idle_s=None).received == 0
