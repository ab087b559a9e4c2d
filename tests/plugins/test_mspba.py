"""The mspba detector: its graph is the definition, exports whole, and its bank can be left out of and extended."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgead import ConfigError, DetectorContext, Frame, TemplateError
from plugins.mspba import Mspba, training
from plugins.mspba.coreset import SAME, additions, cover, k_centre
from plugins.mspba.embedding import Resizes
from plugins.mspba.nearest import EMPTY, NearestDistance, distances_to, halves_of
from plugins.mspba.plan import plan_of
from plugins.mspba.settings import SIDES, MspbaSettings
from runtime.engines.lint import lint

SETTINGS = {"train": "none", "image_size": 192, "bank_rows": 200, "spare_rows": 16}


def learnt(frames, **given):
    """Return what the detector learns."""
    return Mspba().calibrate(frames, MspbaSettings(**{**SETTINGS, **given}), DetectorContext())


def shaped(frame):
    """Return a frame as [1, H, W, C]."""
    image = frame.image if frame.image.ndim == 3 else frame.image[:, :, None]
    return torch.tensor(image)[None]


def inspected(content, frame, bank=None):
    """Return (map, score) of one frame."""
    detector, given = Mspba(), shaped(frame)
    graph = detector.graph(content, tuple(given.shape[1:]))
    with torch.inference_mode():
        anomaly_map, score = graph(given, *(bank or detector.bank(content)).values())
    return anomaly_map[0].numpy(), float(score[0])


@pytest.fixture(scope="module")
def content(frames):
    """Return what was learnt from seven parts, without training."""
    torch.set_num_threads(1)
    return learnt(frames[:7])


def test_the_graph_is_the_definition(content, damaged, mspba):
    """Distances, spreading, weighted sum and largest value agree with float64 from the same embeddings."""
    detector, given = Mspba(), shaped(damaged)
    graph = detector.graph(content, tuple(given.shape[1:]))
    with torch.inference_mode():
        embeddings = [each[0].double().numpy() for each in graph.encoder(graph.resize(given))]
    scales = [(scale.side, scale.step) for scale in MspbaSettings(**SETTINGS).scales]
    expected_map, expected_score = mspba.answer(embeddings, content.tensors, 192, scales)
    found_map, found_score = inspected(content, damaged)
    np.testing.assert_allclose(found_map, expected_map, atol=1e-5)
    assert found_score == pytest.approx(expected_score, abs=1e-5)


@pytest.mark.parametrize(
    ("train", "mode"), [("none", "dense"), ("budget", "dense"), pytest.param("budget", "patch", marks=pytest.mark.slow)]
)
def test_the_graph_exports_whole_and_passes_the_lint(frames, damaged, train, mode, monkeypatch):
    """torch.export takes it strictly, every operation has a converter, and the program gives the same answer."""
    monkeypatch.setattr(training, "plan_of", lambda *given: replace(plan_of(*given), batch=4, pictures=1))
    content = learnt(frames[:2], train=train, mode=mode, train_steps=1, bank_rows=32)
    detector, given = Mspba(), shaped(damaged)
    graph = detector.graph(content, tuple(given.shape[1:])).eval()
    bank = tuple(detector.bank(content).values())
    program = torch.export.export(graph, (given, *bank), strict=True)
    assert [str(each) for each in lint(program)] == []
    with torch.inference_mode():
        for one, other in zip(program.module()(given, *bank), graph(given, *bank), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_damage_scores_higher_than_a_good_part(content, frames, damaged):
    """Untrained, a chipped part outscores good ones that the bank has not seen, and the map peaks at the chip."""
    good = max(inspected(content, frame)[1] for frame in frames[7:])
    assert inspected(content, damaged)[1] > good


def test_a_reference_is_at_distance_zero(frames):
    """M-11: with every embedding kept, a frame of the bank has a map of exactly 0."""
    content = learnt(frames[:2], bank_rows=5000)
    assert content.tensors["radius"].tolist() == [0, 0, 0]
    anomaly_map, score = inspected(content, frames[1])
    assert score == 0
    assert not anomaly_map.any()
    assert inspected(content, frames[5])[1] > 0.01


def test_leaving_a_reference_out_equals_never_having_had_its_rows(content, frames):
    """Rows of one reference are void for it alone; the bank handed in stays as it was."""
    detector = Mspba()
    bank = detector.bank(content)
    before = {name: each.clone() for name, each in bank.items()}
    left = detector.leave_out(content, bank, 3)
    tensors = dict(content.tensors)
    for side in SIDES:
        rest = content.tensors[f"owners.{side}"] != 3
        assert 0 < rest.sum() < rest.size
        for name in ("rows", "owners"):
            tensors[f"{name}.{side}"] = content.tensors[f"{name}.{side}"][rest]
    expected = inspected(replace(content, tensors=tensors), frames[3])
    found = inspected(content, frames[3], left)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert found[1] > inspected(content, frames[3])[1]
    assert all(torch.equal(bank[name], each) for name, each in before.items())


def test_a_single_reference_cannot_be_left_out(frames):
    """A bank of one leaves nothing to compare with: None; a number that is no reference is an error."""
    content = learnt(frames[:1])
    detector = Mspba()
    assert detector.leave_out(content, detector.bank(content), 0) is None
    with pytest.raises(ValueError, match=r"reference 0\.\.0"):
        detector.leave_out(content, detector.bank(content), 1)


def test_extending_lowers_scores_and_keeps_shapes(frames, damaged):
    """M-12: a new frame's own score falls to the radius, nobody's rises, parent and shapes stay while it fits."""
    content = learnt(frames[:4], spare_rows=2000)
    before = {name: each.copy() for name, each in content.tensors.items()}
    longer = Mspba().extend(content, [damaged], DetectorContext())
    assert (longer.capacity, longer.valid, longer.statistics["references"]) == (content.capacity, 5, 5)
    assert sum(longer.tensors["owners.64"] == 4) > 0
    assert {name: each.shape for name, each in Mspba().bank(longer).items()} == {
        name: each.shape for name, each in Mspba().bank(content).items()
    }
    for frame in (damaged, frames[6]):
        assert (inspected(longer, frame)[0] <= inspected(content, frame)[0] + 1e-6).all()
    reach = float((content.tensors["radius"] * content.tensors["weights"]).sum())
    assert inspected(longer, damaged)[1] <= reach + 1e-3 < inspected(content, damaged)[1]
    assert all(np.array_equal(content.tensors[name], each) for name, each in before.items())
    left = Mspba().leave_out(longer, Mspba().bank(longer), 4)
    assert inspected(longer, damaged, left)[1] == pytest.approx(inspected(content, damaged)[1], abs=1e-6)


def test_beyond_its_room_a_bank_grows(frames, damaged):
    """Without spare rows an insertion makes the bank larger, and says so by its capacity."""
    content = learnt(frames[:4], spare_rows=0)
    longer = Mspba().extend(content, [damaged], DetectorContext())
    assert (content.capacity, content.valid, longer.capacity, longer.valid) == (4, 4, 5, 5)
    assert len(Mspba().bank(longer)["rows.64"]) == longer.tensors["room"][0] > content.tensors["room"][0]


def test_nearest_is_the_definitions(mspba):
    """Distances agree with a search one by one; void rows are never found; copies are at exactly 0."""
    rng = np.random.default_rng(0)
    rows, queries = (np.tanh(rng.normal(0, 1, (count, 64))).astype(np.float32) for count in (300, 50))
    rows[7], void = queries[3], np.zeros(300, bool)
    void[20:60] = True
    found = NearestDistance()(
        torch.tensor(queries)[None], torch.tensor(rows), halves_of(torch.tensor(rows), torch.tensor(void))
    )
    np.testing.assert_allclose(found[0], mspba.nearest(queries, rows[~void]), atol=1e-5)
    assert found[0, 3] == 0
    assert float(halves_of(torch.tensor(rows), torch.tensor(void))[20]) >= EMPTY


def test_more_rows_never_raise_a_distance():
    """M-12: a bank with more rows is nowhere farther."""
    generator = torch.Generator().manual_seed(0)
    rows, queries = torch.randn(80, 8, generator=generator), torch.randn(40, 8, generator=generator)
    assert (distances_to(rows, queries) <= distances_to(rows[:50], queries)).all()


def test_covers_take_the_farthest_and_keep_their_radius(monkeypatch):
    """Greedy k-centre on a line, and on many points: nothing is farther than the radius, rare ones are kept."""
    line = torch.tensor([[0.0], [1.0], [10.0], [11.0], [5.0]])
    assert k_centre(line, 3, torch.full((5,), torch.inf)).tolist() == [0, 3, 4]
    assert k_centre(line, 5, torch.full((5,), torch.inf), stop=2.0).tolist() == [0, 3, 4]
    assert cover(line, 5, 0).chosen.tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr("plugins.mspba.coreset.SAMPLE", 200)
    points = torch.randn(3000, 4, generator=torch.Generator().manual_seed(1))
    points[1234] += 30
    kept = cover(points, 40, 0)
    assert kept.chosen.numel() == 40
    assert 1234 in kept.chosen
    distances = torch.cdist(points, points[kept.chosen]).amin(1)
    assert float(distances.max()) == pytest.approx(kept.radius, abs=1e-4)
    again, other = cover(points, 40, 0), cover(points, 40, 1)
    assert torch.equal(again.chosen, kept.chosen)
    assert not torch.equal(other.chosen, kept.chosen)


def test_copies_are_kept_once():
    """Embeddings that lie closer than products can tell are one, and added ones are within the radius."""
    points = torch.randn(1, 16, generator=torch.Generator().manual_seed(2)).expand(50, -1)
    assert k_centre(points, 10, torch.full((50,), torch.inf)).numel() == 1
    assert additions(points[:1], 0.0, points + SAME / 16).numel() <= 1
    new = torch.randn(100, 16, generator=torch.Generator().manual_seed(3))
    chosen = additions(points[:1], 3.0, new)
    assert 0 < chosen.numel() < 100
    assert (distances_to(torch.cat((points[:1], new[chosen])), new) <= 3.0).all()


def test_scales_are_balanced_by_left_out_references(frames):
    """With balance every scale's mean map over references left out weighs the same; without it they are just added."""
    assert learnt(frames[:3], balance=False).tensors["weights"].tolist() == [1, 1, 1]
    content = learnt(frames[:4])
    detector = Mspba()
    bank = detector.bank(content)
    means = []
    for number in range(4):
        left = list(detector.leave_out(content, bank, number).values())
        given = shaped(frames[number])
        graph = detector.graph(content, tuple(given.shape[1:]))
        with torch.inference_mode():
            maps = graph.comparison.maps(graph.encoder(graph.resize(given)), left[1:])
        means.append([float(each.mean()) for each in maps])
    weighed = np.mean(means, 0) * content.tensors["weights"]
    np.testing.assert_allclose(weighed, weighed[0], rtol=1e-4)
    assert content.tensors["weights"].sum() == pytest.approx(3, rel=1e-5)


