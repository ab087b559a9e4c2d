"""The hot update: new good frames become part of a template, and the operator is told what that means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pytest
import torch

from calibration import gate
from calibration.calibrate import CalibrationOptions, calibrate, plant_damage, resolve_settings
from calibration.calibrate import save as save_calibration
from calibration.dataset import Sample
from calibration.extend import extend, save
from calibration.extension import ExtensionOptions
from calibration.references import References
from calibration.threshold import conformal_threshold
from plugins.hetmm import Hetmm
from runtime.detector import TemplateContent
from runtime.engines.engine import Engine
from runtime.errors import ConfigError, PluginError, TemplateError
from runtime.images import write_png
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity
from runtime.store.template import Template

CALIBRATION = CalibrationOptions(false_reject=0.2, threads=1)
OPTIONS = ExtensionOptions(threads=1)
EVERYTHING = replace(OPTIONS, everything=True)


def silent(_done, _total, _what):
    """Report progress to nobody."""


def identity(detector):
    """Return who made a template."""
    return DetectorIdentity(name=detector.name, version=detector.version, distribution="edgead")


@dataclass
class Bench:
    """A store, and what makes and extends templates in it."""

    store: Store
    detector: object
    settings: dict

    def calibrated(self, references) -> Template:
        """Store a template learnt from ``references``."""
        settings = resolve_settings(self.detector, self.settings)
        found = calibrate(self.detector, references, settings, CALIBRATION, silent)
        return save_calibration(
            found, self.store, product="bracket", detector=identity(self.detector), who="tests", why=""
        )

    def extended(self, template, frames, options=OPTIONS, former=None, progress=silent):
        """Return the extension, and the template it was stored as."""
        found = extend(self.detector, template, frames, options, progress, former=former)
        return found, save(found, self.store, detector=identity(self.detector), who="tests", why="")


@pytest.fixture
def bench(hetmm, tiny, tmp_path):
    """Return a bench of HETMM with an empty store."""
    return Bench(Store.create(tmp_path / "store"), hetmm, tiny)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes images to files and returns them as frames."""

    def write(**images):
        folder = tmp_path / "frames"
        folder.mkdir(exist_ok=True)
        for name, image in images.items():
            write_png(folder / f"{name}.png", image)
        names = [f"{name}.png" for name in images]
        return References([Sample(folder / name, name, "good", None) for name in names])

    return write


class PooledMean:
    """Mixed into a toy whose bank is the mean picture: every picture is in its pool, which only extend reads."""

    room = 0

    def calibrate(self, references, settings, context):
        """Learn as the toy does, and keep each picture."""
        one_by_one = [super(PooledMean, self).calibrate([frame], settings, context) for frame in references]
        return self._of(settings.side, np.stack([each.tensors["mean"] for each in one_by_one]))

    def extend(self, content, references, context):
        """Average the pool and the new pictures."""
        settings = self.settings_model.model_validate(dict(content.settings))
        added = self.calibrate(references, settings, context).pool["pictures"]
        return self._of(settings.side, np.concatenate([content.pool["pictures"], added]))

    def _of(self, side, pictures):
        mean = pictures.mean(axis=0, dtype=np.float32)
        count, room = len(pictures), max(len(pictures), self.room)
        pool = {"pictures": pictures.astype(np.float32)}
        return TemplateContent({"side": side}, {"mean": mean}, room, count, (side, side), pool=pool)


@pytest.fixture
def pooled(mean_picture, tmp_path):
    """Return a bench of the toy with a pool."""
    detector = type("Pooled", (PooledMean, type(mean_picture)), {})()
    return Bench(Store.create(tmp_path / "pooled"), detector, {})


@pytest.mark.parametrize("count", [1, 4, 9])
def test_extending_equals_calibrating_on_everything(bench, references, count):
    """Whatever part was there first: bank and provenance are those of a calibration on all frames together."""
    whole = bench.calibrated(references)
    first, rest = references.only(range(count)), references.only(range(count, 10))
    found, longer = bench.extended(bench.calibrated(first), rest, EVERYTHING)
    assert longer.manifest.bank == whole.manifest.bank
    assert longer.manifest.references == whole.manifest.references
    assert longer.manifest.settings == whole.manifest.settings
    assert longer.manifest.parent == found.parent.digest
    assert bench.store.verify() == []


