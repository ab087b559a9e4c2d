"""The CPR detectors end to end: parity with the float64 reference, the bank's meaning, one exported program."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgead import ConfigError, DetectorContext, Frame, TemplateError
from plugins.backbones import normaliser, random_backbone
from plugins.cpr import Cpr, CprFast, CprFaster, learning
from plugins.cpr.graph import Branches, Comparison, Features, Learnt
from plugins.cpr.lrb import LocalHeads
from plugins.cpr.settings import CprFasterSettings, map_shapes
from plugins.cpr.templates import learnt_of, learnt_tensors
from plugins.resize import PlainResize
from runtime.engines.engine import Engine, export

TINY = {"image_size": 80, "nearest": 3, "train": "none", "bank_dtype": "float32", "blur_sigma": 2.0, "blur_kernel": 9}
#: Operators that convert badly or not at all (specification, 9.6).
RISKY = ("one_hot", "im2col", "sort", "grid_sampler", "index.Tensor", "_scalar_dense", "reflection_pad")


@pytest.fixture(scope="module")
def detector():
    """Return one detector for the module: its backbone is loaded once."""
    return CprFaster()


def learnt(detector, frames, **settings):
    """Calibrate with tiny settings, untrained; ``settings`` override them."""
    return detector.calibrate(frames, CprFasterSettings(**TINY | settings), DetectorContext())


def with_heads(detector, content, frames, width=8, shares=None):
    """Return the content as if heads with random weights had been trained: everything else is made by the detector.

    ``shares``: each layer's ``raw_share``; by default 0.
    """
    shares = shares or (0.0,) * len(content.settings["layers"])
    settings = dict(content.settings) | {"local_width": width, "raw_share": shares}
    settings = CprFasterSettings.model_validate(settings)
    channels = tuple(channels for channels, _ in map_shapes(settings))
    torch.manual_seed(7)
    heads = LocalHeads(channels, width).eval()
    known = learnt_of(CprFasterSettings.model_validate(dict(content.settings)), content.tensors)
    tensors = learnt_tensors(settings, replace(known, heads=heads))
    rows = {name: each[:0] for name, each in content.tensors.items() if name in ("histograms", "foreground.maps")}
    rows |= {
        f"local.{name}": np.empty((0, side, side, width * (share < 1) + raw * (share > 0)), np.float32)
        for name, (raw, side), share in zip(settings.layer_names, map_shapes(settings), shares, strict=True)
    }
    empty = replace(content, settings=settings.model_dump(mode="json"), tensors=tensors | rows, valid=0)
    return detector.extend(empty, frames, DetectorContext())


def inspected(detector, content, frame, bank=None):
    """Return (map, score) of one frame."""
    result = Engine(detector, content, threads=1).infer(frame.image, bank)
    return result.anomaly_map, result.score


def expected_answer(cpr, detector, content, frame):
    """Return (map, score, chosen) by the reference, from the backbone's maps on."""
    graph = detector.graph(content, frame.image.shape)
    with torch.no_grad():
        taps = graph.features(graph.resize(torch.from_numpy(frame.image)[None]))
    settings = dict(content.settings)
    return cpr.answer([tap[0].numpy() for tap in taps], content.tensors, settings["image_size"], settings)


def assert_same_answer(found, expected, atol=5e-6):
    """Compare two answers to rounding of float32 sums."""
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=atol)
    assert found[1] == pytest.approx(expected[1], abs=atol)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "object"},
        {"kind": "texture"},
        {"kind": "object", "retrieval": "shifted", "score_pixels": 5},
        {"kind": "object", "nearest": 50, "spare": 3},  # more than there are
        {"kind": "object", "blur_sigma": 0, "nearest": 1},
        {"kind": "texture", "blur_sigma": 0, "image_size": 120, "retrieval": "shifted"},
        {"kind": "texture", "image_size": 110},  # maps of 28 and 14: void blocks, a half tile
        {"kind": "texture", "layers": ("stage1",)},
        {"kind": "texture", "layers": ("stage1", "stage2", "stage3")},
    ],
    ids=str,
)
def test_map_and_score_are_those_of_the_reference(detector, cpr, frames, damaged, settings):
    """From the backbone's maps on, map and score are the definition's, computed in float64 from the stored rows."""
    content = learnt(detector, frames[:5], **settings)
    assert content.settings["foreground"] == ("on" if settings["kind"] == "object" else "off")
    expected = expected_answer(cpr, detector, content, damaged)
    assert expected[1] > 0.05
    assert_same_answer(inspected(detector, content, damaged), expected)


