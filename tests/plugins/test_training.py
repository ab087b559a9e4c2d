"""What the detectors that train share: the rule of ending, the loop's promises, spared references, measures."""

import numpy as np
import pytest
import torch

from edgead import Checkpoint, ConfigError, DetectorContext
from plugins.training import loop
from plugins.training.ahead import Ahead
from plugins.training.loop import Rules, Task, train
from plugins.training.measures import average_precision, precedence
from plugins.training.rates import cosine_rate
from plugins.training.sparing import FEWEST_TO_SPARE, spared
from plugins.training.state import State, snapshot

RULES = Rules(100, 6, 3)


@pytest.mark.parametrize(
    ("scores", "ended"),
    [
        ([0.5], False),
        ([0.5, 0.4, 0.4], False),
        ([0.5, 0.4, 0.4, 0.4], True),
        ([0.5, 0.4, 0.4, 0.5005], True),
        ([0.5, 0.4, 0.4, 0.502], False),
        ([0.5, 0.6, 0.5, 0.5, 0.5], True),
    ],
)
def test_training_ends_after_three_examinations_without_gain(scores, ended):
    """The stated rule: three in a row that are no more than 0.001 above the best before them."""
    assert RULES.ended(State(100, step=60, examined=list(enumerate(scores)))) is ended


def test_training_does_not_end_before_its_least_steps():
    """However flat the held-out score is, a training takes as many steps as its rules say at least."""
    flat = [(step, 0.5) for step in range(6)]
    assert not Rules(100, 6, 3, least=60).ended(State(100, step=59, examined=flat))
    assert Rules(100, 6, 3, least=60).ended(State(100, step=60, examined=flat))


def test_examinations_are_spread_evenly_and_the_last_step_is_one():
    """Whatever the number of steps is cut to."""
    assert RULES.examined_at(12) == {2, 4, 6, 8, 10, 12}
    assert 7 in RULES.examined_at(7)


class Line(Task):
    """Learns w of y = 3 x by descent on numbers drawn from (step): a training small enough to follow."""

    name = "line"
    renewed_every = 4

    def __init__(self, diverges=False):
        torch.manual_seed(0)
        self.network = self.kept = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        self.prepared, self.diverges, self.taken = [], diverges, 0

    def key(self):
        """Name it."""
        return "0" * 64

    def prepare(self, step, steps):
        """Remember being asked."""
        self.prepared.append((step, steps))

    def take(self, step, steps):
        """Descend."""
        del steps
        x = torch.from_numpy(np.random.default_rng([1, step]).normal(size=(8, 1)).astype(np.float32))
        loss = (self.network(x) - 3 * x).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.taken += 1
        return float("nan") if self.diverges else float(loss.detach())

    def record(self):
        """Return how many steps were taken."""
        return {"taken": self.taken}

    def resume(self, record):
        """Go on counting."""
        self.taken = record["taken"]

    def examine(self):
        """Tell how near w is to 3."""
        with torch.no_grad():
            return 1 / (1 + float((self.network[0].weight - 3).abs().sum()))


class Killed(BaseException):
    """What stands in for SIGKILL inside one process."""


def test_a_killed_loop_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """Killed at three steps, a training resumed from its checkpoint ends with weights and record of a whole one."""
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    whole, rules = Line(), Rules(20, 4, 4)
    expected = train(whole, rules, DetectorContext())

    for stop in (3, 9, 16):

        def progress(done, _total, _what, stop=stop):
            if done == stop:
                raise Killed

        with pytest.raises(Killed):
            train(Line(), rules, DetectorContext(progress=progress, checkpoint=Checkpoint(tmp_path)))
    resumed = Line()
    state = train(resumed, rules, DetectorContext(checkpoint=Checkpoint(tmp_path)))
    assert resumed.prepared[0][0] == 15
    assert resumed.taken == 20
    assert state.statistics() == expected.statistics()
    for name, tensor in snapshot(whole.network).items():
        assert torch.equal(tensor, snapshot(resumed.network)[name])


def test_the_best_examined_module_is_kept():
    """The network ends as it was at its best examination, not as the last step left it."""
    line = Line()
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    seen = []
    line.examine = lambda: (seen.append(snapshot(line.network)), next(scores))[1]
    state = train(line, Rules(8, 4, 9), DetectorContext())
    assert state.kept_step == 2
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in snapshot(line.network).items())
    assert any(not torch.equal(tensor, seen[-1][name]) for name, tensor in snapshot(line.network).items())


def test_a_budget_pays_for_every_preparation(monkeypatch):
    """Preparations of ten seconds every four steps and steps of one: 35 s after the probe pay for ten more steps."""
    clock = [0.0]

    class Slow(Line):
        def prepare(self, step, steps):
            super().prepare(step, steps)
            clock[0] += 0.0 if step % self.renewed_every else 10.0

        def take(self, step, steps):
            clock[0] += 1.0
            return super().take(step, steps)

    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    probe = 2 * 10 + loop.PROBE
    assert train(Slow(), Rules(100, 1, 1), DetectorContext(budget_s=probe + 35)).steps == loop.PROBE + 10


def test_a_loss_that_is_no_number_ends_training():
    """The error names the detector and the step, and says what to try."""
    with pytest.raises(ConfigError, match="line: training came to a loss of nan at step 1: try another seed"):
        train(Line(diverges=True), RULES, DetectorContext())


def test_pools_are_drawn_in_order_and_the_next_one_meanwhile():
    """Pool n holds pictures n * count onwards, whether it was begun ahead or not; nothing follows the last."""
    asked = []
    with Ahead(lambda number: (asked.append(number), number)[1], 3, DetectorContext()) as ahead:
        assert list(ahead.pool(4, last=False)) == [12, 13, 14]
        assert list(ahead.pool(5, last=True)) == [15, 16, 17]
    assert sorted(asked) == list(range(12, 18))


def test_rates_rise_and_fall_along_a_cosine():
    """A warm-up to the full rate, half of it half way, the last share at the end; constant where that is one."""
    rates = [cosine_rate(step, 105, 2.0, warm_up=5, last=0.0) for step in (0, 4, 55, 105)]
    assert rates == pytest.approx([0.4, 2.0, 1.0, 0.0])
    assert cosine_rate(80, 100, 2.0, warm_up=0, last=1.0) == 2.0


def test_enough_references_are_spared():
    """One in eight, never more than a hundred, none of a small set; all different."""
    assert spared(FEWEST_TO_SPARE - 1) == []
    for count in (16, 31, 200, 762, 5000):
        chosen = spared(count)
        assert len(set(chosen)) == len(chosen) == min(100, count // 8)


def test_measures_of_the_held_out_score():
    """AUROC and average precision on cases small enough to count by hand."""
    assert precedence(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(0.875)
    assert average_precision(np.array([True, False, True]), np.array([3.0, 2.0, 1.0])) == pytest.approx(5 / 6)
    assert average_precision(np.array([False]), np.array([3.0])) == 0.0
