"""The prn detector through its contract: content, graph, bank, held-out scores, hot update, presets, export."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from edgead import ConfigError, DetectorContext, Frame, TemplateError
from plugins.prn import Prn, examination, training
from plugins.prn.foreground import find_foregrounds
from plugins.prn.settings import PrnSettings, score_pixels_of
from plugins.training.sparing import spared
from runtime.engines.lint import lint
from runtime.station.presets import load_preset
from tests.plugins.prn_plates import PLATES, calibrated, plate, references, short, spoilt

#: The network is trained once; a busy machine takes its time.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def content():
    """Return what prn learns from the plates, in one thread."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plan_of", lambda *given: replace(short(*given), rate=4e-3, pictures=48))
        patch.setattr(examination, "DAMAGED", 8)
        return calibrated(references(), train_steps=45)


def inspect(content, image, bank=None, detector=None):
    """Return (map [S, S], score) of one grey image."""
    detector = detector or Prn()
    graph = detector.graph(content, (*image.shape, 1))
    frames = torch.from_numpy(image)[None, :, :, None]
    with torch.inference_mode():
        anomaly_map, score = graph(frames, *(bank or detector.bank(content)).values())
    return anomaly_map[0].numpy(), float(score[0])


def test_a_dark_square_is_the_largest_anomaly(content):
    """Damage on plates it has not seen outscores good plates, and most of the map's weight lies on it."""
    good = [inspect(content, plate(700 + number))[1] for number in range(4)]
    for number in range(4):
        image, mask = spoilt(number)
        anomaly_map, score = inspect(content, image)
        assert score > max(good)
        rows = np.arange(128) * 100 // 128
        there = mask[rows]
        assert anomaly_map[there].mean() > anomaly_map[~there].mean() + 0.2


def test_training_raises_the_held_out_score(content):
    """A short training tells planted defects on references it has not seen far better than the start does."""
    examined = content.statistics["training"]["examined"]
    assert examined[0][0] == 0
    assert max(score for _, score in examined[1:]) > 2 * examined[0][1]
    assert content.statistics["unseen"] == spared(PLATES)


def test_the_answer_has_the_contracts_form(content):
    """Map float32 in 0..1 of the size in the content, the score the mean of the largest pixels (R-10)."""
    anomaly_map, score = inspect(content, plate(1))
    assert anomaly_map.shape == content.map_shape == (128, 128)
    assert anomaly_map.dtype == np.float32
    assert 0 <= anomaly_map.min() < anomaly_map.max() <= 1
    assert score == pytest.approx(np.sort(anomaly_map.ravel())[-25:].mean(), rel=1e-5)
    values = torch.arange(1.0, 257) / 256
    assert float(values.topk(100).values.mean()) == pytest.approx(0.806640625)
    assert score_pixels_of(PrnSettings()) == 100


def test_grey_and_colour_frames_of_one_content_agree(content):
    """A grey frame and the same in three equal channels get the same answer; other shapes share the network."""
    detector, image = Prn(), plate(3)
    colour = detector.graph(content, (*image.shape, 3))
    frames = torch.from_numpy(np.repeat(image[:, :, None], 3, 2))[None]
    with torch.inference_mode():
        found = colour(frames, *detector.bank(content).values())[0][0].numpy()
    np.testing.assert_allclose(found, inspect(content, image, detector=detector)[0], atol=1e-5)
    assert detector.graph(content, (64, 64, 1)).segmentation is colour.segmentation


def test_the_graph_exports_whole_and_converts(content):
    """R-17: torch.export takes the graph strictly, the program agrees to 1e-4, all of it converts."""
    detector, image = Prn(), plate(5)
    graph, bank = detector.graph(content, (*image.shape, 1)), tuple(detector.bank(content).values())
    frames = torch.from_numpy(image)[None, :, :, None]
    with torch.no_grad():
        program = torch.export.export(graph, (frames, *bank), strict=True)
        torch.testing.assert_close(program.module()(frames, *bank), graph(frames, *bank), rtol=0, atol=1e-4)
    assert lint(program) == []
    groups = [
        node.args[6]
        for node in program.graph.nodes
        if "conv2d" in str(node.target) and len(node.args) > 6 and "network" in str(node.meta["nn_module_stack"])
    ]
    assert groups, "the fusion's convolutions are grouped"
    assert max(groups) <= 512


def test_the_bank_has_room_and_swaps_by_values_only(content):
    """Capacity is that of the content; other prototypes change the answer and no shape."""
    detector = Prn()
    bank = detector.bank(content)
    assert {len(tensor) for tensor in bank.values()} == {content.capacity}
    assert content.capacity == content.valid + 2
    other = {name: tensor + 1.0 if name.startswith("prototypes") else tensor for name, tensor in bank.items()}
    assert not np.array_equal(inspect(content, plate(1), other)[0], inspect(content, plate(1), bank)[0])


