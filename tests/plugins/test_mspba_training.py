"""Training of MSPBA's encoders: it learns, it repeats, it goes on where it was killed, and it does not collapse."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from edgead import Checkpoint, ConfigError, DetectorContext, Frame
from plugins.mspba import Mspba, sources, training
from plugins.mspba.embedding import Encoder, Planes, trunk_of
from plugins.mspba.encoders import Learner, heads_of
from plugins.mspba.losses import position_loss
from plugins.mspba.plan import clusters_of, plan_of
from plugins.mspba.settings import MspbaSettings
from plugins.mspba.sources import Sources
from plugins.mspba.training import groups_of
from plugins.training import loop
from plugins.training.sparing import spared
from runtime.testing.product import SimulatedProduct

SIDE = 192
PARTS = 16
SMALL = {"train": "budget", "image_size": SIDE, "dimension": 8, "bank_rows": 64, "spare_rows": 8}


@pytest.fixture(scope="module")
def references():
    """Return good parts, uint8 [192, 192, 3]."""
    product = SimulatedProduct(seed=2, size=(SIDE, SIDE))
    return [Frame(product.draw(index).image, f"{index}.png") for index in range(PARTS)]


def small(settings, references, bytes_a_picture):
    """Return a plan that a unit test can wait for."""
    plan = plan_of(settings, references, bytes_a_picture)
    steps = 12 if settings.train_steps == "auto" else settings.train_steps
    short = replace(plan, steps=steps, batch=24, pictures=6, uses=32, warm_up=2, examinations=3, epoch=2)
    return replace(short, batch=2, examinations=2, least=0) if settings.train == "full" else short


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Train for a moment, and write a checkpoint after every step."""
    monkeypatch.setattr(training, "plan_of", small)
    monkeypatch.setattr(sources, "_PICTURES", 4)
    monkeypatch.setattr(sources, "_EXAMINED", 96)
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)


def calibrated(references, context=None, **given):
    """Return what mspba learns from the parts."""
    settings = MspbaSettings.model_validate({**SMALL, **given})
    return Mspba().calibrate(references, settings, context or DetectorContext())


def heads(content):
    """Return the trained arrays."""
    return {name: each for name, each in content.tensors.items() if name.startswith(("heads.", "backbone."))}


def assert_same(first, other):
    """Every array of two contents is the same, bit for bit."""
    assert first.tensors.keys() == other.tensors.keys()
    assert heads(first)
    for name, array in first.tensors.items():
        np.testing.assert_array_equal(array, other.tensors[name])


