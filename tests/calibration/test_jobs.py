"""Jobs: what was asked, checked before the long part; what was found, as a record."""

import pytest

from calibration import jobs
from calibration.calibrate import CalibrationOptions
from calibration.jobs import CalibrationJob, EvaluationJob, chosen_settings, run_calibration, run_evaluation
from runtime.errors import ConfigError, TemplateError
from runtime.registry import load_plugins
from runtime.store import Store
from runtime.testing.product import SimulatedProduct, write_dataset

REGISTRY = load_plugins(("plugins.hetmm", "runtime.testing.nothing"), entry_points=False)
QUICK = ("image_size=64", "windows=d0")
OPTIONS = CalibrationOptions(threads=1)


def quiet(*_):
    """Show no progress."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Return a small set: 6 references, 2 good test images, one of each defect."""
    root = tmp_path_factory.mktemp("jobs")
    write_dataset(root, SimulatedProduct(seed=0, size=(128, 128)), 6, 2, 1)
    return root


@pytest.fixture
def no_work(monkeypatch):
    """Fail if the long part is reached."""

    def worked(*_):
        pytest.fail("the long part was reached")

    monkeypatch.setattr(jobs.calibration, "calibrate", worked)
    monkeypatch.setattr(jobs.evaluation, "learn", worked)
    monkeypatch.setattr(jobs.evaluation, "evaluate", worked)


def job(dataset, tmp_path, **changes):
    """Return a calibration job."""
    usual = {"product": "part", "detector": "hetmm", "settings": [*QUICK], "options": OPTIONS, "who": "ann"}
    return CalibrationJob(dataset=dataset, store=tmp_path / "store", **(usual | changes))


def test_settings_are_defaults_then_preset_then_assignments(tmp_path):
    """What is nearer to the command line wins; what nobody sets keeps its default."""
    hetmm = REGISTRY.detector("hetmm")
    (tmp_path / "p.yaml").write_text(
        "schema: edgead.preset/1\ndetector: hetmm\nsettings: {image_size: 128, blur_sigma: 2.0}\n"
    )
    chosen = chosen_settings(hetmm, str(tmp_path / "p.yaml"), ["image_size=64", "windows=[[5, 3], [5, 3], [3, 3]]"])
    assert (chosen.image_size, chosen.blur_sigma, chosen.score) == (64, 2.0, "top_mean")
    assert chosen.windows == ((5, 3), (5, 3), (3, 3))
    assert chosen_settings(hetmm, None, []) == hetmm.settings_model()
    assert chosen_settings(hetmm, "hetmm-d0", []).windows == "d0"


@pytest.mark.parametrize(
    "text", ["image_size", "=64", "image_size=[", "nosuch=1", "image_size=many", "image_size=true "]
)
def test_wrong_settings_are_refused(text):
    """What is no KEY=VALUE, no YAML, no setting or no value of it is refused."""
    with pytest.raises(ConfigError):
        chosen_settings(REGISTRY.detector("hetmm"), None, [text])


def test_a_preset_of_another_detector_is_refused():
    """A preset is for its own detector only."""
    with pytest.raises(ConfigError, match="nothing"):
        chosen_settings(REGISTRY.detector("nothing"), "hetmm", [])


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "changes",
    [
        {"product": "Part"},
        {"product": ""},
        {"detector": "nosuch"},
        {"settings": ["nosuch=1"]},
        {"options": CalibrationOptions(false_reject=1.0)},
        {"options": CalibrationOptions(device="tpu")},
        {"options": CalibrationOptions(device="cpu:0")},
        {"options": CalibrationOptions(device="cuda:99")},
        {"who": ""},
        {"who": "a" * 201},
        {"why": "a" * 2001},
    ],
)
def test_mistakes_are_found_before_the_long_part(changes, dataset, tmp_path):
    """A calibration that cannot end well is refused before anything is learnt."""
    with pytest.raises(ConfigError):
        run_calibration(job(dataset, tmp_path, **changes), REGISTRY, quiet)


@pytest.mark.usefixtures("no_work")
def test_a_report_nobody_can_write_is_found_first(dataset, tmp_path):
    """A report in a place that is taken is refused before anything is learnt."""
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(ConfigError, match="another place"):
            run_calibration(job(dataset, tmp_path, report=place), REGISTRY, quiet)


