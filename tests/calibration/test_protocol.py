"""Published protocols: each rule feeds its own measure, published figures stand beside, and what differs is said."""

import json
import shutil
from dataclasses import replace

import pytest

from calibration.calibrate import CalibrationOptions
from calibration.protocol import COLUMNS, MEASURES, ProtocolJob, run_protocol, table_rows
from runtime.errors import ConfigError
from runtime.evaluation_protocol import CategoryPlan, EvaluationProtocol, PublishedFigures
from runtime.registry import RegisteredDetector, Registry
from runtime.testing.product import DEFECTS, SimulatedProduct, write_dataset


def ignore(_done, _total, _what):
    """Show no progress."""


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory):
    """Return a folder with two categories of MVTec AD, played by two simulated products."""
    root = tmp_path_factory.mktemp("mvtec")
    for seed, category in enumerate(("bottle", "grid")):
        write_dataset(root / category, SimulatedProduct(seed=seed, size=(128, 128)), 3, 3, 1)
    return root


@pytest.fixture
def preset(tmp_path):
    """Return the path of a preset of the toy detector."""
    path = tmp_path / "toy.yaml"
    path.write_text("schema: edgead.preset/1\ndetector: mean-picture\nsettings: {side: 8}\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def registry(mean_picture, preset):
    """Return a registry with the toy detector and a protocol that turns scores and pixel maps upside down."""

    def plan(dataset, category):
        return CategoryPlan(
            preset=preset,
            settings={"side": 32},
            image_score=lambda anomaly_map: -float(anomaly_map.max()),
            pixel_map=lambda anomaly_map: -anomaly_map,
            pro_map=lambda anomaly_map: anomaly_map,
            post_processing={"image": f"negative {category}", "pixel": "negative", "pro": "clean"},
            is_published=dataset == "mvtec-ad",
        )

    toy = EvaluationProtocol(
        name="toy-paper",
        detector="mean-picture",
        source="nowhere",
        published={
            "mvtec-ad": PublishedFigures(image_auroc=0.9, remarks=("tuned",)),
            "visa": PublishedFigures(image_auroc=0.8),
            "mvtec-loco": PublishedFigures(image_auroc=0.7),
        },
        plan=plan,
        remarks=("always said",),
    )
    return Registry(
        detectors={"mean-picture": RegisteredDetector("mean-picture", lambda: mean_picture, "toys", "toys 1.0")},
        protocols={"toy-paper": toy},
    )


def run(registry, root, *settings, **options):
    """Run the toy protocol without a progress bar."""
    job = ProtocolJob(
        protocol="toy-paper", dataset=root, settings=list(settings), options=CalibrationOptions(**options)
    )
    return run_protocol(job, registry, ignore)


def test_each_rule_feeds_its_own_measure(registry, mvtec):
    """Image score, pixel map and PRO map are three rules: upside down, the first two mirror their AUROC, PRO stays."""
    figures = run(registry, mvtec)
    for category, each in figures["categories"].items():
        raw = each["without_post_processing"]
        assert each["image_auroc"] == pytest.approx(1 - raw["image_auroc"])
        assert each["pixel_auroc"] == pytest.approx(1 - raw["pixel_auroc"])
        assert each["pixel_ap"] < raw["pixel_ap"]
        assert each["pro"] == raw["pro"]
        assert 0.5 < raw["pixel_auroc"] < 1
        assert each["post_processing"]["image"] == f"negative {category}"


def test_measured_and_published_stand_side_by_side(registry, mvtec):
    """The mean over the categories, the published figure, and all of it as JSON and as rows of a table."""
    figures = run(registry, mvtec)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert (figures["dataset"], figures["protocol"]) == ("mvtec-ad", "toy-paper")
    assert figures["published"] == {"image_auroc": 0.9}
    bottle, grid = (figures["categories"][name] for name in ("bottle", "grid"))
    assert bottle["image_auroc"] != grid["image_auroc"]
    for measure in MEASURES:
        assert figures["mean"][measure] == pytest.approx((bottle[measure] + grid[measure]) / 2)
    assert (bottle["n_references"], bottle["n_test"]) == (3, 3 + len(DEFECTS))
    assert bottle["image_auroc_per_class"].keys() == set(DEFECTS)
    assert 0 < bottle["latency_ms_p50"] <= bottle["latency_ms_p99"]
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table_rows(figures)]
    assert [row["category"] for row in rows] == ["bottle", "grid", "mean", "published"]
    assert [row["image_auroc"] for row in rows] == [
        bottle["image_auroc"], grid["image_auroc"], figures["mean"]["image_auroc"], 0.9
    ]  # fmt: skip
    assert rows[3]["pro"] is None