def test_grey_and_colour_frames_are_answered(frames):
    """Grey references and colour frames meet in one template: grey is three equal channels."""
    grey = [Frame(frame.image.mean(2).astype(np.uint8), frame.name) for frame in frames[:3]]
    content = learnt(grey, normalisation="mean", bank_rows=5000)
    assert content.tensors["mean_image"].shape == (192, 192, 3)
    assert inspected(content, grey[1])[1] == 0
    as_colour = Frame(np.repeat(grey[1].image[:, :, None], 3, axis=2), "colour")
    assert inspected(content, as_colour)[1] == pytest.approx(0, abs=1e-3)


def test_resizes_of_mixed_sizes_do_not_pile_up():
    """A folder of many frame sizes keeps a few resizes, and one met again gives the same pixels."""
    resize = Resizes(192, "cpu")
    images = [np.random.default_rng(side).integers(0, 256, (side, 40), np.uint8) for side in range(20, 60)]
    first = resize(images[0])
    kept = {len(resize._made) for image in images if resize(image) is not None}
    assert max(kept) == 16
    assert torch.equal(resize(images[0]), first)


def test_no_reference_is_refused():
    """Calibrating on nothing is the user's error."""
    with pytest.raises(ConfigError, match="mspba: expected at least one good frame"):
        learnt([])