def test_thresholds_set_anew_are_those_of_calibrating_on_everything(bench, references):
    """With the former references the held-out scores and thresholds are taken over all, as a calibration would."""
    whole = bench.calibrated(references)
    first, rest = references.only(range(7)), references.only(range(7, 10))
    shuffled = References(first.samples[::-1])
    _, longer = bench.extended(bench.calibrated(first), rest, EVERYTHING, former=shuffled)
    assert longer.manifest.thresholds == whole.manifest.thresholds
    assert longer.manifest.held_out_scores == whole.manifest.held_out_scores


def test_thresholds_are_kept_otherwise(bench, references):
    """Without the former references cuts, bound and held-out scores stay, and the rule names whose they are."""
    parent = bench.calibrated(references.only(range(6)))
    _, longer = bench.extended(parent, references.only(range(6, 8)), EVERYTHING)
    _, longest = bench.extended(longer, references.only(range(8, 10)), EVERYTHING)
    old = parent.manifest.thresholds
    for template in (longer, longest):
        kept = template.manifest.thresholds
        assert (kept.image, kept.pixel, kept.target, kept.bound, kept.held_out) == (
            old.image,
            old.pixel,
            old.target,
            old.bound,
            old.held_out,
        )
        assert kept.rule == f"split-conformal, leave-one-out, kept from {parent.digest[:12]}"
        assert template.manifest.held_out_scores == parent.manifest.held_out_scores
    assert longest.manifest.parent == longer.digest


def test_frames_below_the_median_are_left_out(bench, references):
    """The gate inserts exactly the frames that score at least the median held-out score, and names the others."""
    parent = bench.calibrated(references.only(range(5)))
    engine = Engine(bench.detector, parent.content(), threads=1)
    rest = references.only(range(5, 10))
    scores = {sample.name: engine.infer(rest[index].image).score for index, sample in enumerate(rest.samples)}
    least = median(scores.values())  # as held-out scores, so that some of the frames are on either side
    halved = parent.manifest.model_copy(update={"held_out_scores": (0.0, least, 9.0)})
    parent = bench.store.put_manifest(halved, who="tests")
    found, longer = bench.extended(parent, rest)
    worth = [name for name, score in scores.items() if score >= least]
    assert len(worth) == 3
    assert [frame.name for frame in found.frames if frame.inserted] == worth
    assert found.skipped == {gate.NOTHING_NEW: tuple(name for name in scores if name not in worth)}
    assert {frame.name: frame.before for frame in found.frames} == scores
    assert [each.name for each in longer.manifest.references[5:]] == worth
    assert longer.manifest.bank.valid == 8


def test_everything_is_inserted_when_asked(bench, references):
    """With ``everything`` the gate lets through what has nothing to teach."""
    parent = bench.calibrated(references.only(range(8)))
    strict = parent.manifest.model_copy(update={"held_out_scores": (9.0,)})
    parent = bench.store.put_manifest(strict, who="tests")
    rest = references.only([8, 9])
    none = extend(bench.detector, parent, rest, OPTIONS, silent)
    assert none.made is None
    assert none.skipped == {gate.NOTHING_NEW: tuple(sample.name for sample in rest.samples)}
    assert [frame.after for frame in none.frames] == [None, None]
    assert none.warnings == (f"no frame was inserted: the template stays {parent.digest[:12]}",)
    with pytest.raises(ConfigError, match="found none: no frame was inserted"):
        save(none, bench.store, detector=identity(bench.detector), who="tests", why="")
    assert bench.extended(parent, rest, EVERYTHING)[1].manifest.bank.valid == 10


def test_frames_it_has_already_are_skipped(bench, references, written):
    """A frame whose bytes are a reference's, or another new frame's, is skipped under any name and said so."""
    image = references[9].image
    frames = written(copy=references[2].image, new=image, again=image)
    own = references.samples[2].path.read_bytes()
    frames.samples[0].path.write_bytes(own)
    found, longer = bench.extended(bench.calibrated(references.only(range(6))), frames, EVERYTHING)
    assert found.skipped == {gate.KNOWN: ("copy.png",), gate.TWICE: ("again.png",)}
    assert [frame.name for frame in found.frames] == ["new.png"]
    assert longer.manifest.bank.valid == 7
    assert longer.manifest.references[6].sha256 == frames.digests[1][1]


