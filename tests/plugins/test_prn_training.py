"""Training of PRN: what it is shown, that it learns and repeats, and that it goes on where it was killed."""

import numpy as np
import pytest
import torch

from edgead import Checkpoint, ConfigError, DefectRecipe, DetectorContext, Frame, MaskedFrame
from plugins.prn import Prn, examination, training
from plugins.prn.averaging import averaged, follow
from plugins.prn.features import resized
from plugins.prn.pictures import Pictures, turned
from plugins.prn.plan import CELLS, OPACITY, items_of, plan_of
from plugins.prn.settings import PrnSettings
from plugins.training import loop
from tests.plugins.prn_plates import SETTINGS, calibrated, plate, references, short, spoilt

#: Twelve short trainings; a busy machine takes its time.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Make the plan one that a unit test can wait for, and a checkpoint after every step."""
    monkeypatch.setattr(training, "plan_of", short)
    monkeypatch.setattr(examination, "DAMAGED", 4)
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)


@pytest.fixture(scope="module")
def trained():
    """Return a trained content, undisturbed, in one thread as every test runs."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plan_of", short)
        patch.setattr(examination, "DAMAGED", 4)
        return calibrated(references())


def assert_same_content(first, other):
    """Every array and every statistic is the same, bit for bit."""
    assert first.tensors.keys() == other.tensors.keys()
    for name, array in first.tensors.items():
        np.testing.assert_array_equal(array, other.tensors[name], err_msg=name)
    assert first.statistics == other.statistics


def pictures_of(count, recipe=None, defects=()):
    """Return the pictures of ``count`` plates of 64 x 64 pixels."""
    images = [np.ascontiguousarray(plate(number)[:64, :64]) for number in range(count)]
    return Pictures(images, range(count), None, recipe or DefectRecipe(clean=0.0), DetectorContext(defects=defects))


@pytest.mark.parametrize(("good", "items"), [(60, 120), (209, 417), (391, 781), (1, 3)])
def test_an_epoch_has_its_number_of_pictures(good, items):
    """R-12: every good frame once, half as many with real and half as many with simulated defects."""
    assert items_of(good)[0] == good
    assert sum(items_of(good)) == items


def test_an_epoch_shows_every_good_frame_and_as_many_damaged():
    """Each good frame comes once as it is, all other pictures have a defect; a number is always the same picture."""
    pictures, clean = pictures_of(9), []
    for number in range(17, 34):
        picture = pictures.draw(number)
        if not picture.mask.any():
            clean.append(next(n for n in range(9) if (picture.image[:, :, 0] == plate(n)[:64, :64]).all()))
        np.testing.assert_array_equal(picture.image, pictures.draw(number).image)
    assert sorted(clean) == list(range(9))
    assert clean != sorted(clean)


def test_real_defects_are_shown_as_they_are_and_placed():
    """A quarter of an epoch is real defects, some direct, the others pasted hard into a good frame."""
    crop = np.zeros((64, 64), bool)
    crop[20:40, 20:40] = True
    dark = MaskedFrame(Frame(np.full((64, 64), 7, np.uint8), "bad"), crop)
    with_real, without = pictures_of(40, defects=[dark]), pictures_of(40)
    drawn, plain = [with_real.draw(number) for number in range(80)], [without.draw(number) for number in range(80)]
    direct = [picture for picture in drawn if (picture.image == 7).all()]
    assert 4 <= len(direct) <= 16
    assert all((picture.mask == crop).all() for picture in direct)
    changed = [picture for picture, other in zip(drawn, plain, strict=True) if (picture.image != other.image).any()]
    assert len(changed) == 20
    assert all(picture.mask.any() for picture in changed)


def test_real_defects_are_resized_as_good_frames_are():
    """A real defect's picture has the very pixels a good frame of its image would have, and its mask at that size."""
    large = np.random.default_rng(0).integers(0, 256, (160, 200), np.uint8)
    mask = np.zeros(large.shape, bool)
    mask[80:, 100:] = True
    with_real = pictures_of(4, defects=[MaskedFrame(Frame(large, "bad"), mask)])
    expected = resized(large, 64)[:, :, None]
    direct = [each for each in map(with_real.draw, range(40)) if (each.image == expected).all()]
    assert direct
    assert all((each.mask == np.kron([[0, 0], [0, 1]], np.ones((32, 32)))).all() for each in direct)


def test_simulated_defects_are_blended_on_one_scale():
    """R-11: with every opacity a defect's pixels lie between the frame's and the material's, and are not darkened."""
    image = np.full((64, 64, 3), 200, np.uint8)
    material = Frame(np.full((64, 64, 3), 100, np.uint8), "material")
    for opacity, expected in ((1.0, 100), (0.7, 130), (0.3, 170)):
        recipe = DefectRecipe(clean=0.0, structural=0.0, opacity=(opacity, opacity), cells=CELLS)
        context = DetectorContext(textures=[material])
        pictures = Pictures([image] * 2, [0, 1], None, recipe, context)
        picture = next(each for each in map(pictures.draw, range(4)) if each.mask.any())
        assert set(picture.image[picture.mask].flatten()) <= {expected, expected - 1}
        assert (picture.image[~picture.mask] == 200).all()
    assert OPACITY == (0.2, 1.0)


def test_turned_frames_have_no_black_corners():
    """What comes in when a texture is turned is its mirror image."""
    assert turned(np.full((40, 40), 90, np.uint8), 37.0).min() >= 89


