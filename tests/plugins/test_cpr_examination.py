"""The held-out score of CPR's training: what it compares, how it judges, and what room it takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgead import UNSEEN_KINDS, SyntheticDefects
from plugins.cpr import comparing
from plugins.cpr import examination as examination_module
from plugins.cpr.comparing import compare
from plugins.cpr.examination import COMPARED, EACH, LEAST_ERROR, beside_more, best_of, candidates, examine
from plugins.cpr.graph import Features
from plugins.cpr.learning import Prepared
from plugins.cpr.pool import Pictures
from plugins.cpr.settings import CprFasterSettings
from tests.plugins.cpr_plates import PLATES, SETTINGS, SIDE, good_plates


@pytest.fixture(scope="module")
def references():
    """Return good plates."""
    return good_plates()


def test_the_local_comparison_of_the_examination():
    """Maps shifted by a pixel are alike within a reach of one, and not at the very place; shares mix two cosines."""
    generator = torch.Generator().manual_seed(1)
    raw, local = (
        torch.nn.functional.normalize(torch.randn(1, channels, 5, 5, generator=generator), dim=1) for channels in (4, 3)
    )
    raw, local = (torch.cat((each, each.roll(1, dims=3))) for each in (raw, local))
    for share in (0.0, 1.0):  # of which one product is not made
        alone = compare(raw, local, 1, (share,), reach=1)
        torch.testing.assert_close(alone, compare(raw, local, 1, (share, 0.4), reach=1)[:1])
    assert float(compare(raw, local, 1, (0.0, 0.4, 1.0), reach=1)[..., :-1].abs().max()) < 1e-6
    heads, mixed, own = compare(raw, local, 1, (0.0, 0.4, 1.0), reach=0)
    torch.testing.assert_close(own[0], 1 - (raw[0] * raw[1]).sum(0))
    torch.testing.assert_close(heads[0], 1 - (local[0] * local[1]).sum(0))
    torch.testing.assert_close(mixed, 0.4 * own + 0.6 * heads)
    assert float(own.max()) > 0.1


@pytest.mark.parametrize(("height", "width", "reach"), [(1, 1, 1), (3, 5, 1), (4, 2, 0)])
def test_the_local_comparison_is_its_definition(height, width, reach, monkeypatch):
    """Place by place, reference by reference: the best mixed cosine within the reach, edges of references repeated."""
    monkeypatch.setattr(comparing, "MOST_PRODUCTS", 2 * width * 4 * 9 * 2)  # bands of a row or two
    generator = torch.Generator().manual_seed(2)
    raw, local = (
        torch.nn.functional.normalize(torch.randn(6, c, height, width, generator=generator), dim=1) for c in (5, 3)
    )
    found = compare(raw, local, 2, (0.0, 0.3), reach=reach)
    for share, maps in zip((0.0, 0.3), found, strict=True):
        for picture, y, x in np.ndindex(2, height, width):
            mixed = [
                share * raw[picture, :, y, x] @ raw[other, :, there_y, there_x]
                + (1 - share) * local[picture, :, y, x] @ local[other, :, there_y, there_x]
                for other in range(2, len(raw))
                for there_y in np.clip(range(y - reach, y + reach + 1), 0, height - 1)
                for there_x in np.clip(range(x - reach, x + reach + 1), 0, width - 1)
            ]
            assert float(maps[picture, y, x]) == pytest.approx(1 - float(max(mixed)), abs=1e-6)


def test_shares_that_are_tried():
    """Every layer's head alone, half or not at all, never more head in a coarser layer; no heads first."""
    tried = candidates(CprFasterSettings())
    assert tried[0] == (1.0, 1.0, 1.0)
    assert len(set(tried)) == len(tried) == 10
    assert {(0.0, 0.0, 0.0), (0.0, 0.5, 1.0), (0.5, 0.5, 0.5)} < set(tried)
    assert all(list(shares) == sorted(shares) for shares in tried)