def test_frames_score_lower_once_they_are_inserted(bench, references, written):
    """Each frame is listed with its score before and after; a frame above the threshold is warned about as a defect."""
    parent = bench.calibrated(references.only(range(6)))
    frames = written(odd=plant_damage(references[7].image), usual=references[8].image)
    found, longer = bench.extended(parent, frames, EVERYTHING)
    odd, usual = found.frames
    assert odd.before > parent.manifest.thresholds.image
    assert odd.after == pytest.approx(0, abs=1e-3)
    assert usual.after == pytest.approx(0, abs=1e-3)
    engine = Engine(Hetmm(), longer.content(), threads=1)
    assert [engine.infer(frames[index].image).score for index in (0, 1)] == [odd.after, usual.after]
    cut = parent.manifest.thresholds.image
    above = [frame.name for frame in found.frames if frame.before > cut]
    assert found.warnings[0] == (
        f"{len(above)} of 2 new frames score above the threshold {cut:.4g} ({', '.join(above)}): look at each: "
        "a defect that is inserted is not found any more"
    )


def test_golden_frames_are_answered_again(bench, references):
    """The new template keeps the golden frames with the answers of the new bank, so that a worker can prove itself."""
    parent = bench.calibrated(references.only(range(6)))
    _, longer = bench.extended(parent, references.only([8, 9]), EVERYTHING)
    engine = Engine(Hetmm(), longer.content(), threads=1)
    assert len(longer.golden()) == 6
    for old, new in zip(parent.golden(), longer.golden(), strict=True):
        assert np.array_equal(new.frame, old.frame)
        answer = engine.infer(new.frame)
        assert answer.anomaly_map.tobytes() == new.anomaly_map.tobytes()
        assert np.float32(answer.score) == np.float32(new.score)
        assert new.score <= old.score + 1e-5


def test_a_defect_that_is_hidden_is_warned_about(bench, references, written):
    """Inserting frames with the planted damage hides it: the golden frames say so. Good frames do not."""
    parent = bench.calibrated(references.only(range(6)))
    damaged = [each.frame for each in parent.golden()[3:]]
    found, _ = bench.extended(parent, written(a=damaged[0], b=damaged[1], c=damaged[2]))
    assert any(warning.startswith("3 of 3 golden frames with planted damage were NotOK") for warning in found.warnings)
    honest, _ = bench.extended(parent, references.only([8, 9]), EVERYTHING)
    assert not any("golden" in warning for warning in honest.warnings)


def test_growth_of_the_capacity_is_said(pooled, references):
    """Where new references fit the room nothing is said; where the capacity grows the warning says what follows."""
    pooled.detector.room = 6
    parent = pooled.calibrated(references.only(range(5)))
    assert (parent.manifest.bank.valid, parent.manifest.bank.capacity) == (4, 6)
    fits, within = pooled.extended(parent, references.only([6, 7]), EVERYTHING)
    assert (within.manifest.bank.valid, within.manifest.bank.capacity) == (6, 6)
    assert not any("capacity" in warning for warning in fits.warnings)
    grown, beyond = pooled.extended(within, references.only([8]), EVERYTHING)
    assert (beyond.manifest.bank.valid, beyond.manifest.bank.capacity) == (7, 7)
    assert "capacity 6 -> 7: compiled graphs must be rebuilt" in grown.warnings


def test_the_pool_is_lent_and_kept(pooled, references):
    """A detector gets its pool back to extend, stores the longer one, and the station's content has none of it."""
    parent = pooled.calibrated(references.only(range(5)))
    assert parent.content().pool == {}
    kept = len(parent.manifest.references)
    assert parent.content(pool=True).pool["pictures"].shape == (kept, 16, 16)
    found, longer = pooled.extended(parent, references.only([5, 6]), EVERYTHING)
    pool = longer.content(pool=True).pool["pictures"]
    assert len(pool) == kept + 2
    assert np.array_equal(pool[:kept], parent.pool()["pictures"])
    np.testing.assert_allclose(longer.bank()["mean"], pool.mean(axis=0), rtol=1e-6)
    assert found.made.content.pool.keys() == {"pictures"}
    assert pooled.store.verify() == []


