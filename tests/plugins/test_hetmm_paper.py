"""The paper's evaluation of HETMM: its table number by number, its post-processing, and a run over a small MVTec AD."""

import json
from functools import partial

import numpy as np
import pytest

from calibration.calibrate import CalibrationOptions
from calibration.layouts import BENCHMARKS, MVTEC_AD
from calibration.metrics import pixel_metrics
from calibration.protocol import MEASURES, ProtocolJob, run_protocol
from edgead import BUILTIN_PLUGINS, Detector, WeightsError
from plugins.backbones import random_backbone
from plugins.hetmm import Hetmm
from plugins.hetmm.paper import POST_PROCESSING, PROTOCOL, Blur, Clean, MaxPool, image_score
from plugins.hetmm.settings import HetmmSettings
from runtime.registry import load_plugins
from runtime.station.presets import load_preset
from runtime.testing.product import SimulatedProduct, write_dataset

# Section 8 of the specification as it is printed: forward x backward window / alpha / lambda for layers 1 to 3, and the
# post-processing for image AUROC, pixel AUROC and PRO.
TABLE = """
bottle | 5x3/.3/1 | 5x3/.3/1 | 7x3/.3/.8 | clean | b(4.1,39) | clean
cable | 13x7/.7/1 | 5x5/.7/.8 | 7x1/.3/.8 | b(5.5,39) | b(8.6,61) | clean
capsule | 13x7/.5/1 | 9x5/.5/.5 | 7x3/.3/.3 | clean | b(7.8,61) | b(3.6,11)
carpet | 7x3/.7/1 | 9x1/.3/.8 | 3x1/.3/.5 | b(5.5,35) | clean | b(3.0,11)
grid | 13x3/.7/1 | 9x1/.7/.5 | 7x1/.3/.3 | clean | clean | clean
hazelnut | 13x3/.7/1 | 9x5/.7/.5 | 7x3/.3/.8 | clean | clean | clean
leather | 11x3/.5/1 | 9x3/.3/1 | 7x3/.3/.3 | clean | clean | clean
metal_nut | 13x5/.5/1 | 9x5/.3/.5 | 7x3/.3/.8 | clean | b(15,61) | clean
pill | 11x5/.5/1 | 9x1/.7/.5 | 7x1/.3/.5 | mp(25) | b(15,61) | clean
screw | 5x3/.5/1 | 5x3/.7/.8 | 7x3/.3/.3 | clean | b(3.3,45) | b(3.1,17)
tile | 13x7/.3/1 | 7x5/.3/.5 | 5x3/.3/.5 | clean | clean | clean
toothbrush | 13x3/.3/1 | 9x5/.3/.8 | 7x3/.3/.5 | clean | b(3.0,11) | clean
transistor | 13x5/.3/1 | 5x3/.5/.5 | 5x1/.3/.8 | b(5.1,31) | b(15,61) | b(6.6,39)
wood | 7x3/.7/1 | 5x3/.7/.8 | 7x1/.7/.3 | clean | clean | clean
zipper | 13x5/.3/1 | 7x5/.7/1 | 7x1/.7/.3 | mp(11) | b(10.4,61) | b(6.0,31)
"""
ROWS = {line.split(" | ")[0]: line.split(" | ")[1:] for line in TABLE.strip().splitlines()}

# Section 13.1: GFLOP of both directions with 60 sheets, stated independently of the table.
GFLOP = {
    "bottle": 7.6, "screw": 7.6, "wood": 10.2, "carpet": 11.7, "leather": 21.5, "pill": 22.7, "transistor": 24.9,
    "grid": 26.0, "hazelnut": 27.6, "toothbrush": 27.6, "zipper": 27.7, "cable": 29.2, "metal_nut": 29.6, "tile": 30.2,
    "capsule": 32.4,
}  # fmt: skip


def of_preset(category):
    """Return the settings HETMM makes of a category's preset."""
    preset = load_preset(f"hetmm-mvtec-{category}")
    assert preset.detector == "hetmm"
    return HetmmSettings.model_validate(preset.settings)


def test_there_is_a_row_for_every_category():
    """Transcription, post-processing and totals cover the fifteen categories of MVTec AD."""
    assert ROWS.keys() == POST_PROCESSING.keys() == GFLOP.keys() == set(MVTEC_AD.categories)


@pytest.mark.parametrize("category", ROWS)
def test_presets_are_the_tuned_table(category):
    """Windows, shares and weights of each preset are those printed, on the paper's network, and one map is smoothed."""
    cells = [cell.split("/") for cell in ROWS[category][:3]]
    settings = of_preset(category)
    assert settings == HetmmSettings(
        backbone="wide_resnet101_2",
        windows=tuple(tuple(int(side) for side in cell[0].split("x")) for cell in cells),
        alpha=tuple(float(cell[1]) for cell in cells),
        weight=tuple(float(cell[2]) for cell in cells),
    )
    assert settings.weight[0] == 1
    assert all(forward >= backward for forward, backward in settings.windows)


