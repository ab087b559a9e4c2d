"""Training of the local heads: it learns, it repeats, it goes on where it was killed, and it ends by its rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgead import Checkpoint, ConfigError, DetectorContext, Frame, MaskedFrame, SyntheticDefects
from plugins.cpr import CprFaster, training
from plugins.cpr import examination as examination_module
from plugins.cpr.batches import draw_batch
from plugins.cpr.examination import best_of, candidates
from plugins.cpr.learning import Prepared
from plugins.cpr.lrb import LocalHeads, normalised
from plugins.cpr.plan import POOL_BYTES, plan_of
from plugins.cpr.pool import Pictures, Pool
from plugins.cpr.settings import CprFasterSettings, CprFastSettings, CprSettings
from plugins.cpr.training import UNTOLD, start_from_raw
from plugins.training import loop
from plugins.training.measures import average_precision
from plugins.training.sparing import spared
from tests.plugins.cpr_plates import PLATES, SETTINGS, SIDE, calibrated, good_plates, scratched, short


@pytest.fixture(scope="module")
def references():
    """Return good plates."""
    return good_plates()


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Make plans that a unit test can wait for, and a checkpoint after every step."""
    monkeypatch.setattr(examination_module, "ENOUGH", 2)  # the plates spare two
    monkeypatch.setattr(training, "plan_of", short)
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)


def heads_of(content):
    """Return the trained arrays."""
    return {name: array for name, array in content.tensors.items() if name.startswith("head.")}


def assert_same_heads(first, other):
    """Every trained array is the same, bit for bit."""
    assert heads_of(first).keys() == heads_of(other).keys()
    assert heads_of(first)
    for name, array in heads_of(first).items():
        np.testing.assert_array_equal(array, other.tensors[name])


def precision_of(content, count=10):
    """Return the average precision over all pixels of scratched plates."""
    detector = CprFaster()
    graph, bank = detector.graph(content, (SIDE, SIDE, 1)), detector.bank(content).values()
    values, truth = [], []
    for number in range(count):
        image, mask = scratched(number)
        with torch.inference_mode():
            values.append(graph(torch.from_numpy(image)[None, :, :, None], *bank)[0][0].numpy())
        truth.append(mask)
    return average_precision(np.stack(truth).ravel(), np.stack(values).ravel())