@pytest.mark.parametrize("form", [("tiled", 0.0), ("shifted", 0.0), ("tiled", 0.3), ("shifted", 0.3)])
def test_trained_heads_are_those_of_the_reference(detector, cpr, frames, damaged, form):
    """With local heads, too, merged and folded on the line, alone or beside raw features, it is the definition's."""
    retrieval, share = form
    content = learnt(detector, frames[:4], kind="object", retrieval=retrieval)
    content = with_heads(detector, content, frames[:4], shares=(share,) * 3)
    assert content.tensors["local.stage1"].shape == (4, 20, 20, 8 + (24 if share else 0))
    raw = learnt(detector, frames[:4], kind="object")
    found = inspected(detector, content, damaged)
    assert_same_answer(found, expected_answer(cpr, detector, content, damaged), atol=2e-5)
    assert abs(found[0] - inspected(detector, raw, damaged)[0]).max() > 1e-3


def test_a_layer_without_a_head_is_the_backbones(detector, cpr, frames, damaged):
    """With a share of 1 a layer keeps the backbone's features and the template no head for it; the others do not."""
    content = with_heads(detector, learnt(detector, frames[:4], kind="object"), frames[:4], shares=(0.5, 0.0, 1.0))
    assert [content.tensors[f"local.stage{n}"].shape[3] for n in (1, 2, 3)] == [24 + 8, 8, 112]
    assert {name.split(".")[1] for name in content.tensors if name.startswith("head.")} == {"stage1", "stage2"}
    raw = learnt(detector, frames[:4], kind="object")
    np.testing.assert_array_equal(content.tensors["local.stage3"], raw.tensors["local.stage3"])
    assert_same_answer(inspected(detector, content, damaged), expected_answer(cpr, detector, content, damaged), 2e-5)


def test_without_heads_every_share_is_one(detector, frames):
    """Untrained, whatever was asked for, the settings say what is compared: the backbone's own features."""
    for asked in ("auto", 0.3):
        content = learnt(detector, frames[:3], raw_share=asked)
        assert content.settings["raw_share"] == [1.0, 1.0, 1.0]
        assert not any(name.startswith("head.") for name in content.tensors)


def test_frames_of_many_sizes_leave_no_resizes_behind(monkeypatch):
    """However many sizes references have, one resize is kept: hundreds of them once took four gigabytes."""
    alive = weakref.WeakSet()

    class Watched(PlainResize):
        def __init__(self, *given):
            super().__init__(*given)
            alive.add(self)

    monkeypatch.setattr(learning, "PlainResize", Watched)
    references = [Frame(np.full((30 + n, 40, 3), n, np.uint8), str(n)) for n in range(6)]
    settings = CprFasterSettings(image_size=80)
    encoded = learning.Encoded(references, lambda planes: (planes,), settings, DetectorContext())
    assert [float(taps[0].mean()) for taps in encoded.maps("reading")] == [0, 1, 2, 3, 4, 5]
    gc.collect()
    assert len(alive) == 1


@pytest.mark.parametrize(("bank_dtype", "most"), [("float16", 1e-3), ("bfloat16", 2e-2)])
def test_narrow_banks_give_almost_the_same_map(detector, frames, damaged, bank_dtype, most):
    """Half-precision banks move no map pixel by more than their rounding allows, and are half as large."""
    exact, narrow = (learnt(detector, frames[:5], kind="object", bank_dtype=each) for each in ("float32", bank_dtype))
    difference = abs(inspected(detector, narrow, damaged)[0] - inspected(detector, exact, damaged)[0]).max()
    assert 0 < difference < most
    banks = [detector.bank(content)["local.stage1"] for content in (narrow, exact)]
    assert 2 * banks[0].nbytes == banks[1].nbytes


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"kind": "object"}, (128, 144, 3)),
        ({"kind": "texture", "retrieval": "shifted", "network_dtype": "bfloat16"}, (90, 70, 1)),
    ],
    ids=str,
)
def test_program_equals_eager(detector, frames, damaged, settings, shape):
    """T37: strict export takes resize to score whole, bank as input, without risky operators, and equals eager."""
    content = learnt(detector, frames[:3], nearest=2, spare=2, **settings)
    program = export(detector, content, shape)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert len(names) > 50
    assert [name for name in names if any(risky in name for risky in RISKY)] == []
    extended = detector.extend(content, frames[4:6], DetectorContext())
    image = np.ascontiguousarray(damaged.image[: shape[0], : shape[1], : shape[2]])
    engine = Engine(detector, content, threads=1)
    answers = []
    for bank in (detector.bank(content), detector.bank(extended)):
        with torch.no_grad():
            anomaly_map, score = program.module()(torch.from_numpy(image)[None], *bank.values())
        expected = engine.infer(image[:, :, 0] if shape[2] == 1 else image, bank)
        np.testing.assert_allclose(anomaly_map[0].numpy(), expected.anomaly_map, rtol=0, atol=1e-6)
        assert score.item() == pytest.approx(expected.score, abs=1e-6)
        answers.append(anomaly_map)
    assert not torch.equal(*answers)  # the bank is an input of the program, not a constant in it


