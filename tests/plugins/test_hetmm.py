"""HETMM against its float64 reference: map, score, and what the bank means."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from edgead import ConfigError, DetectorContext, Frame, TemplateError
from plugins.backbones import normaliser
from plugins.hetmm import Hetmm
from plugins.hetmm.graph import Matching
from plugins.hetmm.settings import HetmmSettings
from runtime.engines.engine import Engine

SMALL = ((5, 3), (3, 3), (3, 1))
TINY = {"image_size": 64, "windows": SMALL, "blur_sigma": 2.0, "blur_kernel": 9}


@pytest.fixture(scope="module")
def detector():
    """Return one detector for the module: its backbone is loaded once."""
    return Hetmm()


def learnt(detector, frames, **settings):
    """Calibrate with tiny settings; ``settings`` override them."""
    return detector.calibrate(frames, HetmmSettings(**TINY | settings), DetectorContext())


def inspected(detector, content, frame, bank=None):
    """Return (map, score) of one frame."""
    result = Engine(detector, content, threads=1).infer(frame.image, bank)
    return result.anomaly_map, result.score


def assert_same_answer(found, expected):
    """Compare two answers to rounding of float32 sums."""
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=2e-6)
    assert found[1] == pytest.approx(expected[1], abs=2e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"windows": "d0"},
        {"bank_dtype": "float32", "windows": ((1, 5), (3, 0), (0, 3)), "weight": (0.5, 2.0, 1.0)},
        {"score": "smoothed_max", "spare": 2, "alpha": (0.1, 0.9, 0.7)},
        {"score": "max"},
        {"score_pixels": 40},
        {"blur_sigma": 0, "image_size": 50},  # feature maps of 13, 7 and 4: no whole number of tiles
        {"layers": ("stage2",), "windows": ((3, 3),), "image_size": 40},
    ],
)
def test_map_and_score_are_those_of_the_reference(detector, atmm, frames, damaged, settings):
    """From the backbone's taps on, map and score are the definition's, computed in float64 from the stored bank."""
    content = learnt(detector, frames[:3], **settings)
    graph = detector.graph(content, damaged.image.shape)
    with torch.inference_mode():
        planes = graph.resize(torch.from_numpy(damaged.image)[None])
        taps = graph.features.backbone(graph.features.normalise(planes))
    expected = atmm.answer([tap[0].numpy() for tap in taps], list(content.tensors.values()), dict(content.settings))
    assert expected[1] > 0.05
    assert_same_answer(inspected(detector, content, damaged), expected)


def test_layers_are_fused_as_specified(atmm):
    """I-7 and I-8: constant distances mix and add up to 0.444; maps are enlarged with aligned corners."""

    class Constant(torch.nn.Module):
        def __init__(self, ahead, back):
            super().__init__()
            self.found = (torch.tensor(ahead), torch.tensor(back))

        def forward(self, *_):
            return self.found

    settings = HetmmSettings(
        image_size=32, windows=SMALL, alpha=(0.5, 0.7, 0.3), weight=(1, 0.8, 0.3), layers=("stage1", "stage2", "stage3")
    )
    taps = (torch.zeros(1),) * 3
    matching = Matching(settings)
    matching.matches = torch.nn.ModuleList(
        Constant(torch.full((1, 4, 4), ahead).tolist(), torch.full((1, 4, 4), back).tolist())
        for ahead, back in ((0.1, 0.2), (0.3, 0.1), (0.2, 0.4))
    )
    anomaly_map, score = matching(taps, taps)
    torch.testing.assert_close(anomaly_map, torch.full((1, 32, 32), 0.444), rtol=0, atol=1e-6)
    assert score.item() == pytest.approx(0.444, abs=1e-6)

    corners = [[[0.0, 0.4], [0.2, 1.0]]]
    np.testing.assert_allclose(
        atmm.upsample(np.array(corners[0]), 4, 4)[1], [0.066667, 0.244444, 0.422222, 0.6], atol=1e-6
    )
    unsmoothed = Matching(settings.model_copy(update={"blur_sigma": 0.0}))
    unsmoothed.matches = torch.nn.ModuleList([Constant(corners, corners), *list(matching.matches)[1:]])
    rest = 0.8 * (0.7 * 0.3 + 0.3 * 0.1) + 0.3 * (0.3 * 0.2 + 0.7 * 0.4)
    enlarged = unsmoothed(taps, taps)[0][0].numpy() - rest
    np.testing.assert_allclose(enlarged, atmm.upsample(np.array(corners[0]), 32, 32), rtol=0, atol=1e-6)
    assert [enlarged[0, 0], enlarged[0, -1], enlarged[-1, 0]] == pytest.approx([0, 0.4, 0.2], abs=1e-6)


def test_pixels_are_normalised_with_the_numbers_of_imagenet():
    """I-17: green byte 255 becomes 2.428571 and byte 0 becomes -2.035714 for a network of the specification."""
    levels = normaliser("wide_resnet101_2")(torch.tensor([0.0, 255.0]).expand(1, 3, 1, 2))
    assert levels[0, 1, 0].tolist() == pytest.approx([-2.035714, 2.428571], abs=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_reference_is_answered_with_zero(detector, frames, dtype):
    """I-10: a frame of the bank has map 0, to rounding: 2^-11 a layer for float16 sheets."""
    content = learnt(detector, frames[:3], bank_dtype=dtype)
    anomaly_map, score = inspected(detector, content, frames[1])
    limit = 1e-6 if dtype == "float32" else 2**-11
    assert np.abs(anomaly_map).max() <= limit * sum(content.settings["weight"])
    assert score <= limit * sum(content.settings["weight"])


def test_damage_scores_above_good_parts(detector, frames, damaged):
    """A chipped part scores above every good part that is not in the bank."""
    content = learnt(detector, frames[:6])
    worst = max(inspected(detector, content, frame)[1] for frame in frames[6:])
    assert inspected(detector, content, damaged)[1] > 1.1 * worst


@pytest.mark.parametrize(("top", "left"), [(16, 100), (90, 20), (60, 72)])
def test_damage_is_found_where_it_is(detector, frames, top, left):
    """The map's peak lies on the damage, at the same share of the height and of the width as in the frame."""
    image = frames[7].image.copy()
    image[top : top + 16, left : left + 18] = 255 - image[top : top + 16, left : left + 18]
    anomaly_map, _ = inspected(detector, learnt(detector, frames[:6]), Frame(image, "damaged.png"))
    y, x = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert y == pytest.approx((top + 8) / 2, abs=5)  # 128 rows to 64
    assert x == pytest.approx((left + 9) / 2.25, abs=5)  # 144 columns to 64