@pytest.fixture(scope="module")
def trained(references):
    """Return a trained content, undisturbed, in one thread as every test runs."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_S", 1e9)
        patch.setattr(examination_module, "ENOUGH", 2)
        patch.setattr(training, "plan_of", short)
        return calibrated(references)


def test_training_finds_what_raw_features_do_not(references, trained):
    """A short training raises the held-out score, and scratches it never saw are told better than by raw features."""
    examined = trained.statistics["training"]["examined"]
    assert examined[0][0] == 0
    assert max(score for _, score in examined[1:]) > examined[0][1]
    raw = calibrated(references, train="none")
    assert precision_of(trained) > precision_of(raw) + 0.03


def test_the_loss_falls(references):
    """The running loss at the end is below that of the first step by a tenth at least, and lower than half way."""
    told = []
    context = DetectorContext(progress=lambda _done, _total, what: told.append(what))
    calibrated(references, context)
    losses = [float(what.split("loss ")[1].split(",")[0]) for what in told if "loss" in what]
    assert len(losses) == 24
    assert losses[-1] < min(0.9 * losses[0], losses[12])


def test_the_same_seed_gives_the_same_heads(references, trained):
    """Repeated with the same seed every bit is the same; with another seed it is not."""
    again = calibrated(references)
    assert_same_heads(trained, again)
    assert again.settings == trained.settings
    other = calibrated(references, DetectorContext(seed=1), raw_share=0.0)
    name = "head.stage2.layers.0.weight"
    assert (other.tensors[name] != calibrated(references, raw_share=0.0).tensors[name]).any()


class Killed(BaseException):
    """What stands in for SIGKILL inside one process."""


@pytest.mark.parametrize("steps", [(3,), (1, 2, 5, 5, 9, 13, 17, 20, 23, 24)])
def test_killed_training_ends_with_the_same_heads(references, trained, steps, tmp_path):
    """Stopped once, or ten times, at whatever step, and started anew, it ends with the heads of an undisturbed run."""
    for stop in steps:

        def progress(done, _total, what, stop=stop):
            if what.startswith("training") and done >= stop:
                raise Killed

        with pytest.raises(Killed):
            calibrated(references, DetectorContext(progress=progress, checkpoint=Checkpoint(tmp_path)))
    finished = calibrated(references, DetectorContext(checkpoint=Checkpoint(tmp_path)))
    assert_same_heads(trained, finished)
    assert finished.statistics == trained.statistics


def test_another_calibrations_checkpoint_is_refused(references, tmp_path):
    """Other references, another seed or other settings are another training."""
    given = {"train_steps": 2}
    calibrated(references, DetectorContext(checkpoint=Checkpoint(tmp_path)), **given)
    for frames, seed, other in (
        (references[:-1], 0, given), (references, 1, given), (references, 0, {"train_steps": 3}),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="another's"):
            calibrated(frames, DetectorContext(seed=seed, checkpoint=Checkpoint(tmp_path)), **other)


def test_a_budget_ends_training_early(references):
    """With no time left after the probe, training ends there; with plenty no step is cut."""
    short = calibrated(references, DetectorContext(budget_s=1e-6)).statistics["training"]
    assert short["steps"] == short["planned_steps"] == loop.PROBE
    # Its own rule may end it, but not before the probe.
    long = calibrated(references, DetectorContext(budget_s=3600.0), train_steps=12).statistics["training"]
    assert long["planned_steps"] == 12
    assert long["steps"] >= loop.PROBE


def test_spared_references_are_never_trained_on(references, trained, monkeypatch):
    """Neither as a picture nor as its reference; the content names them, and the detector says so."""
    seen = set()
    drawn = training.Pictures.drawn_from

    def watched(self, source, number, *, vary):
        picture = drawn(self, source, number, vary=vary)
        if vary:
            seen.add(source)
            seen.update(row for row, _ in picture.references)
        return picture

    monkeypatch.setattr(training.Pictures, "drawn_from", watched)
    content = calibrated(references, train_steps=10, raw_share=0.5)
    unseen = content.statistics["unseen"]
    assert unseen == spared(PLATES) == trained.statistics["unseen"]
    assert unseen
    assert not seen & set(unseen)
    assert list(CprFaster().unseen(content)) == unseen


def test_untrained_and_small_sets_spare_nothing(references):
    """Without training, or with too few references, every reference may be left out for its held-out score."""
    assert CprFaster().unseen(calibrated(references, train="none")) is None
    few = calibrated(references[:4], train_steps=2, raw_share=0.0)
    assert CprFaster().unseen(few) is None
    assert heads_of(few)
    assert few.statistics["training"]["examined"] == []


def test_two_references_are_enough_and_one_is_compared_as_it_is(references):
    """Two plates can be trained on; a single one has nothing to be compared with and keeps the raw features."""
    assert heads_of(calibrated(references[:2], train_steps=2, raw_share=0.0))
    assert not heads_of(calibrated(references[:1], raw_share=0.0))


def test_real_defects_are_learnt_from(references):
    """A few masked defects change what training sees, and so its loss: they are among the pictures."""
    real = [MaskedFrame(Frame(image, f"bad/{n}"), mask) for n, (image, mask) in enumerate(map(scratched, (50, 51)))]
    with_real = calibrated(references, DetectorContext(defects=real), train_steps=4)
    without = calibrated(references, train_steps=4)
    assert with_real.statistics["training"]["loss"] != without.statistics["training"]["loss"]


def test_heads_start_from_the_raw_features():
    """Wide enough heads give the backbone's cosines exactly before the first step, narrow ones nearly."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 24, 9, 9, generator=generator) @ torch.diag(torch.linspace(1, 2, 9)) for _ in range(3)]
    for width, tolerance in ((32, 1e-5), (23, 0.3)):
        heads = LocalHeads((24,), width, shortcut=True)
        start_from_raw(heads, [maps])
        with torch.no_grad():
            local, raw = (normalised(each)[0].flatten(1) for each in (heads.eval()((maps[0],))[0], maps[0]))
        assert float((local.T @ local - raw.T @ raw).abs().max()) < tolerance