def test_foreign_templates_are_refused(content):
    """Another network's weights, missing rows and heads of another width are template errors."""
    detector = Mspba()
    with pytest.raises(TemplateError, match="made with efficientnet_lite0 weights abc"):
        detector.graph(replace(content, weights={"efficientnet_lite0": "abc"}), (40, 40, 3))
    with pytest.raises(TemplateError, match="room for 200 rows of embeddings, found 3"):
        detector.bank(replace(content, tensors={**content.tensors, "room": np.array([3], np.int32)}))
    with pytest.raises(TemplateError, match="do not fit its settings"):
        detector.graph(replace(content, settings={**content.settings, "train": "budget"}), (40, 40, 3))
    for setting in ({"train": "full"}, {"normalisation": "mean"}):
        with pytest.raises(TemplateError, match=r"do not fit its settings: expected tensors (backbone\.|mean_image)"):
            detector.graph(replace(content, settings={**content.settings, **setting}), (40, 40, 3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": 200}, "multiple of 16"),
        ({"parity": True}, "train full"),
        ({"cluster_weight": 1.0, "train": "none"}, "expected a training"),
        ({"backbone": "resnet18"}, "efficientnet_lite0"),
    ],
)
def test_unfit_settings_are_refused(given, words):
    """Sizes, slips and backbones that cannot be are named."""
    with pytest.raises(ValueError, match=words):
        MspbaSettings(**given)