def test_scores_that_rise_cost_the_promise(pooled, references, written):
    """Where new references raise a frame's score the kept thresholds promise no rate any more, and that is said."""
    parent = pooled.calibrated(references.only(range(5)))
    black = np.zeros((128, 128, 3), np.uint8)
    found, longer = pooled.extended(parent, written(black=black), EVERYTHING)
    assert longer.manifest.thresholds.image == parent.manifest.thresholds.image
    assert parent.manifest.thresholds.bound is not None
    assert longer.manifest.thresholds.bound is None
    assert any("promise no false-reject rate any more" in warning for warning in found.warnings)


def test_without_leave_out_frames_the_bank_never_had_are_held_out(pooled, references):
    """Thresholds set anew rest on former frames that are in no bank and not among the new ones."""
    parent = pooled.calibrated(references.only(range(8)))
    kept = {reference.name for reference in parent.manifest.references}
    held = [index for index in range(8) if references.samples[index].name not in kept]
    _, longer = pooled.extended(parent, references.only([8, 9]), EVERYTHING, former=references)
    engine = Engine(pooled.detector, longer.content(), threads=1)
    scores = [engine.infer(references[index].image).score for index in held]
    assert held == [0, 5]
    assert longer.manifest.held_out_scores == tuple(scores)
    assert longer.manifest.thresholds.image == conformal_threshold(scores, 0.2).value
    assert longer.manifest.thresholds.rule == "split-conformal, split"
    with pytest.raises(ConfigError, match="does not hold"):
        pooled.extended(longer, references.only([5]), EVERYTHING, former=references.without([0]))


def test_template_without_held_out_scores_takes_every_frame(bench, references):
    """With nothing to compare with, every new frame counts as worth inserting, and the operator is told."""
    found, longer = bench.extended(bench.calibrated(references.only([0])), references.only([1, 2]))
    assert longer.manifest.bank.valid == 3
    assert longer.manifest.thresholds.image is None
    assert "no held-out scores" in found.warnings[0]


@pytest.fixture
def no_work(monkeypatch):
    """Fail if the detector is asked to extend."""
    monkeypatch.setattr(Hetmm, "extend", lambda *_: pytest.fail("the long part was reached"))


def test_a_detector_that_cannot_extend_is_refused(mean_picture, references, tmp_path):
    """A detector without ``extend`` is named, with the way out, before a frame is decoded."""
    toy = Bench(Store.create(tmp_path / "toy"), mean_picture, {})
    parent = toy.calibrated(references.only(range(5)))
    lost = References([Sample(tmp_path / "lost.png", "lost.png", "good", None)])
    with pytest.raises(ConfigError, match="mean-picture, which cannot: calibrate again"):
        extend(mean_picture, parent, lost, OPTIONS, silent)


@pytest.mark.usefixtures("no_work")
def test_what_does_not_fit_the_template_is_refused(bench, mean_picture, references, monkeypatch):
    """No frame, another detector, another version and a former reference that is not there are refused by name."""
    parent = bench.calibrated(references.only(range(5)))
    new = references.only([8, 9])
    with pytest.raises(ConfigError, match="at least one new good frame"):
        extend(bench.detector, parent, references.only([]), OPTIONS, silent)
    with pytest.raises(ConfigError, match="one of mean-picture, found one of hetmm"):
        extend(mean_picture, parent, new, OPTIONS, silent)
    with pytest.raises(TemplateError, match=r"all its 5 references to set thresholds anew, found 4 .*good/003"):
        extend(bench.detector, parent, new, OPTIONS, silent, former=references.without([3]))
    monkeypatch.setattr(Hetmm, "version", "99")
    with pytest.raises(TemplateError, match="found 99 installed"):
        extend(bench.detector, parent, new, OPTIONS, silent)