def test_the_full_plan_is_the_papers():
    """Batch, rate, decay and epochs of the specification, for 209 frames: 8 steps an epoch, 5600 steps."""
    plan = plan_of(PrnSettings(train="full", kind="object"), 209, 1)
    assert (plan.steps, plan.batch, plan.rate, plan.decay, plan.average) == (5600, 48, 1e-4, 1e-2, 0.999)
    assert plan.rate_at(plan.steps, plan.steps) == pytest.approx(1e-6)
    assert (plan.least, plan.examinations, plan.patience, plan.uses) == (1600, 70, 10, 1)
    assert (plan.recipe.opacity, plan.recipe.cells, plan.recipe.structural) == ((0.2, 1.0), 8, 0.5)
    assert plan_of(PrnSettings(train="full", kind="texture"), 209, 1).turned == 0.3


def test_pools_fit_their_memory():
    """However large a picture's maps are, a pool has at least a batch."""
    plan = plan_of(PrnSettings(kind="texture"), 100, 1 << 40)
    assert plan.pictures == plan.batch


def test_the_running_mean_follows_the_network():
    """It forgets the start quickly, then keeps its share; nothing flows back."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    mean = averaged(network)
    torch.nn.init.ones_(network.weight)
    follow(mean, network, 0.9, 0)
    assert float(mean.weight) == pytest.approx(0.9)
    follow(mean, network, 0.5, 1000)
    assert float(mean.weight) == pytest.approx(0.95)
    assert not mean.weight.requires_grad
    assert torch.equal(network.weight.detach(), torch.ones(1, 1))


def test_the_same_seed_gives_the_same_template(trained):
    """Repeated with the same seed every bit is the same; with another seed the network is another."""
    assert_same_content(trained, calibrated(references()))
    other = calibrated(references(), DetectorContext(seed=1), train_steps=2)
    name = "network.decoder.logit.weight"
    assert (other.tensors[name] != trained.tensors[name]).any()


class Killed(BaseException):
    """What stands in for SIGKILL inside one process."""


def test_killed_training_ends_with_the_same_template(trained, tmp_path):
    """Stopped at three steps and started anew each time, it ends with the template of an undisturbed run."""
    for stop in (2, 12, 17):

        def progress(done, _total, what, stop=stop):
            if what.startswith("training:") and done >= stop:
                raise Killed

        with pytest.raises(Killed):
            calibrated(references(), DetectorContext(progress=progress, checkpoint=Checkpoint(tmp_path)))
    assert_same_content(trained, calibrated(references(), DetectorContext(checkpoint=Checkpoint(tmp_path))))


def test_another_calibrations_checkpoint_is_refused(tmp_path):
    """Other references or another seed are another training."""
    calibrated(references(6), DetectorContext(checkpoint=Checkpoint(tmp_path)), train_steps=1)
    for frames, seed in ((references(7), 0), (references(6), 1)):
        with pytest.raises(ConfigError, match="another's"):
            calibrated(frames, DetectorContext(seed=seed, checkpoint=Checkpoint(tmp_path)), train_steps=1)


def test_nothing_is_learnt_from_spared_references(trained):
    """Other pixels in the spared references change neither prototypes nor, examinations apart, the network."""
    frames = references()
    for number in trained.statistics["unseen"]:
        frames[number] = Frame(plate(900 + number), f"good/{number}")
    other = calibrated(frames)
    for name, array in trained.tensors.items():
        if name.startswith(("prototypes.", "counts.")):
            np.testing.assert_array_equal(array, other.tensors[name])
    assert other.statistics["training"]["loss"] == trained.statistics["training"]["loss"]


def test_a_preview_shows_what_the_network_is_trained_on(monkeypatch):
    """Its pictures are those a training of the same seed draws, bit for bit, each with its mask and its name."""
    settings, context = PrnSettings.model_validate(SETTINGS), DetectorContext(seed=3)
    shown = Prn().training_pictures(references(), settings, context, 12)
    drawn, trained_on = Pictures.draw, {}
    monkeypatch.setattr(Pictures, "draw", lambda self, number: trained_on.setdefault(number, drawn(self, number)))
    calibrated(references(), context, train_steps=3)
    for number, each in enumerate(shown):
        np.testing.assert_array_equal(each.frame.image, trained_on[number].image)
        np.testing.assert_array_equal(each.mask, trained_on[number].mask)
        assert each.mask.any() == (each.frame.name != "clean")
    assert len({each.frame.name for each in shown}) > 1


def test_without_a_good_frame_nothing_is_shown():
    """As in a calibration, the error says what was expected."""
    with pytest.raises(ConfigError, match="expected at least one good frame, found none"):
        Prn().training_pictures([], PrnSettings.model_validate(SETTINGS), DetectorContext(), 4)


def test_a_budget_ends_training_early():
    """With no time left after the probe, training ends there."""
    statistics = calibrated(references(6), DetectorContext(budget_s=1e-6)).statistics["training"]
    assert statistics["steps"] == loop.PROBE


def test_real_defects_change_what_is_learnt():
    """A few masked defects are among the pictures, and half of the examination is theirs."""
    real = [MaskedFrame(Frame(image, f"bad/{n}"), mask) for n, (image, mask) in enumerate(map(spoilt, (0, 1)))]
    with_real = calibrated(references(), DetectorContext(defects=real), train_steps=4)
    without = calibrated(references(), train_steps=4)
    assert with_real.statistics["training"]["examined"] != without.statistics["training"]["examined"]
    name = "network.decoder.logit.weight"
    assert (with_real.tensors[name] != without.tensors[name]).any()
