"""The calibration report: one file that loads nothing, says what is promised, and lets no outside text through."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from calibration.calibrate import EXAMPLES, CalibrationOptions, calibrate, resolve_settings, save
from calibration.dataset import references_from
from calibration.histogram import HEIGHT, WIDTH, histogram
from calibration.references import References
from calibration.report import write_report
from runtime.errors import ConfigError
from runtime.images import overlay, write_png
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements of a page, and its text; refuses tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        """Note the element, and open it if it has an end."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Note an element that closes itself."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Close the element opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Collect what a reader can read."""
        if self.open[-1:] != ["style"]:
            # The words of a drawing stand apart, those of a sentence run on.
            self.text += f"\n{data}\n" if self.open[-1:] in (["text"], ["title"]) else data

    def of(self, tag, **attributes):
        """Return the attributes of every such element."""
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]

    def pictures(self):
        """Return every picture, decoded to uint8 RGB."""
        data = [base64.b64decode(each["src"].removeprefix("data:image/jpeg;base64,")) for each in self.of("img")]
        return [cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1] for each in data]


def silent(_done, _total, _what):
    """Report progress to nobody."""


def calibrated(detector, references, given, false_reject=0.2):
    """Calibrate on ``references``."""
    options = CalibrationOptions(false_reject=false_reject, threads=1)
    return calibrate(detector, references, resolve_settings(detector, given), options, silent)


def reported(calibration, folder):
    """Store a calibration, report it, and return the page."""
    identity = DetectorIdentity(name="hetmm", version="7", distribution="edgead")
    store = Store.create(folder / "store")
    template = save(calibration, store, product="bracket", detector=identity, who="tests", why="")
    write_report(calibration, template, folder / "out" / "report.html")
    return Page((folder / "out" / "report.html").read_text(encoding="utf-8")), template


@pytest.fixture(scope="module")
def calibration(hetmm, references, tiny):
    """Return HETMM calibrated on ten references for 20 % false rejects, which ten can promise."""
    return calibrated(hetmm, references, tiny)


def test_page_is_one_file_that_loads_nothing(calibration, tmp_path):
    """Tags nest, there is no script, and nothing on the page points outside it."""
    page, _ = reported(calibration, tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    assert not {"script", "link", "iframe", "object", "a"} & {tag for tag, _ in page.elements}
    assert all(each["src"].startswith("data:image/jpeg;base64,") for each in page.of("img"))
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    (policy,) = page.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_page_names_what_was_calibrated(calibration, tmp_path):
    """Product, detector with version, id, number of references, weights, and every setting stand on the page."""
    page, template = reported(calibration, tmp_path)
    for words in ("Calibration of bracket", "Detector hetmm 7", "10 references", template.digest, "image_size"):
        assert words in page.text
    (weights,) = template.manifest.weights.values()
    assert weights in page.text
    assert all(name in page.text for name in template.manifest.settings)
    assert "feature_shapes" in page.text


def test_promise_is_in_plain_words(calibration, tmp_path):
    """The bound, the number of frames it rests on, and what it does not say are all told; nothing warns."""
    page, _ = reported(calibration, tmp_path)
    assert f"Image threshold {calibration.thresholds.image:.6g}" in page.text
    assert "At most 18.2 % of good parts are expected to be rejected" in page.text
    assert "10 held-out good frames" in page.text
    assert "says nothing about defects that are missed" in page.text
    assert "not a theorem" in page.text
    assert not page.of("div", class_="card warning")


def test_target_out_of_reach_is_warned_about(hetmm, references, tiny, tmp_path):
    """Ten frames cannot promise 1 %: the page says what they can, and that 99 are needed."""
    page, _ = reported(calibrated(hetmm, references, tiny, false_reject=0.01), tmp_path)
    assert len(page.of("div", class_="card warning")) == 1
    assert "at most 1 % false rejects were asked for" in page.text
    assert "10 held-out frames cannot promise less than 9.09 %. At least 99 held-out frames" in page.text


def test_missing_threshold_is_warned_about(hetmm, references, tiny, tmp_path):
    """Without a held-out frame the page promises nothing and says that every verdict is NotDecidable."""
    page, _ = reported(calibrated(hetmm, references.only([0]), tiny), tmp_path)
    assert "every verdict will be NotDecidable" in page.text
    assert "expected to be rejected" not in page.text
    assert not page.of("svg")
    assert len(page.pictures()) == 2


def test_damage_below_the_threshold_is_warned_about(calibration, tmp_path):
    """A detector that does not see the planted damage is told on the first screen."""
    worst = sorted(each.score for each in calibration.damaged)
    blind = replace(calibration, thresholds=calibration.thresholds.model_copy(update={"image": worst[1]}))
    page, _ = reported(blind, tmp_path)
    assert "2 of 3 golden frames with planted damage scored no higher than the threshold" in page.text


def test_pictures_show_the_frames_and_the_maps_over_them(calibration, tmp_path):
    """The held-out frames with the highest scores come first, then the damaged ones: frame beside its overlay."""
    page, _ = reported(calibration, tmp_path)
    order = np.argsort(calibration.held_out.scores)[::-1][:EXAMPLES]
    shown = [(calibration.held_out.frames[i].image, calibration.held_out.maps[i]) for i in order]
    shown += [(each.frame, each.anomaly_map) for each in calibration.damaged]
    pictures = page.pictures()
    assert len(pictures) == 2 * len(shown)
    cut = calibration.thresholds.pixel
    for (frame, anomaly_map), left, right in zip(shown, pictures[::2], pictures[1::2], strict=True):
        assert np.abs(left.astype(float) - frame).mean() < 8  # what JPEG loses
        assert np.abs(right.astype(float) - overlay(frame, anomaly_map, cut, 2 * cut)).mean() < 8
    places = [page.text.index(f"{calibration.held_out.names[i]}, score") for i in order]
    assert places == sorted(places)


def test_large_frames_are_shrunk_for_the_page(hetmm, tiny, tmp_path):
    """A frame of a large camera, grey as well, is shown at 300 px with its proportions kept."""
    rng = np.random.default_rng(0)
    for number in range(2):
        write_png(tmp_path / f"{number}.png", rng.integers(0, 255, (400, 1000)).astype(np.uint8))
    page, _ = reported(calibrated(hetmm, References(references_from(tmp_path)), tiny), tmp_path / "made")
    assert {picture.shape for picture in page.pictures()} == {(120, 300, 3)}


def test_frames_held_back_are_shown_too(mean_picture, references, tmp_path):
    """Frames held back by the split rule are no references, yet the page shows them, and claims no leave-one-out."""
    page, _ = reported(calibrated(mean_picture, references, {}), tmp_path)
    assert "8 references" in page.text
    assert f"{references.samples[0].name}, score" in page.text
    assert "not a theorem" not in page.text


def test_outside_text_is_shown_and_never_obeyed(hetmm, tiny, references, tmp_path):
    """A file name or statistic made of tags appears as text: no element comes from it."""
    name = "<img src=x onerror=alert(1)> & \"quote'.png"
    (tmp_path / "set").mkdir()
    for number, target in enumerate([name, "plain.png"]):
        write_png(tmp_path / "set" / target, references[number].image)
    hostile = calibrated(hetmm, References(references_from(tmp_path / "set")), tiny)
    hostile = replace(hostile, content=replace(hostile.content, statistics={"<b>key": ["</td><script>x</script>"]}))
    page, _ = reported(hostile, tmp_path / "made")
    assert f"{name}, score" in page.text
    assert "<b>key" in page.text
    assert "</td><script>x</script>" in page.text
    assert not page.of("script")
    assert not page.of("img", src="x")


def test_same_calibration_gives_the_same_bytes(calibration, tmp_path):
    """The page holds no clock and no chance, so it can be compared and archived."""
    for folder in ("one", "two"):
        reported(calibration, tmp_path / folder)
    first, second = ((tmp_path / folder / "out" / "report.html").read_bytes() for folder in ("one", "two"))
    assert first == second


def test_folder_that_cannot_be_written_is_a_sentence(calibration, tmp_path):
    """A path below a file is the caller's mistake, and the message names it."""
    _, template = reported(calibration, tmp_path)
    with pytest.raises(ConfigError, match=r"cannot write the report .*report\.html/below\.html"):
        write_report(calibration, template, tmp_path / "out" / "report.html" / "below.html")