@pytest.mark.usefixtures("no_work")
def test_unreadable_frames_are_refused(bench, references, written):
    """A file that is no picture, or is not there, is named, and no frame beside it is inserted."""
    parent = bench.calibrated(references.only(range(5)))
    new = references.only([8, 9])
    broken = written(broken=references[0].image)
    broken.samples[0].path.write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"whole image in .*broken\.png"):
        extend(bench.detector, parent, References([*new.samples, *broken.samples]), OPTIONS, silent)
    broken.samples[0].path.unlink()
    with pytest.raises(ConfigError, match=r"image files that can be read, found .*broken\.png"):
        extend(bench.detector, parent, References(broken.samples), OPTIONS, silent)


def test_other_weights_are_refused(bench, references):
    """A template made with another weight file is not extended with features of this one."""
    parent = bench.calibrated(references.only(range(3)))
    foreign = parent.manifest.model_copy(update={"weights": dict.fromkeys(parent.manifest.weights, "0" * 64)})
    parent = bench.store.put_manifest(foreign, who="tests")
    with pytest.raises(TemplateError, match="this machine has"):
        extend(bench.detector, parent, references.only([8]), OPTIONS, silent)


def test_a_machine_that_answers_otherwise_is_refused(bench, references):
    """New frames are not measured where the golden frames come out differently than when the template was made."""
    found = calibrate(
        bench.detector, references.only(range(3)), resolve_settings(bench.detector, bench.settings), CALIBRATION, silent
    )
    elsewhere = tuple(replace(each, score=each.score + 0.1) for each in found.golden)
    parent = save_calibration(
        replace(found, golden=elsewhere),
        bench.store,
        product="bracket",
        detector=identity(bench.detector),
        who="tests",
        why="",
    )
    with pytest.raises(TemplateError, match="frame 0: expected score"):
        extend(bench.detector, parent, references.only([8]), OPTIONS, silent)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"settings": {"side": 8}}, "keep the settings"), ({"map_shape": (8, 8)}, "keep the map_shape")],
)
def test_content_the_thresholds_do_not_fit_is_the_plugins_fault(pooled, references, monkeypatch, change, message):
    """Extending may not change settings or map shape: the thresholds would judge other scores."""
    parent = pooled.calibrated(references.only(range(5)))
    honest = type(pooled.detector).extend
    monkeypatch.setattr(type(pooled.detector), "extend", lambda *given: replace(honest(*given), **change))
    with pytest.raises(PluginError, match=message):
        extend(pooled.detector, parent, references.only([8]), EVERYTHING, silent)


def test_a_detector_that_declines_is_an_error(pooled, references, monkeypatch):
    """A detector whose extend returns None for this content is named, with the way out."""
    parent = pooled.calibrated(references.only(range(5)))
    monkeypatch.setattr(type(pooled.detector), "extend", lambda *_: None)
    with pytest.raises(ConfigError, match="which cannot: calibrate again with the new frames"):
        extend(pooled.detector, parent, references.only([8]), EVERYTHING, silent)


def test_progress_is_told_for_every_stage(bench, references):
    """Every stage counts up to its total, so a bar drawn from it ends full."""
    heard = {}

    def hear(done, total, what):
        heard.setdefault(what, []).append((done, total))

    parent = bench.calibrated(references.only(range(3)))
    rest = references.only([8, 9])
    bench.extended(parent, rest, EVERYTHING, former=references.only(range(3)), progress=hear)
    two, five = [(1, 2), (2, 2)], [(number, 5) for number in range(1, 6)]
    assert heard == {
        "scoring new frames": two,
        "extracting references": two,
        "scoring new frames again": two,
        "scoring held-out frames": five,
    }


def test_the_parent_is_left_alone(bench, references):
    """Extending writes a new template and changes neither the parent nor what is active."""
    parent = bench.calibrated(references.only(range(4)))
    bench.store.activate(parent.digest, who="tests")
    before = {name: tensor.copy() for name, tensor in parent.bank().items()}
    _, longer = bench.extended(parent, references.only([8, 9]), EVERYTHING)
    assert longer.digest != parent.digest
    assert bench.store.active("bracket", "hetmm").digest == parent.digest
    for name, tensor in parent.bank().items():
        assert torch.equal(torch.from_numpy(tensor), torch.from_numpy(before[name]))