def test_more_references_never_raise_the_map(detector, frames, damaged):
    """I-9: every added reference can only lower the anomaly map."""
    maps = [inspected(detector, learnt(detector, frames[:count]), damaged)[0] for count in (1, 3, 6)]
    for fewer, more in pairwise(maps):
        assert (more <= fewer + 1e-6).all()
        assert more.mean() < fewer.mean()


def test_spare_room_changes_neither_answer_nor_later_shapes(detector, frames, damaged):
    """Room kept free is invisible in the answer, and inserting into it leaves every bank shape as it was."""
    tight, roomy = (learnt(detector, frames[:3], spare=spare) for spare in (0, 2))
    assert_same_answer(inspected(detector, roomy, damaged), inspected(detector, tight, damaged))
    assert (tight.capacity, roomy.capacity, roomy.valid) == (3, 5, 3)
    grown = detector.extend(roomy, frames[3:5], DetectorContext())
    shapes = [{name: each.shape for name, each in detector.bank(content).items()} for content in (roomy, grown)]
    assert shapes[0] == shapes[1]
    assert_same_answer(inspected(detector, grown, damaged), inspected(detector, learnt(detector, frames[:5]), damaged))


def test_grey_frames_of_any_shape_are_inspected_by_one_engine(detector, frames):
    """Grey and colour, portrait and landscape share one bank: a grey picture answers like its three-channel copy."""
    engine = Engine(detector, learnt(detector, frames[:2]), threads=1)
    grey = frames[0].image.mean(axis=2).astype(np.uint8)
    tall = np.ascontiguousarray(grey.T)
    for image in (grey, tall):
        alone, copied = engine.infer(image), engine.infer(np.repeat(image[:, :, None], 3, axis=2))
        assert alone.anomaly_map.shape == (64, 64)
        assert_same_answer((alone.anomaly_map, alone.score), (copied.anomaly_map, copied.score))


@pytest.mark.parametrize("level", [0, 127, 255])
def test_no_flat_frame_makes_a_number_that_is_not_finite(detector, frames, level):
    """Black, mid-grey (all zeros after normalisation) and white frames are answered, and called anomalous."""
    content = learnt(detector, frames[:2])
    anomaly_map, score = inspected(detector, content, Frame(np.full((96, 90, 3), level, np.uint8), "flat"))
    assert np.isfinite(anomaly_map).all()
    assert score > inspected(detector, content, frames[5])[1]


@pytest.mark.parametrize("spare", [0, 2])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_leaving_out_is_never_having_had(detector, frames, damaged, index, spare):
    """A bank without one reference answers like a bank built without it, for the first, a middle and the last."""
    content = learnt(detector, frames[:5], spare=spare)
    bank = detector.bank(content)
    before = {name: each.clone() for name, each in bank.items()}
    rest = detector.leave_out(content, bank, index)
    others = [frame for number, frame in enumerate(frames[:5]) if number != index]
    for frame in (damaged, frames[index]):
        expected = inspected(detector, learnt(detector, others, spare=spare), frame)
        assert_same_answer(inspected(detector, content, frame, rest), expected)
    assert inspected(detector, content, frames[index], rest)[1] > 0.01
    assert all(torch.equal(bank[name], before[name]) for name in before)
    assert {name: each.shape for name, each in rest.items()} == {name: each.shape for name, each in before.items()}