def drawing(scores, threshold, damaged):
    """Draw, and check that everything lies inside the drawing."""
    page = Page(histogram(scores, threshold, damaged))
    numbers = [float(each[key]) for each in page.of("rect") for key in ("x", "y", "width", "height")]
    numbers += [float(each[key]) for each in page.of("line") for key in ("x1", "x2", "y1", "y2")]
    assert all(0 <= number <= max(WIDTH, HEIGHT) for number in numbers)
    assert 3 <= len(page.of("text", **{"text-anchor": "middle"})) <= 9  # the numbers on the axis
    return page


def counted(page):
    """Return how many frames each bar of a drawing stands for, by the text it shows under the pointer."""
    return [int(count) for count in re.findall(r"(\d+) frames, ", page.text)]


@pytest.mark.parametrize(
    ("scores", "threshold", "damaged"),
    [
        ([0.5], 0.5, [0.9]),
        ([0.0, 0.0, 0.0], 0.0, []),
        ([0.2] * 9, 0.2, [0.2]),
        (np.linspace(-3, -1, 40).tolist(), -1.0, [-0.5, 4.0]),
        (np.random.default_rng(0).gamma(2, 1e-5, 500).tolist(), None, [1.0, 2.0]),
        ([1e6, 2e6, 3e6], 3e6, [2.5e6]),
    ],
)
def test_every_score_is_in_one_bar(scores, threshold, damaged):
    """One score or five hundred, equal, negative, tiny or huge: the bars add up and stay inside the drawing."""
    page = drawing(scores, threshold, damaged)
    assert sum(counted(page)) == len(scores)
    assert len(page.of("polygon")) == len(damaged)
    assert len(page.of("line", class_="cut")) == (threshold is not None)


def test_threshold_line_stands_where_the_bars_say():
    """Threshold, bars and damage share one axis: the line is right of the bars below it and left of those above."""
    page = drawing([1.0, 1.1, 1.2, 2.0, 2.1], 1.6, [1.8])
    (line,) = page.of("line", class_="cut")
    at = float(line["x1"])
    bars = list(zip(page.of("rect"), counted(page), strict=True))
    assert sum(count for bar, count in bars if float(bar["x"]) + float(bar["width"]) < at) == 3
    assert sum(count for bar, count in bars if float(bar["x"]) > at) == 2
    tip = float(page.of("polygon")[0]["points"].split(",")[0])
    assert tip > at


def test_far_damage_does_not_squeeze_the_bars():
    """Damage a hundred times above the good parts becomes an arrow with its score in words."""
    near, far = (drawing([1.0, 1.2, 1.4], 1.4, [score]) for score in (2.0, 140.0))
    assert float(far.of("rect")[0]["width"]) > 0.8 * float(near.of("rect")[0]["width"])
    assert "damage at 140" in far.text
    assert "damage at" not in near.text
