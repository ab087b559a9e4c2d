"""Evaluation: the published measures are those of the scores and maps written out, and only what is known counts."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from calibration.calibrate import CalibrationOptions, calibrate, resolve_settings
from calibration.dataset import read_dataset
from calibration.evaluate import evaluate, measure, write_maps, write_scores
from calibration.masks import resize_mask
from calibration.metrics import pro
from runtime.engines.engine import Engine
from runtime.errors import ConfigError


def silent(_done, _total, _what):
    """Report progress to nobody."""


@pytest.fixture(scope="module")
def engine(hetmm, references, tiny):
    """Return an engine with a template of the ten references."""
    options = CalibrationOptions(held_out=1, threads=1)
    content = calibrate(hetmm, references, resolve_settings(hetmm, tiny), options, silent).content
    return Engine(hetmm, content, threads=1)


@pytest.fixture(scope="module")
def evaluation(engine, dataset):
    """Return the evaluation of the whole test set."""
    return evaluate(engine, dataset, silent)


@pytest.fixture
def copied(dataset, tmp_path):
    """Return the root of a copy of the set, to be changed."""
    return shutil.copytree(dataset.root, tmp_path / "set")


def test_image_auroc_is_the_one_of_the_scores(evaluation, dataset):
    """Every test image counts once, defect or good, with the score the engine gave."""
    labels = [sample.label != "good" for sample in dataset.test]
    scores = [each.score for each in evaluation.scored]
    assert [each.sample for each in evaluation.scored] == list(dataset.test)
    assert evaluation.overall.n == len(dataset.test)
    assert evaluation.overall.image_auroc == pytest.approx(roc_auc_score(labels, scores))
    assert evaluation.overall.image_auroc > 0.8


def test_score_is_the_one_of_the_line(evaluation, engine, dataset):
    """The evaluation scores with the call the worker uses: nothing is rescaled by the test set."""
    from runtime.images import read_image

    for sample, each in list(zip(dataset.test, evaluation.scored, strict=True))[::5]:
        found = engine.infer(read_image(sample.path))
        assert each.score == found.score
        assert np.array_equal(each.anomaly_map, found.anomaly_map)


def test_pixel_measures_are_those_of_all_pixels_at_map_size(evaluation, dataset):
    """Pixel AUROC and AP agree with scikit-learn on maps and masks of map size; PRO is the metric's own."""
    masks = []
    for sample in dataset.test:
        drawn = np.zeros((128, 128), bool)
        if sample.is_defect:
            drawn = cv2.imread(str(sample.mask_path), cv2.IMREAD_GRAYSCALE) > 127
        masks.append(resize_mask(drawn, (64, 64)))
    maps = [each.anomaly_map for each in evaluation.scored]
    truth, values = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    pixels = evaluation.overall.pixels
    assert pixels.auroc == pytest.approx(roc_auc_score(truth, values))
    assert pixels.ap == pytest.approx(average_precision_score(truth, values))
    assert pixels.pro == pro(maps, masks)
    assert evaluation.overall.as_json() == {
        "n": len(dataset.test),
        "image_auroc": evaluation.overall.image_auroc,
        "pixel_auroc": pixels.auroc,
        "pixel_ap": pixels.ap,
        "pro": pixels.pro,
    }


def test_each_defect_class_is_measured_against_all_good_images(evaluation, dataset):
    """Every class has its own measures, over its images and every good one."""
    classes = {sample.label for sample in dataset.test} - {"good"}
    assert evaluation.per_class.keys() == classes
    for label, found in evaluation.per_class.items():
        part = [each for each in evaluation.scored if each.sample.label in (label, "good")]
        assert found.n == len(part) == 6
        labels, scores = [each.sample.is_defect for each in part], [each.score for each in part]
        assert found.image_auroc == pytest.approx(roc_auc_score(labels, scores))
        assert found.pixels == measure(part).pixels


def test_empty_and_absent_masks_are_left_out_of_the_pixels(evaluation, engine, copied):
    """A defect whose mask is empty or missing counts for the image measure and says nothing about pixels."""
    masks = sorted((copied / "ground_truth" / "chip").iterdir())
    cv2.imwrite(str(masks[0]), np.zeros((128, 128), np.uint8))
    masks[1].unlink()
    found = evaluate(engine, read_dataset(copied), silent)
    assert found.overall.image_auroc == evaluation.overall.image_auroc
    known = [each for each in evaluation.scored if each.sample.label != "chip"]
    assert found.overall.pixels == measure(known).pixels
    assert found.overall.pixels != evaluation.overall.pixels
    assert found.per_class["chip"].pixels is None
    assert found.per_class["chip"].image_auroc == evaluation.per_class["chip"].image_auroc


def test_set_without_masks_has_no_pixel_measures(evaluation, engine, copied):
    """Without ground truth the pixel measures are undefined, not zero, and the image measure is as before."""
    shutil.rmtree(copied / "ground_truth")
    found = evaluate(engine, read_dataset(copied), silent)
    assert found.overall.pixels is None
    assert found.overall.image_auroc == evaluation.overall.image_auroc
    assert found.overall.as_json()["pro"] is None


@pytest.mark.parametrize("kept", ["good", "defects"])
def test_single_class_has_no_auroc(engine, dataset, kept):
    """Only good images, or only defects, say nothing about telling them apart: None, not a crash."""
    test = tuple(sample for sample in dataset.test if sample.is_defect == (kept == "defects"))
    found = evaluate(engine, replace(dataset, test=test), silent)
    assert found.overall.n == len(test)
    assert found.overall.image_auroc is None
    assert (found.overall.pixels is None) == (kept == "good")
    assert bool(found.per_class) == (kept == "defects")


def test_nothing_to_score_is_an_error(engine, dataset):
    """A set with references only is refused by a sentence."""
    with pytest.raises(ConfigError, match="expected test images in test/good and test/<defect>, found none"):
        evaluate(engine, replace(dataset, test=()), silent)


def test_written_scores_are_exact(evaluation, dataset, tmp_path):
    """The score file has one line per image with every digit, readable by any CSV reader."""
    write_scores(evaluation, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["path"], row["label"]) for row in rows] == [(s.name, s.label) for s in dataset.test]
    assert [float(row["score"]) for row in rows] == [each.score for each in evaluation.scored]


def test_written_maps_are_exact(evaluation, tmp_path):
    """Every raw map is a float32 .npy under its image's own path."""
    write_maps(evaluation, tmp_path)
    assert len(list(tmp_path.rglob("*.npy"))) == len(evaluation.scored)
    for each in evaluation.scored:
        found = np.load(tmp_path / each.sample.name.replace(".png", ".npy"), allow_pickle=False)
        assert found.dtype == np.float32
        assert np.array_equal(found, each.anomaly_map)


def test_latency_is_measured_per_image(evaluation):
    """Each image has its own milliseconds, and percentiles are over them."""
    latencies = [each.latency_ms for each in evaluation.scored]
    assert min(latencies) > 0
    assert evaluation.latency_ms(0) == min(latencies)
    assert evaluation.latency_ms(100) == max(latencies)