def test_missing_categories_are_said(registry, mvtec):
    """A mean over two of fifteen categories says which are missing and that the published one is over all."""
    figures = run(registry, mvtec)
    assert len(figures["missing"]) == 13
    assert figures["warnings"][0].startswith("13 of 15 categories are missing (cable, capsule, ")
    assert figures["warnings"][0].endswith("the mean is over the other 2, the published figure over all")
    assert {"tuned", "always said"} < set(figures["warnings"])


def test_the_users_settings_go_over_the_protocols_and_are_named(registry, mvtec):
    """Preset, then protocol, then user: the last one wins, and the figures say that they are not the protocol's."""
    planned = run(registry, mvtec)["categories"]["bottle"]
    assert (planned["settings"], planned["settings_are"]) == ({"side": 32}, "published")
    figures = run(registry, mvtec, "side=16")
    bottle = figures["categories"]["bottle"]
    assert (bottle["settings"], bottle["settings_are"]) == ({"side": 16}, "changed")
    assert "--set side=16 is not the protocol's setting" in figures["warnings"]
    same = run(registry, mvtec, "side=32")
    assert same["categories"]["bottle"]["settings_are"] == "published"
    assert not any("--set" in warning for warning in same["warnings"])


def loco(root, category="pushpins"):
    """Make a category of MVTec LOCO of a simulated product: four kinds of defect logical, three structural."""
    folder = root / category
    write_dataset(folder, SimulatedProduct(seed=5, size=(128, 128)), 3, 3, 1)
    (folder / "validation/good").mkdir(parents=True)
    for index, kind in enumerate(DEFECTS):
        group = "logical_anomalies" if index < 4 else "structural_anomalies"
        name = f"{index:03d}"
        (folder / f"test/{group}").mkdir(exist_ok=True)
        (folder / f"ground_truth/{group}/{name}").mkdir(parents=True)
        (folder / f"test/{kind}/000.png").rename(folder / f"test/{group}/{name}.png")
        (folder / f"ground_truth/{kind}/000_mask.png").rename(folder / f"ground_truth/{group}/{name}/000.png")
        shutil.rmtree(folder / "test" / kind)
        shutil.rmtree(folder / "ground_truth" / kind)
    return root


def test_loco_averages_logical_and_structural(registry, tmp_path):
    """On MVTec LOCO the image AUROC is the mean of two, each kind of anomaly against all good images."""
    figures = run(registry, loco(tmp_path / "loco"))
    pushpins = figures["categories"]["pushpins"]
    logical, structural = (pushpins["image_auroc_per_class"][f"{kind}_anomalies"] for kind in ("logical", "structural"))
    assert pushpins["n_test"] == 3 + len(DEFECTS)
    assert logical != structural
    assert pushpins["image_auroc"] == pytest.approx((logical + structural) / 2)
    assert pushpins["without_post_processing"]["image_auroc"] == pytest.approx(1 - pushpins["image_auroc"])
    assert figures["published"] == {"image_auroc": 0.7}
    assert any("mean of logical and structural" in warning for warning in figures["warnings"])


def test_loco_with_one_kind_only_has_no_average(registry, tmp_path):
    """Where a kind of anomaly is missing there is no average of two, and that is said."""
    root = loco(tmp_path / "loco")
    shutil.rmtree(root / "pushpins/test/logical_anomalies")
    shutil.rmtree(root / "pushpins/ground_truth/logical_anomalies")
    figures = run(registry, root)
    assert figures["categories"]["pushpins"]["image_auroc"] is None
    assert figures["mean"]["image_auroc"] is None
    assert "image_auroc is not defined for pushpins: not part of the mean" in figures["warnings"]