def test_a_batch_is_inspected_frame_by_frame(detector, frames, damaged):
    """Two frames in a batch, each with references of its own, get the answers they get alone."""
    content = learnt(detector, frames[:6], kind="object", nearest=2)
    graph, bank = detector.graph(content, damaged.image.shape), tuple(detector.bank(content).values())
    with torch.no_grad():
        together = graph(torch.from_numpy(np.stack((frames[7].image, damaged.image))), *bank)
    for number, frame in enumerate((frames[7], damaged)):
        assert_same_answer(
            (together[0][number].numpy(), together[1][number].item()), inspected(detector, content, frame)
        )


def test_leaving_out_equals_never_having_had_it(detector, frames):
    """The bank without reference 2 scores it as a bank of the others does, also where fewer are left than compared."""
    for count, nearest in ((6, 3), (3, 5)):
        content = learnt(detector, frames[:count], kind="object", nearest=nearest)
        bank = detector.bank(content)
        before = {name: each.clone() for name, each in bank.items()}
        left = detector.leave_out(content, bank, 2)
        others = [0, 1, *range(3, count)]
        rows = {
            name: each[others] if name.startswith(("histograms", "foreground.maps", "local.")) else each
            for name, each in content.tensors.items()
        }
        without = replace(content, tensors=rows, valid=count - 1)
        assert_same_answer(inspected(detector, content, frames[2], left), inspected(detector, without, frames[2]))
        assert inspected(detector, content, frames[2], left)[1] > inspected(detector, content, frames[2])[1] + 0.01
        assert all(torch.equal(bank[name], each) for name, each in before.items())


def test_a_single_reference_cannot_be_left_out(detector, frames):
    """A bank of one leaves nothing to compare with: None; a number that is no reference is an error."""
    content = learnt(detector, frames[:1])
    assert detector.leave_out(content, detector.bank(content), 0) is None
    with pytest.raises(ValueError, match=r"reference 0\.\.0"):
        detector.leave_out(content, detector.bank(content), 1)


def test_extending_encodes_as_calibrating_does(detector, frames, damaged):
    """Rows of frames inserted later are, bit for bit, those of encoding all again, in shapes that stay."""
    content = with_heads(detector, learnt(detector, frames[:4], kind="object", spare=2), frames[:4])
    before = {name: each.copy() for name, each in content.tensors.items()}
    longer = detector.extend(content, frames[4:6], DetectorContext())
    again = with_heads(detector, learnt(detector, frames[:4], kind="object", spare=2), frames[:6])
    assert longer.tensors.keys() == again.tensors.keys()
    for name, each in again.tensors.items():
        np.testing.assert_array_equal(longer.tensors[name], each)
    assert (longer.valid, longer.capacity, longer.statistics["references"]) == (6, content.capacity, 6)
    assert {n: b.shape for n, b in detector.bank(longer).items()} == {
        n: b.shape for n, b in detector.bank(content).items()
    }
    assert all(np.array_equal(content.tensors[name], each) for name, each in before.items())
    beyond = detector.extend(longer, [damaged], DetectorContext())
    assert (beyond.valid, beyond.capacity) == (7, 7)
    assert inspected(detector, beyond, damaged)[1] < 0.01 < inspected(detector, longer, damaged)[1]


def test_a_reference_among_the_references_is_at_distance_zero(detector, frames):
    """T16: a frame that is in the bank scores zero to rounding, and its left-out score is far above."""
    content = learnt(detector, frames[:6], kind="texture")
    assert abs(inspected(detector, content, frames[3])[0]).max() < 1e-5