def test_the_score_weighs_both_errors_alike(examination):
    """An image AUROC and an average precision that lack as much to 1 cost as much, and none less than the least."""
    scored = replace(examination, masks=np.ones_like(examination.masks), seen=np.ones_like(examination.seen))
    distances = torch.ones(EACH, 6, SIDE // 4, SIDE // 4)
    distances[0] = 0.5
    # Every pixel is damage, so that average precision is 1, and every damaged picture is above every clean one.
    assert scored.judge(distances) == pytest.approx(1 - LEAST_ERROR)
    distances[0, :3] = 2.0  # half of the clean ones look worse than any damage
    assert scored.judge(distances) == pytest.approx(1 - (0.5 * LEAST_ERROR) ** 0.5)
    # All pictures are told, and one pixel is damage, second to another one: a precision of a half.
    one = np.zeros_like(scored.masks)
    one[..., 0, 0] = True
    distances = torch.zeros(EACH, 6, SIDE // 4, SIDE // 4)
    distances[1:, :, 0, 0] = torch.arange(6) + 1.0
    distances[1:, :, 0, 1] = torch.arange(6) + 1.5
    found = replace(scored, masks=one).judge(distances)
    assert found == pytest.approx(1 - (0.5 * LEAST_ERROR) ** 0.5)


class Blind(torch.nn.Module):
    """A head that gives noise, other noise every time, whatever it sees."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        """Return noise [B, 4, H, W]."""
        return torch.randn(x.shape[0], 4, *x.shape[2:], generator=self.generator)


@pytest.fixture(scope="module")
def plates(references):
    """Return pictures of the plates, of which six are spared, and the backbone."""
    prepared = Prepared(is_object=False, rankings=torch.arange(PLATES).repeat(PLATES, 1), foregrounds=None)
    pictures = Pictures(references, range(6, PLATES), prepared, SyntheticDefects(references), size=SIDE, compared=1)
    return pictures, Features(CprFasterSettings.model_validate(SETTINGS)).eval()


@pytest.fixture(scope="module")
def examination(plates):
    """Return an examination of six plates on two layers."""
    told = candidates(CprFasterSettings.model_validate(SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination_module, "ENOUGH", 6)
        return examine(plates[0], range(6), plates[1], "cpu", seed=0, candidates=told, most=10_000)


def test_an_examination_prefers_what_tells_damage(examination):
    """Beside heads that know nothing the backbone's features win, and the less noise is mixed in, the better."""
    blind = torch.nn.ModuleList((Blind(), Blind()))
    scores = examination.scores(blind)
    assert best_of(scores) == (1.0, 1.0)
    assert scores[1.0, 1.0] > scores[0.5, 0.5] > scores[0.0, 0.0]
    assert examination.score(blind) == scores[1.0, 1.0]
    assert 0.5 < scores[1.0, 1.0] < 1.0


def test_an_examination_keeps_within_its_room(plates, examination, monkeypatch):
    """Where maps are large fewer are examined, beside fewer references, then none; each is encoded once."""
    monkeypatch.setattr(examination_module, "ENOUGH", 2)  # four of the six are examined below
    pictures, features = plates
    assert examination.masks.shape == (len(UNSEEN_KINDS), 6, SIDE // 4, SIDE // 4)
    assert len(examination.pictures[0]) == 6 * EACH
    first = examination.pictures[0][0]
    assert all((other != first).any() for other in examination.pictures[0][1:EACH])
    # The first four of the twelve usable ones are everybody's.
    assert len(examination.references[0]) == COMPARED
    for room, compared in ((1000, 9), (6 * EACH + 7, 7), (1, COMPARED)):
        found = beside_more(examination, pictures, features, "cpu", candidates=((1.0, 1.0),), compared=9, most=room)
        assert found.near.shape == (6, compared)
        assert len(found.references[0]) == compared
        assert found.pictures is examination.pictures
    half = examine(pictures, range(6), features, "cpu", seed=0, candidates=((1.0, 1.0),), most=2 * EACH * 4)
    assert len(half.sources) == 4  # of five there is room for, so that as many references find room
    monkeypatch.setattr(examination_module, "ENOUGH", 16)
    assert examine(pictures, range(6), features, "cpu", seed=0, candidates=((1.0, 1.0),), most=10_000) is None
    few = 15 * (EACH + COMPARED)
    many = [number % 6 for number in range(30)]
    assert examine(pictures, many, features, "cpu", seed=0, candidates=((1.0, 1.0),), most=few) is None


def test_damage_that_shows_nowhere_says_nothing(examination):
    """A kind nobody could see is left out of the mean, and its pictures' masks count for nothing."""
    blind = torch.nn.ModuleList((Blind(), Blind()))
    kind = list(UNSEEN_KINDS).index("blur")
    seen = examination.seen.copy()
    seen[kind] = False
    less = replace(examination, seen=seen, candidates=((1.0, 1.0),)).score(blind)
    masks = examination.masks.copy()
    masks[kind] = True
    assert replace(examination, seen=seen, masks=masks, candidates=((1.0, 1.0),)).score(blind) == less
    assert replace(examination, seen=np.zeros_like(seen)).score(blind) == 0.0