def test_the_longest_who_and_why_are_stored(dataset, tmp_path):
    """What the check before the long part lets through, the ref log takes."""
    wanted = job(dataset, tmp_path, detector="nothing", settings=[], who="a" * 200, why="b" * 2000)
    run_calibration(wanted, REGISTRY, quiet)
    [(entry, _)] = Store(tmp_path / "store").log("part", "nothing")
    assert (entry.who, entry.why) == ("a" * 200, "b" * 2000)


def test_a_calibration_is_stored_and_activated(dataset, tmp_path):
    """The summary is that of the template in the store, which is active if asked for, with who and why in its log."""
    report = tmp_path / "deep" / "report.html"
    summary = run_calibration(job(dataset, tmp_path, activate=True, why="try", report=report), REGISTRY, quiet)
    store = Store(tmp_path / "store")
    active = store.active("part", "hetmm")
    assert summary["template"] == active.digest
    assert summary["image_threshold"] == active.manifest.thresholds.image
    assert [(entry.action, entry.who, entry.why) for entry, _ in store.log("part", "hetmm")] == [
        ("create", "ann", "try"),
        ("activate", "ann", "try"),
    ]
    assert report.read_text(encoding="utf-8").startswith("<!")
    assert store.verify() == []


def test_without_leave_one_out_some_are_held_back(dataset, tmp_path):
    """A detector that cannot leave a reference out learns without those its thresholds rest on."""
    wanted = job(dataset, tmp_path, detector="nothing", settings=[])
    summary = run_calibration(wanted, REGISTRY, quiet)
    assert (summary["n_references"], summary["held_out"]) == (4, 2)
    assert summary["false_reject_bound"] == pytest.approx(1 / 3)
    assert "99" in summary["warnings"][0]


def test_evaluating_a_template_is_evaluating_what_was_learnt(dataset, tmp_path):
    """A stored template gives the figures of its own calibration: storing it changes no score."""
    asked = EvaluationJob(
        dataset=dataset, detector="hetmm", settings=[*QUICK], options=OPTIONS, scores=tmp_path / "a.csv"
    )
    learnt = run_evaluation(asked, REGISTRY, quiet)
    template = run_calibration(job(dataset, tmp_path), REGISTRY, quiet)["template"]
    stored_job = EvaluationJob(
        dataset=dataset, detector="hetmm", template=template, store=tmp_path / "store", options=OPTIONS,
        scores=tmp_path / "b.csv",
    )  # fmt: skip
    stored = run_evaluation(stored_job, REGISTRY, quiet)
    for figure in ("image_auroc", "pixel_auroc", "pixel_ap", "pro", "per_class", "n_references", "n_test", "settings"):
        assert stored[figure] == learnt[figure], figure
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_a_template_of_another_detector_is_refused(dataset, tmp_path):
    """The detector asked for must be the template's, and the message says which it is."""
    template = run_calibration(job(dataset, tmp_path), REGISTRY, quiet)["template"]
    asked = EvaluationJob(dataset=dataset, detector="nothing", template=template, store=tmp_path / "store")
    with pytest.raises(ConfigError, match="--detector hetmm"):
        run_evaluation(asked, REGISTRY, quiet)
    with pytest.raises(TemplateError):
        run_evaluation(
            EvaluationJob(dataset=dataset, detector="hetmm", template="00ff", store=tmp_path), REGISTRY, quiet
        )


def test_a_template_of_another_version_is_refused(dataset, tmp_path, monkeypatch):
    """A template made by another version of the detector is not evaluated with this one: both are named."""
    wanted = job(dataset, tmp_path, detector="nothing", settings=[])
    template = run_calibration(wanted, REGISTRY, quiet)["template"]
    monkeypatch.setattr("runtime.testing.nothing.Nothing.version", "1.1")
    asked = EvaluationJob(dataset=dataset, detector="nothing", template=template, store=tmp_path / "store")
    with pytest.raises(TemplateError, match=r"nothing 1\.1, .*made by version 1: calibrate again"):
        run_evaluation(asked, REGISTRY, quiet)


@pytest.mark.usefixtures("no_work")
def test_an_evaluation_without_test_images_is_refused_first(dataset):
    """A set without test images is refused before anything is learnt."""
    asked = EvaluationJob(dataset=dataset / "train" / "good", detector="hetmm")
    with pytest.raises(ConfigError, match="test images"):
        run_evaluation(asked, REGISTRY, quiet)