def test_a_foreground_of_ones_is_no_foreground(detector, frames, damaged):
    """T38: the object's graph with foreground maps of ones gives the map of the texture's graph."""
    texture = learnt(detector, frames[:4], kind="texture")
    ones = np.ones((4, 20, 20), np.float16)
    zeros = {"foreground.weight": np.zeros(24, np.float32), "foreground.bias": np.zeros(1, np.float32)}
    tensors = {**texture.tensors, **zeros, "foreground.maps": ones}
    weighed = replace(texture, settings={**texture.settings, "foreground": "on"}, tensors=tensors)
    assert_same_answer(inspected(detector, weighed, damaged), inspected(detector, texture, damaged))


def test_weight_is_the_largest_after_enlarging(cpr):
    """T26: foregrounds are enlarged, then compared: never above, and somewhere below, the other order."""
    settings = CprFasterSettings(**TINY, kind="object", foreground="on", raw_share=0.0)
    maps = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (4, 20, 20)).astype(np.float32))
    found = Comparison(settings).weight(maps[:1], maps[1:], torch.tensor([[0, 1, 2]]))[0].numpy()
    expected = np.max([cpr.enlarge(each, 80) for each in maps.numpy()], axis=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    other = cpr.enlarge(maps.numpy().max(0), 80)
    assert (found <= other + 1e-6).all()
    assert (found < other - 0.05).any()


def test_constant_frames_are_answered(detector, frames):
    """References and frames of one grey level have no foreground, no clusters and no defects: all of it finite."""
    grey = [Frame(np.full((40, 40), level, np.uint8), str(level)) for level in (90, 90, 90, 91)]
    content = learnt(detector, grey)
    assert content.settings["kind"] == "texture"
    assert "border effect" in content.statistics["foreground"]["reason"]
    assert inspected(detector, content, grey[0])[1] == pytest.approx(0, abs=1e-5)
    assert inspected(detector, content, frames[0])[1] > 0.05


def test_damage_scores_higher_than_a_good_part(detector, frames, damaged):
    """Untrained, otherwise by default, a chipped part outscores every good one left out, and is found to be a part."""
    content = detector.calibrate(frames, CprFasterSettings(train="none"), DetectorContext())
    assert (content.settings["kind"], content.settings["foreground"]) == ("object", "on")
    assert (content.settings["score_pixels"], content.map_shape) == (512, (320, 320))
    bank = detector.bank(content)
    good = [inspected(detector, content, frames[n], detector.leave_out(content, bank, n))[1] for n in range(4)]
    assert inspected(detector, content, damaged)[1] > max(good)


def test_same_seed_same_template(frames):
    """References, settings and seed decide every bit of a template; another seed draws another codebook."""
    contents = [
        CprFaster().calibrate(frames[:3], CprFasterSettings(**TINY), DetectorContext(seed=seed)) for seed in (0, 0, 1)
    ]
    for name, each in contents[0].tensors.items():
        np.testing.assert_array_equal(each, contents[1].tensors[name])
    assert not np.array_equal(contents[0].tensors["codebook.centres"], contents[2].tensors["codebook.centres"])


def test_foreground_follows_kind_and_wish(detector, frames):
    """Textures have none unless asked for, a named object has one unless declined, and what cannot be is an error."""
    used = {
        (kind, foreground): learnt(detector, frames[:3], kind=kind, foreground=foreground).settings["foreground"]
        for kind in ("object", "texture")
        for foreground in ("auto", "on", "off")
    }
    assert [wish for wish, found in used.items() if found == "off"] == [
        ("object", "off"), ("texture", "auto"), ("texture", "off"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="fewer than 50"):
        learnt(detector, frames[:1], foreground="on", image_size=40)
    assert learnt(detector, frames[:1], kind="object", image_size=40).settings["foreground"] == "off"


def test_no_reference_is_refused(detector):
    """Calibrating on nothing is the user's error, in the name of the detector asked."""
    with pytest.raises(ConfigError, match="cpr-faster: expected at least one good frame"):
        learnt(detector, [])


def test_foreign_templates_are_refused(detector, frames):
    """Another network's weights, settings left open, heads of another width and missing rows are template errors."""
    content = learnt(detector, frames[:2], kind="texture")
    with pytest.raises(TemplateError, match="made with efficientnet_lite0 weights abc"):
        detector.graph(replace(content, weights={"efficientnet_lite0": "abc"}), (40, 40, 3))
    with pytest.raises(TemplateError, match="not resolved"):
        detector.bank(replace(content, settings={**content.settings, "kind": "auto"}))
    with pytest.raises(TemplateError, match="expected 3 rows in histograms, found 2"):
        detector.bank(replace(content, valid=3))
    headed = with_heads(detector, content, frames[:2])
    with pytest.raises(TemplateError, match="head of stage1 does not fit"):
        detector.graph(replace(headed, settings={**headed.settings, "local_width": 9}), (40, 40, 3))


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [
        ((128, 64, 200), (0.07406, -0.91527, 1.68139)),
        ((0, 0, 0), (-2.11790, -2.03571, -1.80444)),
        ((255, 255, 255), (2.24891, 2.42857, 2.64000)),
    ],
)
@pytest.mark.parametrize("name", ["densenet201", "efficientnet_b0"])
def test_input_is_normalised_as_specified(name, pixel, expected):
    """T1: the paper's networks get RGB with ImageNet's mean and deviation taken out."""
    found = normaliser(name)(torch.tensor(pixel, dtype=torch.float32).view(1, 3, 1, 1))
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "width", "shapes", "parameters"),
    [
        (Cpr, 384, [(256, 80), (512, 40)], 1_297_536),
        (CprFast, 64, [(256, 80), (512, 40)], 1_297_536),
        (CprFaster, 16, [(24, 80), (40, 40)], 65_730),
    ],
)
def test_variants_are_those_of_the_paper(kind, width, shapes, parameters):
    """T3: networks, maps at 320 x 320 and local widths are the specification's; raw dense features keep their signs."""
    settings = kind.settings_model(backbone="efficientnet_b0") if kind is CprFaster else kind.settings_model()
    assert settings.local_width == width
    assert map_shapes(settings) == shapes
    backbone = random_backbone(settings.backbone, settings.layer_names, 0, fold=False)
    assert sum(each.numel() for each in backbone.parameters()) == parameters
    small = Features(settings, random_backbone(settings.backbone, settings.layer_names, 0))
    taps = small(torch.rand(1, 3, 64, 64) * 255)
    assert [tap.shape[1:] for tap in taps] == [(channels, side // 5, side // 5) for channels, side in shapes]
    assert all((tap < 0).any() for tap in taps)
    if kind is not CprFaster:
        assert (taps[0][:, :64] >= 0).all()


def test_branches_share_nothing_with_the_learnt_tensors(frames, detector):
    """Building a graph leaves the content alone, so that one content may serve several engines."""
    content = learnt(detector, frames[:2], kind="object")
    settings = CprFasterSettings.model_validate(dict(content.settings))
    branches = Branches(settings, Learnt(torch.from_numpy(content.tensors["codebook.centres"]), None, None))
    branches.codebook.weight.zero_()
    assert content.tensors["codebook.centres"].any()


def test_networks_in_bfloat16_give_almost_the_same_map(detector, frames, damaged):
    """Backbone and heads in bfloat16, bank made alike, move no map pixel by more than a few hundredths."""
    exact = with_heads(detector, learnt(detector, frames[:4], kind="object"), frames[:4])
    half = learnt(detector, frames[:4], kind="object", network_dtype="bfloat16", bank_dtype="bfloat16")
    half = with_heads(detector, half, frames[:4])
    found = inspected(detector, half, damaged)
    expected = inspected(detector, exact, damaged)
    assert 0 < abs(found[0] - expected[0]).max() < 0.03
    assert found[1] == pytest.approx(expected[1], rel=0.05)


def test_heads_of_the_authors_are_used_as_given(detector, frames, damaged, tmp_path):
    """A checkpoint's heads come through settings, template and graph, and the file's digest is kept."""
    torch.manual_seed(3)
    heads = LocalHeads((24, 40, 112), 16).eval()
    path = tmp_path / "lrb.pth"
    torch.save(
        {f"lrb.conv.{name.replace('.layers.', '.', 1)}": each for name, each in heads.state_dict().items()}, path
    )
    settings = {"kind": "object", "head_file": str(path)}
    content = learnt(detector, frames[:3], **settings)
    for name, head in zip(("stage1", "stage2", "stage3"), heads, strict=True):
        np.testing.assert_array_equal(content.tensors[f"head.{name}.layers.4.weight"], head.layers[4].weight.detach())
    assert len(content.statistics["head_file_sha256"]) == 64
    assert content.settings["raw_share"] == [0.0, 0.0, 0.0]
    assert content.tensors["local.stage1"].shape == (3, 20, 20, 16)
    by_default = CprFasterSettings(**{name: each for name, each in TINY.items() if name != "train"} | settings)
    again = detector.calibrate(frames[:3], by_default, DetectorContext())
    assert again.settings["train"] == "none"
    assert_same_answer(inspected(detector, again, damaged), inspected(detector, content, damaged), atol=0)