def test_only_references_that_nothing_saw_can_be_left_out(content):
    """Their bank is the bank as it is; one that was learnt cannot be unlearnt."""
    detector = Prn()
    bank = detector.bank(content)
    unseen = detector.unseen(content)
    assert unseen
    assert detector.leave_out(content, bank, unseen[0]) is bank
    assert detector.leave_out(content, bank, next(n for n in range(PLATES) if n not in unseen)) is None


def test_inserted_frames_are_nearer_afterwards(content):
    """A new kind of good plate becomes a prototype: settings and network stay, and no prototype is lost."""
    detector = Prn()
    new = Frame(255 - plate(40), "good/new")
    longer = detector.extend(content, [new], DetectorContext())
    assert longer.valid == content.valid + 1
    assert longer.capacity == content.capacity
    assert longer.statistics["references"] == PLATES + 1
    assert (longer.settings, longer.weights, longer.map_shape) == (content.settings, content.weights, content.map_shape)
    for name, array in content.tensors.items():
        if name.startswith("network."):
            np.testing.assert_array_equal(array, longer.tensors[name])
    np.testing.assert_array_equal(longer.tensors["counts.stage1"], [*content.tensors["counts.stage1"], 1])
    again = detector.extend(longer, [new], DetectorContext())
    assert again.valid == longer.valid
    assert again.tensors["counts.stage1"][-1] == 2
    np.testing.assert_allclose(again.tensors["prototypes.stage1"], longer.tensors["prototypes.stage1"], atol=1e-5)


def test_room_grows_where_it_is_used_up(content):
    """More new kinds than there is room for make the bank longer, and the graph takes it."""
    detector = Prn()
    kinds = [Frame(np.full((100, 128), level, np.uint8), f"good/{level}") for level in (0, 90, 255)]
    longer = detector.extend(content, kinds, DetectorContext())
    assert longer.valid == longer.capacity == content.valid + 3
    assert inspect(longer, plate(1))[0].shape == (128, 128)


def test_templates_that_do_not_fit_are_refused(content):
    """Other weights, unresolved settings and a network of another width are errors of the template."""
    detector = Prn()
    shape = (100, 128, 1)
    with pytest.raises(TemplateError, match="calibrate again"):
        detector.graph(replace(content, weights={"efficientnet_lite0": "0" * 64}), shape)
    with pytest.raises(TemplateError, match="not resolved"):
        detector.graph(replace(content, settings={**content.settings, "kind": "auto"}), shape)
    with pytest.raises(TemplateError, match="does not fit its settings"):
        detector.graph(replace(content, settings={**content.settings, "width": 8}), shape)
    with pytest.raises(TemplateError, match="at most 0 prototypes"):
        detector.bank(replace(content, capacity=0, valid=0))
    network = {name: each for name, each in content.tensors.items() if name.startswith("network.")}
    with pytest.raises(TemplateError, match="found none"):
        detector.bank(replace(content, tensors=network))


def test_no_reference_is_refused():
    """The error says what is missing."""
    with pytest.raises(ConfigError, match="at least one good frame, found none"):
        Prn().calibrate([], PrnSettings(), DetectorContext())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image_size": 200}, "multiple of 128"),
        ({"backbone": "densenet201"}, "efficientnet_lite0, resnet18"),
        ({"wide": 1}, "wide"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, says):
    """The message names the setting and what it may be."""
    with pytest.raises(ValidationError, match=says):
        PrnSettings.model_validate(given)


def test_presets_spell_out_every_setting():
    """The small preset is the defaults, the full one the paper's network and training."""
    small, full = (load_preset(name) for name in ("prn", "prn-full"))
    for preset in (small, full):
        assert preset.detector == "prn"
        assert preset.settings.keys() == PrnSettings.model_fields.keys()
    assert PrnSettings.model_validate(small.settings) == PrnSettings()
    settings = PrnSettings.model_validate(full.settings)
    assert (settings.backbone, settings.width, settings.blocks, settings.train) == ("resnet18", 64, 3, "full")


def test_parts_are_told_from_their_background():
    """Discs on a bright ground are the part, grown a little; a surface that fills the frame has no foreground."""
    at = np.hypot(*(np.mgrid[:128, :128] - 64))
    discs = [np.where(at < 40 + number, 60, 200).astype(np.uint8) for number in range(4)]
    found = find_foregrounds(discs)
    assert found.masks is not None
    assert found.masks[0][64, 64]
    assert not found.masks[0][5, 5]
    assert found.masks[0].sum() == pytest.approx(np.pi * 45**2, rel=0.05)
    nothing = find_foregrounds([np.full((128, 128), 90, np.uint8)])
    assert nothing.masks is None
    assert "the part would take" in nothing.reason
    unsteady = find_foregrounds([np.where(at < radius, 60, 200).astype(np.uint8) for radius in (15, 30, 60)])
    assert unsteady.masks is None
    assert "vary" in unsteady.reason