def test_visa_as_published_is_evaluated_with_settings_that_are_ours(registry, tmp_path):
    """VisA in its own layout gives image and pixel figures, and says that the settings are not the paper's."""
    root = tmp_path / "visa"
    write_dataset(root / "candle", SimulatedProduct(seed=6, size=(128, 128)), 3, 3, 1)
    rows = ["object,split,label,image,mask"]
    for split in ("train", "test"):
        for path in sorted((root / "candle" / split).rglob("*.png")):
            kind = path.parent.name
            mask = "" if kind == "good" else f"candle/ground_truth/{kind}/000_mask.png"
            label = "anomaly" if mask else "normal"
            rows.append(f"candle,{split},{label},{path.relative_to(root).as_posix()},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    figures = run(registry, root)
    candle = figures["categories"]["candle"]
    assert (candle["n_test"], candle["settings_are"]) == (3 + len(DEFECTS), "ours")
    assert None not in {candle[measure] for measure in MEASURES}
    assert "settings for VisA, candle: ours, not the paper's, which are not published" in figures["warnings"]


def test_images_without_a_mask_are_left_out_of_the_pixel_measures(registry, mvtec, tmp_path):
    """Without ground truth there are no pixel figures; the image AUROC is the same, and the gap is said."""
    root = tmp_path / "mvtec"
    shutil.copytree(mvtec, root)
    shutil.rmtree(root / "grid/ground_truth")
    figures, whole = run(registry, root), run(registry, mvtec)
    grid = figures["categories"]["grid"]
    assert [grid[measure] for measure in MEASURES[1:]] == [None] * 3
    assert grid["image_auroc"] == whole["categories"]["grid"]["image_auroc"]
    assert figures["mean"]["pro"] == whole["categories"]["bottle"]["pro"]
    assert "pro is not defined for grid: not part of the mean" in figures["warnings"]


def test_progress_names_the_category(registry, mvtec):
    """Every step of the progress says which category it belongs to."""
    seen = []
    run_protocol(
        ProtocolJob(protocol="toy-paper", dataset=mvtec), registry, lambda _done, _total, what: seen.append(what)
    )
    assert {each.split(": ")[0] for each in seen} == {"bottle", "grid"}
    assert "grid: scoring test images" in seen


@pytest.fixture
def _nothing_is_learnt(monkeypatch):
    """Fail the test as soon as a category is begun."""
    monkeypatch.setattr("calibration.protocol.learn", lambda *_: pytest.fail("learnt"))


@pytest.mark.usefixtures("_nothing_is_learnt")
@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        (["size=3"], {}, "mean-picture settings: size"),
        (["side"], {}, "expected KEY=VALUE"),
        ([], {"device": "tpu"}, "expected cpu, cuda or cuda:N"),
    ],
)
def test_wrong_options_are_refused_before_the_first_category(registry, mvtec, settings, options, words):
    """A setting or device that is wrong is told before anything is learnt."""
    with pytest.raises(ConfigError, match=words):
        run(registry, mvtec, *settings, **options)


def test_a_data_set_the_protocol_does_not_cover_is_refused(registry, mvtec):
    """A protocol without a figure for the data set says which it covers."""
    toy = registry.protocols["toy-paper"]
    published = {name: figure for name, figure in toy.published.items() if name != "mvtec-ad"}
    registry.protocols["toy-paper"] = replace(toy, published=published)
    with pytest.raises(ConfigError, match="expected a data set of mvtec-loco, visa, found MVTec AD in"):
        run(registry, mvtec)


def test_an_unknown_protocol_lists_what_there_is(registry, mvtec):
    """A protocol nobody brings is refused with those that are installed."""
    with pytest.raises(ConfigError, match="no evaluation protocol named 'paper': installed are toy-paper"):
        run_protocol(ProtocolJob(protocol="paper", dataset=mvtec), registry, ignore)
