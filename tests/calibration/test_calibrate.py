"""Calibration: thresholds keep their promise on frames the bank has not seen, and a template can be reproduced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.calibrate import (
    EXAMPLES,
    CalibrationOptions,
    calibrate,
    plant_damage,
    resolve_settings,
    save,
)
from calibration.held_out import spread
from calibration.references import References
from calibration.threshold import conformal_threshold
from plugins.hetmm import Hetmm
from runtime.engines.engine import Engine
from runtime.errors import ConfigError
from runtime.images import read_image
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity

OPTIONS = CalibrationOptions(false_reject=0.2, threads=1)


def silent(_done, _total, _what):
    """Report progress to nobody."""


def calibrated(detector, references, given, options=OPTIONS, progress=silent):
    """Calibrate ``detector`` with the settings ``given``."""
    return calibrate(detector, references, resolve_settings(detector, given), options, progress)


@pytest.fixture(scope="module")
def calibration(hetmm, references, tiny):
    """Return HETMM calibrated on the ten references."""
    return calibrated(hetmm, references, tiny)


def stored(calibration, folder):
    """Store a calibration as a template."""
    identity = DetectorIdentity(name="hetmm", version="1", distribution="edgead")
    return save(calibration, Store.create(folder), product="bracket", detector=identity, who="tests", why="")


def test_thresholds_are_the_conformal_ones_of_the_held_out_frames(calibration):
    """Image and pixel threshold are the stated order statistic of scores and of map peaks, with its bound."""
    found, held_out = calibration.thresholds, calibration.held_out
    image, pixel = (conformal_threshold(values, 0.2) for values in (held_out.scores, held_out.peaks))
    assert (found.image, found.pixel) == (image.value, pixel.value)
    assert (found.target, found.bound, found.held_out) == (0.2, image.bound, 10)
    assert found.rule == "split-conformal, leave-one-out"


def test_held_out_scores_are_those_of_banks_without_the_frame(hetmm, calibration, references, tiny):
    """Each held-out score is what a detector answers that never saw that reference."""
    assert calibration.held_out.names == tuple(sample.name for sample in references.samples)
    for index in (0, 4, 9):
        others = calibrated(hetmm, references.without([index]), tiny, replace(OPTIONS, held_out=1))
        expected = Engine(hetmm, others.content, threads=1).infer(references[index].image)
        assert calibration.held_out.scores[index] == pytest.approx(expected.score, abs=2e-6)
        assert calibration.held_out.peaks[index] == pytest.approx(expected.anomaly_map.max(), abs=2e-6)


def test_maps_are_kept_of_the_highest_scoring_frames_only(hetmm, calibration, references):
    """However many frames are held out, the maps in memory are those that the report shows."""
    held_out = calibration.held_out
    highest = sorted(range(10), key=lambda index: -held_out.scores[index])[:EXAMPLES]
    assert held_out.maps.keys() == set(highest)
    engine = Engine(hetmm, calibration.content, threads=1)
    for index, anomaly_map in held_out.maps.items():
        expected = engine.infer(references[index].image, hetmm.leave_out(engine.content, engine.bank, index))
        np.testing.assert_array_equal(anomaly_map, expected.anomaly_map)


def test_good_parts_pass_and_damaged_ones_do_not(hetmm, calibration, dataset):
    """New good parts stay below the threshold of the largest held-out score; planted damage is far above it."""
    cut = max(calibration.held_out.scores)
    engine = Engine(hetmm, calibration.content, threads=1)
    good = [read_image(sample.path) for sample in dataset.test if not sample.is_defect]
    assert len(good) == 4
    for image in good:
        assert engine.infer(image).score <= 1.3 * cut
        assert engine.infer(plant_damage(image)).score > 2 * cut


def test_golden_frames_are_answered_again_bit_for_bit(calibration, references, tmp_path):
    """A fresh detector on the stored template gives the kept maps and scores exactly: both verdicts are among them."""
    template = stored(calibration, tmp_path / "store")
    engine = Engine(Hetmm(), template.content(), threads=1)
    golden = template.golden()
    assert len(golden) == 6
    for each in golden:
        found = engine.infer(each.frame)
        assert found.anomaly_map.tobytes() == each.anomaly_map.tobytes()
        assert np.float32(found.score) == np.float32(each.score)
    cut = calibration.thresholds.image
    assert [each.score > cut for each in golden] == [False] * 3 + [True] * 3
    assert np.array_equal(golden[0].frame, references[0].image)
    assert np.array_equal(golden[2].frame, references[9].image)


def test_template_keeps_what_the_calibration_found(calibration, references, tmp_path):
    """Thresholds, held-out scores, digests of every reference and weights stand in the manifest."""
    manifest = stored(calibration, tmp_path / "store").manifest
    assert manifest.thresholds == calibration.thresholds
    assert manifest.held_out_scores == calibration.held_out.scores
    assert [(each.name, each.sha256) for each in manifest.references] == list(references.digests)
    assert manifest.weights == calibration.content.weights
    assert (manifest.bank.valid, manifest.map_shape) == (10, (64, 64))


def test_same_inputs_give_the_same_template(references, tiny, calibration, tmp_path):
    """Calibrating again, with a detector of its own, makes the template with the same id."""
    again = calibrated(Hetmm(), References(references.samples), tiny)
    assert stored(again, tmp_path / "again").digest == stored(calibration, tmp_path / "store").digest


def test_order_of_the_references_changes_no_threshold(hetmm, calibration, references, tiny):
    """Taken in reverse, the references give the same held-out scores frame by frame and the same thresholds."""
    reverse = calibrated(hetmm, references.only(range(9, -1, -1)), tiny)
    assert reverse.held_out.names == calibration.held_out.names[::-1]
    assert reverse.held_out.scores == pytest.approx(calibration.held_out.scores[::-1], abs=1e-6)
    assert reverse.thresholds.image == pytest.approx(calibration.thresholds.image, abs=1e-6)
    assert reverse.thresholds.pixel == pytest.approx(calibration.thresholds.pixel, abs=1e-6)


def test_single_reference_calibrates_without_a_threshold(hetmm, mean_picture, references, tiny, tmp_path):
    """One reference cannot be held out: the template is made, and says that every verdict is NotDecidable."""
    for detector, given in ((hetmm, tiny), (mean_picture, {})):
        found = calibrated(detector, references.only([0]), given)
        assert (found.thresholds.image, found.thresholds.pixel, found.thresholds.bound) == (None, None, None)
        assert (found.thresholds.held_out, found.thresholds.rule) == (0, "none")
        assert found.held_out.scores == ()
        assert found.content.valid == 1
        assert len(found.golden) == 2
    assert stored(found, tmp_path / "store").manifest.thresholds.image is None


def test_detector_without_leave_out_holds_every_fifth_reference_back(mean_picture, references):
    """Without leave_out the bank is built from the rest, and only the frames held back are scored."""
    found = calibrated(mean_picture, references, {})
    assert found.held_out.names == tuple(references.samples[index].name for index in (0, 5))
    kept = [references.samples[index] for index in (1, 2, 3, 4, 6, 7, 8, 9)]
    assert found.references.samples == tuple(kept)
    assert found.content.valid == 8
    assert found.thresholds.rule == "split-conformal, split"
    engine = Engine(mean_picture, found.content, threads=1)
    scores = [engine.infer(references[index].image).score for index in (0, 5)]
    assert found.held_out.scores == tuple(scores)
    assert found.thresholds.image == conformal_threshold(scores, 0.2).value
    assert np.array_equal(found.golden[0].frame, references[1].image)


def test_no_more_frames_are_held_out_than_asked_for(hetmm, mean_picture, references, tiny):
    """The limit holds for both rules; the frames taken are spread over the references."""
    few = calibrated(hetmm, references, tiny, replace(OPTIONS, held_out=3))
    assert few.held_out.names == tuple(references.samples[index].name for index in (0, 4, 9))
    one = calibrated(mean_picture, references, {}, replace(OPTIONS, held_out=1))
    assert one.held_out.names == (references.samples[0].name,)
    assert one.content.valid == 9
    none = calibrated(mean_picture, references, {}, replace(OPTIONS, held_out=0))
    assert none.thresholds.image is None
    assert none.content.valid == 10


def test_progress_is_told_for_every_stage(hetmm, references, tiny):
    """Every stage counts up to its total, so a bar drawn from it ends full."""
    heard = {}

    def hear(done, total, what):
        heard.setdefault(what, []).append((done, total))

    calibrated(hetmm, references.only([0, 1, 2]), tiny, progress=hear)
    assert heard == {what: [(1, 3), (2, 3), (3, 3)] for what in ("extracting references", "scoring held-out frames")}


def test_wrong_settings_name_every_fault_and_what_is_known(hetmm):
    """All faults of the settings are told in one sentence, with the keys there are."""
    with pytest.raises(ConfigError, match=r"hetmm settings: .*image_size: .*colour: .*settings are: .*blur_sigma"):
        resolve_settings(hetmm, {"image_size": 1, "colour": "blue"})


@pytest.mark.parametrize("shape", [(80, 120), (120, 80, 3), (3, 5)])
def test_planted_damage_is_a_square_of_an_eighth_in_the_middle(shape):
    """Damage inverts one square of the picture, leaves the rest and the original alone."""
    image = np.random.default_rng(0).integers(0, 120, shape).astype(np.uint8)
    before = image.copy()
    damaged = plant_damage(image)
    changed = np.argwhere((damaged != image).reshape(*shape[:2], -1).any(axis=2))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    side = max(1, min(shape[:2]) // 8)
    assert (bottom - top + 1, right - left + 1) == (side, side)
    assert abs(top + bottom + 1 - shape[0]) <= 1
    assert abs(left + right + 1 - shape[1]) <= 1
    assert len(changed) == side**2
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("count", "most", "indices"),
    [(0, 3, []), (1, 3, [0]), (3, 5, [0, 1, 2]), (10, 3, [0, 4, 9]), (5, 0, []), (7, 1, [0])],
)
def test_spread_takes_the_ends_and_between(count, most, indices):
    """Frames are picked evenly, never twice, and never more than there are."""
    assert spread(count, most) == indices