def test_leaving_out_again_reuses_the_copy_and_restores_what_was_gone(detector, frames):
    """Each call on one bank answers in the same memory, and what it answers does not depend on the calls before."""
    content = learnt(detector, frames[:4], spare=1)
    bank = detector.bank(content)
    first = detector.leave_out(content, bank, 0)
    places = {name: each.data_ptr() for name, each in first.items()}
    for index in (0, 3, 0, 1, 1):
        again = detector.leave_out(content, bank, index)
        fresh = Hetmm().leave_out(content, bank, index)
        assert {name: each.data_ptr() for name, each in again.items()} == places
        assert all(torch.equal(again[name], fresh[name]) for name in bank)


@pytest.mark.parametrize("change", ["another bank", "written to", "inference mode"])
def test_leaving_out_of_a_changed_bank_is_not_answered_from_the_old_copy(detector, frames, change):
    """Another bank, one whose values were changed, or one whose changes torch does not count is copied afresh."""
    content = learnt(detector, frames[:3])
    with torch.inference_mode(change == "inference mode"):
        bank = detector.bank(content)
        detector.leave_out(content, bank, 1)
        if change == "another bank":
            bank = {name: each.neg() for name, each in bank.items()}
        else:
            for each in bank.values():
                each.neg_()
        found = detector.leave_out(content, bank, 2)
        expected = Hetmm().leave_out(content, bank, 2)
    assert all(torch.equal(found[name], expected[name]) for name in bank)


def test_copy_for_leaving_out_goes_with_its_bank(detector, frames):
    """A detector that outlives a calibration does not keep that calibration's bank in memory."""
    content = learnt(detector, frames[:3])
    bank = detector.bank(content)
    copies = [weakref.ref(each) for each in detector.leave_out(content, bank, 1).values()]
    assert all(copy() is not None for copy in copies)
    del bank
    gc.collect()
    assert all(copy() is None for copy in copies)


def test_single_reference_cannot_be_left_out(detector, frames):
    """Without its only reference a bank would be empty: there is no answer to that."""
    content = learnt(detector, frames[:1])
    assert detector.leave_out(content, detector.bank(content), 0) is None


@pytest.mark.parametrize("spare", [0, 1, 4])
def test_extending_equals_calibrating_on_everything(detector, frames, spare):
    """Inserted references leave the bytes that a calibration with the resolved settings on all of them leaves."""
    started = learnt(detector, frames[:3], spare=spare)
    grown = detector.extend(started, frames[3:5], DetectorContext())
    whole = learnt(detector, frames[:5], **dict(started.settings))
    assert grown.settings == whole.settings
    assert list(grown.tensors) == list(whole.tensors)
    for name, expected in whole.tensors.items():
        assert grown.tensors[name].dtype == expected.dtype
        assert grown.tensors[name].tobytes() == expected.tobytes()
    assert (grown.valid, grown.capacity) == (5, max(3 + spare, 5))
    assert grown.weights == whole.weights


def test_template_of_other_weights_is_refused(detector, frames):
    """Features of one network never meet a bank made with another: graph and extend say what to do."""
    content = replace(learnt(detector, frames[:2]), weights={"efficientnet_lite0": "0" * 64})
    with pytest.raises(TemplateError, match=r"made with efficientnet_lite0 weights 0{64}.*calibrate again"):
        detector.graph(content, (128, 144, 3))
    with pytest.raises(TemplateError, match="calibrate again"):
        detector.extend(content, frames[:1], DetectorContext())


def test_damaged_content_is_refused(detector, frames):
    """A bank with another number of sheets, or settings still to be chosen, cannot be inspected with."""
    content = learnt(detector, frames[:3])
    with pytest.raises(TemplateError, match=r"expected 2 sheets in sheets\.stage1, found 3"):
        detector.bank(replace(content, valid=2))
    with pytest.raises(TemplateError, match="not resolved"):
        detector.graph(replace(content, settings={**content.settings, "windows": "auto"}), (128, 144, 3))


def test_no_reference_is_an_error_of_the_caller(detector):
    """Calibrating on nothing is refused by a sentence."""
    with pytest.raises(ConfigError, match="at least one good frame, found none"):
        learnt(detector, [])


@pytest.mark.parametrize("size", [64, 256, 512])
def test_a_defect_of_one_feature_pixel_keeps_most_of_its_peak(size):
    """The default score of a map with one anomalous stride-4 pixel is more than half its value, at any image size."""
    matching = Matching(HetmmSettings(image_size=size, windows=SMALL, alpha=(1, 1, 1), weight=(1, 1, 1)))
    spot = torch.zeros(1, size // 4, size // 4)
    spot[0, size // 8, size // 8] = 1.0

    class Found(torch.nn.Module):
        def __init__(self, distance):
            super().__init__()
            self.distance = distance

        def forward(self, *_):
            return self.distance, torch.zeros_like(self.distance)

    matching.matches = torch.nn.ModuleList(Found(each) for each in (spot, 0 * spot, 0 * spot))
    taps = (torch.zeros(1),) * 3
    _, score = matching(taps, taps)
    assert 0.5 < score.item() < 1