@pytest.mark.parametrize("category", ROWS)
def test_windows_cost_what_the_specification_counts(category):
    """The GFLOP of a preset's windows, counted pair by pair, are the total stated for the category."""
    total = 0
    for (side, channels), window in zip(((64, 256), (32, 512), (16, 1024)), of_preset(category).windows, strict=True):
        total += 60 * 2 * channels * sum(pairs(side, each // 2) for each in window)
    assert total / 1e9 == pytest.approx(GFLOP[category], abs=0.05)


def pairs(side, half):
    """Count the (pixel, pixel) pairs at most ``half`` apart in rows and columns on a grid, one by one along an axis."""
    along = sum(1 for one in range(side) for other in range(side) if abs(one - other) <= half)
    return along**2


def test_pairs_are_counted_as_specified():
    """I-19: the count itself has the four stated values."""
    assert [pairs(64, 6), pairs(64, 3), pairs(32, 4), pairs(16, 3)] == [624100, 190096, 71824, 10000]


@pytest.mark.parametrize("category", ROWS)
def test_post_processing_is_the_tuned_one(category):
    """Each rule of each category is the one printed."""
    for rule, printed in zip(POST_PROCESSING[category], ROWS[category][3:], strict=True):
        name, _, numbers = printed.rstrip(")").partition("(")
        values = [float(number) for number in numbers.split(",") if number]
        assert rule == {"clean": Clean, "b": Blur, "mp": MaxPool}[name](*values)


@pytest.mark.parametrize(
    ("sigma", "kernel", "edge", "corner"), [(4.1, 39, 0.548652, 0.301019), (15, 61, 0.513881, 0.264073)]
)
def test_blur_darkens_the_border(sigma, kernel, edge, corner):
    """I-11: a constant 1 stays 1 in the middle and falls to the stated values at edge and corner."""
    blurred = Blur(sigma, kernel)(np.ones((256, 256), np.float32))
    assert blurred.dtype == np.float32
    assert [blurred[128, 128], blurred[0, 128], blurred[255, 255]] == pytest.approx([1, edge, corner], abs=1e-6)


def test_max_pool_averages_the_largest_of_each_cell():
    """I-12: the 6 x 6 example gives 1.666667 with cells of 2 and 4 with cells of 4, which cut the 9 off."""
    raw = np.zeros((6, 6), np.float32)
    raw[1, 1], raw[5, 5], raw[0, 4] = 4, 9, 2
    assert image_score(MaxPool(2), raw) == pytest.approx(1.666667, abs=1e-6)
    assert image_score(MaxPool(4), raw) == 4


@pytest.mark.parametrize(("side", "cells", "covered"), [(25, 100, 250), (11, 529, 253)])
def test_max_pool_ignores_what_no_cell_covers(side, cells, covered):
    """I-12: on 256 x 256, cells of 25 are 100 over 250 pixels and cells of 11 are 529; the rest counts for nothing."""
    raw = np.zeros((256, 256), np.float32)
    raw[covered:], raw[:, covered:] = 7, 7
    assert image_score(MaxPool(side), raw) == 0
    raw[covered - 1, covered - 1] = 1
    assert image_score(MaxPool(side), raw) == pytest.approx(1 / cells)


def test_cells_larger_than_the_map_are_refused():
    """A cell that does not fit has no maximum: refused instead of a score of nothing."""
    with pytest.raises(ValueError, match=r"no larger than the map \[8, 8\], found side 9"):
        MaxPool(9)(np.zeros((8, 8), np.float32))


def test_the_score_is_the_largest_value_behind_the_rule():
    """Clean and blur score by the largest value of the map they give."""
    raw = np.random.default_rng(0).random((40, 40), np.float32)
    assert image_score(Clean(), raw) == raw.max()
    assert image_score(Blur(3.0, 11), raw) == Blur(3.0, 11)(raw).max() < raw.max()


def test_only_mvtec_is_as_published():
    """MVTec AD gets the tuned presets, every other set D0 and no post-processing, marked as ours."""
    for benchmark in BENCHMARKS:
        for category in benchmark.categories:
            plan = PROTOCOL.plan(benchmark.name, category)
            tuned = benchmark is MVTEC_AD
            assert plan.is_published == tuned
            assert plan.preset == (f"hetmm-mvtec-{category}" if tuned else "hetmm-d0")
            assert tuned or set(plan.post_processing.values()) == {"clean"}
            settings = HetmmSettings.model_validate({**load_preset(plan.preset).settings, **plan.settings})
            assert (settings.blur_sigma, settings.score, settings.norm_std) == (0, "max", "official")
            assert (settings.backbone, settings.image_size, settings.templates) == ("wide_resnet101_2", 256, "all")


def test_published_figures_are_those_of_the_abstract():
    """Image AUROC 99.8, 98.1, 88.1 and 99.5 on the four data sets."""
    figures = {name: each.image_auroc for name, each in PROTOCOL.published.items()}
    assert figures == {"mvtec-ad": 0.998, "visa": 0.981, "mvtec-loco": 0.881, "mtd": 0.995}
    assert figures.keys() <= {benchmark.name for benchmark in BENCHMARKS}


def test_the_two_normalisations_never_share_features(monkeypatch):
    """One detector asked with ImageNet's deviation, the released one and ImageNet's again normalises each as asked."""
    monkeypatch.setattr("plugins.hetmm.graph.load_backbone", partial(random_backbone, seed=0))
    detector = Hetmm()
    green = [
        1 / float(detector._load(HetmmSettings(backbone="resnet18", norm_std=each)).normalise.scale[0, 1]) / 255
        for each in ("imagenet", "official", "imagenet")
    ]
    assert green == pytest.approx([0.224, 0.256, 0.224], abs=1e-6)


# --- a whole run: the paper's protocol on simulated products, with the network that is here -----------------------

LITE = ["backbone=efficientnet_lite0", "image_size=64"]


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory):
    """Return a folder with two categories of MVTec AD, played by two simulated products."""
    root = tmp_path_factory.mktemp("mvtec")
    for seed, category in enumerate(("transistor", "zipper")):
        write_dataset(root / category, SimulatedProduct(seed=seed, size=(128, 128)), 4, 4, 1)
    return root


def ignore(_done, _total, _what):
    """Show no progress."""


def run(root, *settings):
    """Run the paper's protocol as `edgead evaluate --protocol hetmm-paper --set ...` does."""
    job = ProtocolJob(
        protocol="hetmm-paper", dataset=root, settings=list(settings), options=CalibrationOptions(threads=1)
    )
    return run_protocol(job, load_plugins(BUILTIN_PLUGINS), ignore)


def test_the_paper_without_its_weights_says_which_file_is_missing(mvtec):
    """Where the paper's network is not here, one line says which file, and nothing is measured with another one."""
    with pytest.raises(WeightsError, match=r"wide_resnet101_2-32ee1156\.pth"):
        run(mvtec)


@pytest.fixture(scope="module")
def figures(mvtec):
    """Return the figures of the paper's protocol with EfficientNet-Lite0 on small pictures."""
    return run(mvtec, *LITE)


def test_a_run_gives_every_figure_and_says_what_they_are_not(figures):
    """Both categories have all figures in 0..1; backbone, tuning on test labels and the other PRO are pointed out."""
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert list(figures["categories"]) == ["transistor", "zipper"]
    for each in figures["categories"].values():
        assert all(0 < each[measure] <= 1 for measure in MEASURES)
        assert (each["settings_are"], each["settings"]["backbone"]) == ("changed", "efficientnet_lite0")
    assert figures["categories"]["zipper"]["post_processing"] == {
        "image": "mp(11)", "pixel": "blur(10.4, 61)", "pro": "blur(6, 31)"
    }  # fmt: skip
    said = "\n".join(figures["warnings"])
    for words in ("13 of 15 categories", '--set backbone="efficientnet_lite0"', "upper bounds", "not comparable"):
        assert words in said
    assert figures["published"] == {"image_auroc": 0.998}


def test_tuned_figures_are_measured_on_the_post_processed_raw_map(figures, mvtec, atmm):
    """Transistor's figures follow from the graph's raw maps, blurred by the float64 reference with zeros around."""
    raws, masks, labels = raw_maps(mvtec / "transistor", figures["categories"]["transistor"]["settings"])
    found = figures["categories"]["transistor"]
    pixel = [atmm.blur(raw.astype(float), 15, 61, normalised=False) for raw in raws]
    regions = [atmm.blur(raw.astype(float), 6.6, 39, normalised=False) for raw in raws]
    scores = [atmm.blur(raw.astype(float), 5.1, 31, normalised=False).max() for raw in raws]
    wins = [(bad > good) for bad, is_bad in zip(scores, labels, strict=True) if is_bad
            for good, other in zip(scores, labels, strict=True) if not other]  # fmt: skip
    assert found["image_auroc"] == pytest.approx(np.mean(wins))
    assert found["pixel_auroc"] == pytest.approx(pixel_metrics(pixel, masks).auroc, abs=1e-5)
    assert found["pro"] == pytest.approx(pixel_metrics(regions, masks).pro, abs=1e-4)
    assert found["without_post_processing"]["pixel_auroc"] == pytest.approx(pixel_metrics(raws, masks).auroc, abs=1e-5)


def raw_maps(folder, settings):
    """Return the maps of a category's test images by the detector's own graph, their masks and labels."""
    import torch

    from calibration.dataset import read_dataset, read_mask
    from calibration.masks import resize_mask
    from calibration.references import References
    from edgead import DetectorContext

    assert (settings["blur_sigma"], settings["norm_std"]) == (0, "official")
    detector: Detector = Hetmm()
    dataset = read_dataset(folder)
    content = detector.calibrate(
        References(dataset.references), HetmmSettings.model_validate(settings), DetectorContext()
    )
    bank = detector.bank(content).values()
    raws, masks = [], []
    for sample in dataset.test:
        image = References([sample])[0].image
        with torch.inference_mode():
            anomaly_map, _ = detector.graph(content, image.shape)(torch.from_numpy(image)[None], *bank)
        raws.append(anomaly_map[0].numpy())
        masks.append(resize_mask(read_mask(sample, image.shape[:2]), raws[-1].shape))
    return raws, masks, [sample.is_defect for sample in dataset.test]