@pytest.fixture(scope="module")
def trained(references):
    """Return a trained content, undisturbed, in one thread as every test runs."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plan_of", small)
        patch.setattr(sources, "_PICTURES", 4)
        patch.setattr(sources, "_EXAMINED", 96)
        return calibrated(references)


@pytest.fixture(scope="module")
def planes(references):
    """Return the parts as training sees them."""
    settings = MspbaSettings(**SMALL)
    encoder = Encoder(settings, trunk_of(settings), heads_of(settings), None)
    levels = np.stack([each.image for each in references]).transpose(0, 3, 1, 2)
    return Planes(torch.tensor(levels), encoder.normalise)


def test_training_learns_to_tell_directions(references):
    """Seventy steps on six pictures bring directions on parts never trained on well above chance, which is 1/12."""
    content = calibrated(references, train_steps=70)
    examined = content.statistics["training"]["examined"]
    assert examined[0][1] == pytest.approx(1 / 12, abs=0.01)
    assert max(score for _, score in examined) > 1.3 / 12
    assert content.statistics["training"]["similarity_weight"] == 1e-3


def test_the_same_seed_gives_the_same_template(references, trained):
    """Repeated with the same seed every bit is the same; with another seed it is not."""
    assert_same(trained, calibrated(references))
    other = calibrated(references, DetectorContext(seed=1), train_steps=1)
    assert (other.tensors["heads.0.0.weight"] != trained.tensors["heads.0.0.weight"]).any()


class Killed(BaseException):
    """What stands in for SIGKILL inside one process."""


def killed(references, folder, stop, **given):
    """Train until step ``stop`` and die there."""

    def progress(done, _total, what):
        if what.startswith("training") and done >= stop:
            raise Killed

    with pytest.raises(Killed):
        calibrated(references, DetectorContext(progress=progress, checkpoint=Checkpoint(folder)), **given)


def test_killed_training_ends_with_the_same_template(references, trained, tmp_path):
    """Stopped at several steps, one of them twice, and started anew, it ends as an undisturbed run does."""
    for stop in (1, 4, 4, 9, 12):
        killed(references, tmp_path, stop)
    finished = calibrated(references, DetectorContext(checkpoint=Checkpoint(tmp_path)))
    assert_same(trained, finished)
    assert finished.statistics == trained.statistics


def test_another_calibrations_checkpoint_is_refused(references, tmp_path):
    """Other references, another seed or other settings are another training."""
    killed(references, tmp_path, 2, train_steps=2)
    for frames, seed, steps in ((references[:-1], 0, 2), (references, 1, 2), (references, 0, 3)):
        context = DetectorContext(seed=seed, checkpoint=Checkpoint(tmp_path))
        with pytest.raises(ConfigError, match="another's"):
            calibrated(frames, context, train_steps=steps)


@pytest.mark.parametrize("train", ["budget", pytest.param("full", marks=pytest.mark.slow)])
def test_spared_references_are_never_trained_on(references, monkeypatch, train):
    """No step reads one of them; the content names them, and the detector says so."""
    seen, steps = set(), []
    read = Planes.__getitem__

    def watched(self, number):
        if steps:
            seen.add(number)
        return read(self, number)

    monkeypatch.setattr(Planes, "__getitem__", watched)
    take = training._EncodersTask.take
    prepare = training._EncodersTask.prepare

    def around(method):
        def wrapped(self, *arguments):
            steps.append(1)
            result = method(self, *arguments)
            steps.pop()
            return result

        return wrapped

    monkeypatch.setattr(training._EncodersTask, "take", around(take))
    monkeypatch.setattr(training._EncodersTask, "prepare", around(prepare))
    content = calibrated(references, train=train, train_steps=3)
    unseen = content.statistics["unseen"]
    assert unseen == spared(PARTS)
    assert unseen
    assert seen
    assert not seen & set(unseen)
    assert list(Mspba().unseen(content)) == unseen


@pytest.mark.slow
def test_a_backbone_that_learns_is_kept_and_survives_kills(references, tmp_path):
    """With train full the template has a backbone of its own, changed by the training, the same after a kill."""
    given = {"train": "full", "train_steps": 4, "normalisation": "mean"}
    whole = calibrated(references, **given)
    published = trunk_of(MspbaSettings(**SMALL)).state_dict()
    changed = {name for name, each in published.items() if (whole.tensors[f"backbone.{name}"] != each.numpy()).any()}
    assert any(name.startswith("segments.0.") for name in changed)
    assert whole.tensors["mean_image"].shape == (SIDE, SIDE, 3)
    killed(references, tmp_path, 2, **given)
    assert_same(whole, calibrated(references, DetectorContext(checkpoint=Checkpoint(tmp_path)), **given))


def test_published_training_runs_with_its_slips(references):
    """Patch by patch, clipped at the border, last layer fixed: it trains and answers with a finite bank."""
    content = calibrated(
        references[:3], train="full", mode="patch", parity=True, train_steps=2, normalisation="mean", balance=False
    )
    assert content.statistics["unseen"] == []
    assert content.tensors["weights"].tolist() == [1, 1, 1]
    assert all(np.isfinite(each).all() for each in content.tensors.values())


def task_of(planes, settings, steps=8):
    """Return a training task that examines the last two parts."""
    plan = replace(small(settings, PARTS, 1), steps=steps)
    backbone = trunk_of(settings)
    learner = training._start(settings, backbone if settings.train == "full" else None, 0)
    found = Sources(settings, plan, planes, backbone, context=DetectorContext())
    return training._EncodersTask(
        settings, plan, learner, found.training(range(PARTS - 2)), found.examination([PARTS - 2, PARTS - 1]),
        planes=planes, context=DetectorContext(),
    )  # fmt: skip


def test_without_similarity_gradients_are_those_of_the_position_task(planes):
    """M-16: with both weights 0 every gradient is that of the pure position loss; with one it is not."""
    found = []
    for weight in (0.0, 0.5):
        task = task_of(planes, MspbaSettings(**SMALL, similarity_weight=weight))
        windows = task.source.draw(np.random.default_rng(0), 24, 0)
        task.loss(windows).backward()
        found.append([each.grad.clone() for each in task.kept.heads.parameters()])
        task.kept.zero_grad()
    losses = []
    for level, each in enumerate(windows):
        first, second, *_ = each.embedded(task.kept.heads[level])
        losses.append(position_loss(task.kept.classifiers[level](first, second), each.directions))
    sum(losses).backward()
    pure = [each.grad for each in task.kept.heads.parameters()]
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-7) for one, other in zip(found[0], pure, strict=True))
    assert not all(torch.allclose(one, other, rtol=1e-4, atol=1e-7) for one, other in zip(found[1], pure, strict=True))


def test_a_collapse_restores_the_examination_before(planes):
    """A learner found constant goes back to what it was, its similarity weight a tenth."""
    task = task_of(planes, MspbaSettings(**SMALL))
    task.examine()
    for step in range(2):
        task.take(step, 8)
    task.examine()
    before = {name: each.clone() for name, each in task.kept.state_dict().items()}
    task.take(2, 8)
    with torch.no_grad():
        for head in task.kept.heads:
            head[-2].weight.zero_()
            head[-2].bias.fill_(1.0)
    assert task._measured()[1]
    score = task.examine()
    assert score > 0
    assert float(task.kept.doubt) == 1
    after = task.kept.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items() if name != "doubt")
    assert not task.optimiser.state


def test_at_chance_the_latest_examination_counts(planes):
    """Where directions cannot be told, later scores are above earlier ones, by less than any real gain."""
    task = task_of(planes, MspbaSettings(**SMALL))
    collapsed = False
    task._measured = lambda: (math.exp(-math.log(12)), collapsed)
    scores = [task.examine()]
    for step in range(3):
        task.take(step, 8)
        collapsed = step == 1
        scores.append(task.examine())
    assert float(task.kept.doubt) == 1
    assert all(0 < later - earlier < 1e-6 for earlier, later in pairwise(scores))


def test_no_parameter_is_given_twice():
    """M-10: each is in one group; a backbone three times as fast gives the triple step, 1.0 to 0.7."""
    settings = MspbaSettings(**{**SMALL, "train": "full"}, parity=True)
    learner = Learner(settings, trunk_of(settings).requires_grad_())
    plan = plan_of(settings, 10, 1)
    groups = groups_of(learner, plan)
    given = [id(each) for group in groups for each in group["params"]]
    assert len(given) == len(set(given)) == len(list(learner.parameters()))
    assert [group["share"] for group in groups] == [1.0, 3.0]
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.Adam([{"params": [weight], "lr": 0.1 * groups[1]["share"]}])
    weight.grad = torch.ones(1)
    optimiser.step()
    assert weight.item() == pytest.approx(0.7, abs=1e-6)


def test_grouping_sets_centres_that_pull(references):
    """With a cluster weight the centres are set on the way and the embeddings are pulled: other heads, no failure."""
    plain = calibrated(references[:3], train_steps=13)
    pulled = calibrated(references[:3], train_steps=13, cluster_weight=1.0)
    assert (plain.tensors["heads.2.0.weight"] != pulled.tensors["heads.2.0.weight"]).any()
    assert [clusters_of(count) for count in (1, 60, 209, 10_000)] == [10, 26, 48, 50]


def test_the_full_plan_is_the_authors():
    """A hundred epochs of a hundred draws, batches of 64, Adam at 1e-5 for all of it."""
    plan = plan_of(MspbaSettings(train="full", backbone="vgg16"), 209, 1)
    assert (plan.epoch, plan.steps, plan.batch, plan.rate, plan.last_rate) == (327, 32_700, 64, 1e-5, 1.0)
    assert (plan.backbone_rate, plan.examinations, plan.patience, plan.least) == (1.0, 100, 10, 3270)