@pytest.mark.parametrize(
    ("window", "coarse", "side"), [(80, 20, 5), (80, 40, 10), (1, 20, 1), (999, 20, 20), (None, 20, 20)]
)
def test_windows_are_whole_pixels_of_the_coarsest_map(window, coarse, side):
    """A window of 80 pixels of a 320-pixel frame is a quarter of any map, at least a pixel and at most all of it."""
    masks = np.zeros((1, 320, 320), bool)
    pool = Pool((torch.zeros(2, coarse, coarse, 1),), np.array([[1]]), masks, masks, None)
    plan = replace(plan_of(CprFasterSettings(kind="texture"), 1), window=window, batch=2)
    batch = draw_batch(pool, plan, 320, coarse, np.random.default_rng(0), remote=False)
    assert batch.side == side
    assert int((batch.corners + side).max()) <= coarse


def test_the_full_plan_is_the_papers():
    """Steps, batch, pairs, rates and margins of the specification, for parts and for surfaces."""
    for kind, steps, remote, structural in (("object", 40_000, True, 0.5), ("texture", 500, False, 0.0)):
        plan = plan_of(CprSettings(train="full", kind=kind), 1)
        assert (plan.steps, plan.batch, plan.pairs, plan.window) == (steps, 32, 300, None)
        assert (plan.rate_at(0, steps), plan.rate_at(steps - 1, steps), plan.decay) == (1e-3, 1e-3, 1e-2)
        assert (plan.remote, plan.compared, plan.from_raw, plan.uses, plan.like) == (remote, 1, False, 1, 1.0)
        assert (plan.recipe.structural, plan.recipe.strokes, plan.recipe.opacity) == (structural, 0.0, (0.5, 1.0))


def test_pools_fit_their_memory():
    """However large a picture's maps are, a pool has at least a batch and no more than its bytes otherwise."""
    huge = plan_of(CprFastSettings(kind="texture"), 1 << 40)
    assert huge.pictures == huge.batch
    assert plan_of(CprFasterSettings(kind="texture"), 1).pictures == 256


def test_pictures_are_used_more_often_where_a_pool_holds_few():
    """Four times in a pool of 256, eight in one of half the room, never more than sixteen; normal pairs weigh two."""
    for pictures, uses in ((256, 4), (128, 8), (16, 16)):
        plan = plan_of(CprFasterSettings(kind="texture"), POOL_BYTES // pictures // 5)
        assert (plan.pictures, plan.uses, plan.like) == (pictures, uses, 2.0)


def test_parts_are_trained_longer_and_lose_pieces():
    """The budget for two cores: twice the steps of surfaces, and a recipe that takes pieces of what it knows."""
    parts, surfaces = (plan_of(CprFasterSettings(kind=kind), 1) for kind in ("object", "texture"))
    assert (parts.steps, surfaces.steps) == (900, 450)
    assert parts.recipe.missing == 0.5


def test_training_pictures_of_parts_lack_pieces(references):
    """What the pool is made of knows the part, so that about half of the pictures are damaged by a missing piece."""
    part = np.zeros((PLATES, SIDE // 4, SIDE // 4), np.float32)
    part[:, 5:15, 5:15] = 1.0
    prepared = Prepared(
        is_object=True, rankings=torch.arange(PLATES).repeat(PLATES, 1), foregrounds=torch.from_numpy(part)
    )
    recipe = plan_of(CprFasterSettings(kind="object"), 1).recipe
    defects, kinds = SyntheticDefects(references, recipe=recipe), []
    draw = defects.draw
    defects.draw = lambda *given, **named: (planted := draw(*given, **named), kinds.append(planted.kind))[0]
    pictures = Pictures(references, range(PLATES), prepared, defects, size=SIDE, compared=1)
    for number in range(60):
        pictures.draw(number)
    assert 15 <= kinds.count("missing piece") <= 40


def test_a_preview_shows_what_heads_are_trained_on(references, monkeypatch):
    """Its pictures are the first that training draws, bit for bit, each with its mask and its name."""
    seen = []
    drawn = training.Pictures.draw
    monkeypatch.setattr(training.Pictures, "draw", lambda self, number: (seen.append(number), drawn(self, number))[1])
    context = DetectorContext(seed=5)
    shown = CprFaster().training_pictures(references, CprFasterSettings.model_validate(SETTINGS), context, 12)
    assert seen == list(range(12))
    trained_on = {}
    monkeypatch.setattr(
        training.Pictures, "draw", lambda self, number: trained_on.setdefault(number, drawn(self, number))
    )
    calibrated(references, context)
    for number, each in enumerate(shown):
        np.testing.assert_array_equal(each.frame.image, trained_on[number].image)
        np.testing.assert_array_equal(each.mask, trained_on[number].mask)
        assert each.mask.any() == (each.frame.name != "clean")
    assert len({each.frame.name for each in shown}) > 1


@pytest.mark.parametrize(
    ("given", "count", "message"),
    [
        ({"train": "none"}, PLATES, "train: none"),
        ({"raw_share": 1.0}, PLATES, "raw_share: 1 in every layer"),
        ({}, 15, "15 good frames, too few to spare any"),
        ({"raw_share": 0.0}, 1, r"1 good frame\(s\)"),
        ({}, 0, r"0 good frame\(s\)"),
        ({"head_file": "heads.pt"}, PLATES, "a head_file"),
    ],
)
def test_a_preview_says_why_nothing_is_trained(references, given, count, message):
    """Where calibration would train nothing, there is nothing to show, and the error says why."""
    settings = CprFasterSettings.model_validate(SETTINGS | given)
    with pytest.raises(ConfigError, match=message):
        CprFaster().training_pictures(references[:count], settings, DetectorContext(), 4)


def test_where_nothing_can_be_spared_nothing_is_trained(references):
    """Fewer than sixteen references get the backbone's features: of heads that saw all no threshold could be taken."""
    content = calibrated(references[:15])
    assert content.settings["raw_share"] == [1.0, 1.0]
    assert "training" not in content.statistics
    assert calibrated(references[:15], raw_share=0.0, train_steps=1).settings["raw_share"] == [0.0, 0.0]


def test_training_ends_only_where_nothing_is_gained(references, monkeypatch):
    """However little the held-out score rises, training goes on: near 1 a small gain is a large part of the error."""
    seen = []
    monkeypatch.setattr(
        training, "train", lambda task, rules, context: (seen.append(rules), loop.train(task, rules, context))[1]
    )
    calibrated(references, train_steps=2)
    assert [rules.gain for rules in seen] == [0.0]


def test_the_loss_is_of_the_plans_weight(references, monkeypatch):
    """What a plan says a normal pair weighs reaches the loss."""
    short = training.plan_of

    def heavy(settings, size):
        return replace(short(settings, size), like=20.0)

    light = calibrated(references, train_steps=1).statistics["training"]["loss"]
    monkeypatch.setattr(training, "plan_of", heavy)
    assert calibrated(references, train_steps=1).statistics["training"]["loss"] > 2 * light


def test_heads_that_are_not_used_are_neither_trained_nor_spared_for(references, trained):
    """With a share of 1 nothing is trained; where training chooses it, thresholds may be taken of every reference."""
    content = calibrated(references, raw_share=1.0)
    assert "training" not in content.statistics
    assert content.settings["raw_share"] == [1.0, 1.0]
    assert CprFaster().unseen(trained) == trained.statistics["unseen"]
    untaken = replace(trained, settings=dict(trained.settings) | {"raw_share": [1.0, 1.0]})
    assert CprFaster().unseen(untaken) is None


def test_a_share_that_is_set_is_kept_and_auto_is_decided(references, trained):
    """Spared references decide "auto" among its candidates; a number is every layer's."""
    tried = {tuple(shares): score for shares, score in trained.statistics["raw_shares"]}
    assert tuple(tried) == candidates(CprFasterSettings.model_validate(SETTINGS))
    assert tuple(trained.settings["raw_share"]) == best_of(tried)
    assert calibrated(references, raw_share=0.3, train_steps=2).settings["raw_share"] == [0.3, 0.3]


def test_too_few_spared_references_choose_nothing(references, monkeypatch):
    """They neither pick heads nor shares: the last heads are used, and count half."""
    monkeypatch.setattr(examination_module, "ENOUGH", 3)
    content = calibrated(references, train_steps=2)
    assert content.statistics["training"]["examined"] == []
    assert content.statistics["unseen"] == spared(PLATES)
    assert content.settings["raw_share"] == [UNTOLD, UNTOLD] == [0.5, 0.5]
