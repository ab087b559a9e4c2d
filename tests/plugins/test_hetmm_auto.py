"""AUTO: windows, shares and weights from good frames alone, by the rule of the specification (section 9.2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgead import DetectorContext
from plugins.hetmm import Hetmm
from plugins.hetmm.auto import Residuals, alpha_of, choose, weights_of, window_of
from plugins.hetmm.leaving import without
from plugins.hetmm.settings import (
    D0_ALPHA,
    D0_WEIGHT,
    D0_WINDOWS,
    LITE_ALPHA,
    LITE_WEIGHT,
    LITE_WINDOWS,
    HetmmSettings,
    table_row,
)
from plugins.matching import TILE, pack


def silent(_done, _total, _what):
    """Report progress to nobody."""


def jittered(seed, jitter, side=32, sheets=16, channels=32):
    """Cut sheets [sheets, channels, side, side] out of one random field, each shifted by up to ``jitter`` pixels."""
    rng = np.random.default_rng(seed)
    field = rng.standard_normal((channels, side + 2 * jitter, side + 2 * jitter))
    for axis in (1, 2, 1, 2):  # neighbours of a real feature map are alike
        field = (np.roll(field, 1, axis) + field + np.roll(field, -1, axis)) / np.sqrt(3)
    cuts = []
    for y, x in rng.integers(0, 2 * jitter + 1, (sheets, 2)):
        cut = field[:, y : y + side, x : x + side] + 0.3 * rng.standard_normal((channels, side, side))
        cuts.append(cut / np.linalg.norm(cut, axis=0))
    return torch.from_numpy(np.stack(cuts)).float()


def chosen_for(sheets, **settings):
    """Choose for one layer of sheets."""
    wanted = HetmmSettings(**{"layers": ("stage1",), "windows": "auto"} | settings)
    return choose(wanted, [sheets], silent)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("jitter", "smallest", "largest"), [(0, 1, 1), (1, 1, 2), (2, 2, 3), (3, 2, 3), (4, 3, 3)])
def test_window_follows_the_jitter_of_the_parts(seed, jitter, smallest, largest):
    """On fields shifted by 0 to 4 pixels the forward half-width is what the specification measured, floored at 1."""
    resolved, _ = chosen_for(jittered(seed, jitter))
    ((ahead, back),) = resolved.windows
    assert smallest <= ahead // 2 <= largest
    assert back // 2 <= max(1, ahead // 4)


def test_residuals_are_those_of_the_definition(atmm):
    """What the rule rests on is the mean over probes of the 99.5 percentile, each probe matched against the others."""
    sheets = jittered(3, 1, side=7, sheets=8, channels=4)
    _, measured = chosen_for(sheets)
    wide = sheets.double().numpy()
    for half in (0, 2, 6):
        tops = []
        for probe in range(8):
            maps = atmm.distances(wide[probe], np.delete(wide, probe, axis=0), half, half)
            tops.append([np.quantile(each, 0.995) for each in maps])
        forward, backward = np.mean(tops, axis=0)
        assert measured["residual_forward"][0][half] == pytest.approx(forward, abs=1e-5)
        assert measured["residual_backward"][0][half] == pytest.approx(backward, abs=1e-5)


@pytest.mark.parametrize(
    ("ahead", "back", "window"),
    [
        ([1.0, 0.5, 0.105, 0.1, 0.1, 0.1, 0.1], [1.0, 0.9, 0.4, 0.3, 0.3, 0.3, 0.3], (5, 3)),
        ([1.0, 0.995, 0.99, 0.985], [1.0, 0.995, 0.99, 0.985], (3, 1)),  # no gain: 0, floored at 1 forward
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], (13, 7)),
        ([1.0, 0.9, 0.8, 0.1, 0.1], [1.0, 0.3, 0.3, 0.3, 0.3], (7, 3)),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], (3, 1)),  # identical references
    ],
)
def test_rule_in_numbers(ahead, back, window):
    """The smallest window within 10 % of the forward gain and 50 % of the backward one, backward at most half."""
    assert window_of(Residuals(ahead, back)) == window


def test_shares_and_weights_in_numbers():
    """The quieter direction and the quieter layer count more, within the limits of the specification."""
    residuals = Residuals([0.5, 0.2, 0.1], [0.4, 0.3, 0.2])
    assert alpha_of(residuals, (3, 1)) == pytest.approx(0.4 / 0.6, abs=1e-4)
    assert alpha_of(residuals, (99, 1)) == 0.7
    assert alpha_of(Residuals([0.9], [0.1]), (1, 1)) == 0.3
    assert weights_of([0.2, 0.4, 0.1, 2.0]) == pytest.approx((1.0, 0.5, 1.0, 0.3))


def test_few_references_mean_fixed_defaults(frames):
    """Seven references say too little: the backbone's table is used and the template says so."""
    settings = HetmmSettings(image_size=64, windows="auto", alpha="auto", weight="auto")
    content = Hetmm().calibrate(frames[:7], settings, DetectorContext())
    assert content.settings["windows"] == [list(pair) for pair in LITE_WINDOWS]
    assert content.settings["alpha"] == list(LITE_ALPHA)
    assert content.settings["weight"] == list(LITE_WEIGHT)
    assert content.statistics["auto"].startswith("fewer than 8 references")


def test_tables_by_backbone():
    """Lite0 has a table of its own; every other network and "d0" have the specification's, its last row repeated."""
    assert table_row(HetmmSettings(), "windows") == LITE_WINDOWS
    assert table_row(HetmmSettings(windows="d0"), "windows") == D0_WINDOWS
    wide = HetmmSettings(backbone="wide_resnet101_2")
    assert [table_row(wide, name) for name in ("windows", "alpha", "weight")] == [D0_WINDOWS, D0_ALPHA, D0_WEIGHT]
    four = HetmmSettings(layers=("stage0", "stage1", "stage2", "stage3"), alpha="d0")
    assert table_row(four, "alpha") == (*D0_ALPHA, D0_ALPHA[-1])


def test_choice_is_recorded_and_the_same_twice(frames):
    """Eight references are enough; the same ones give the same settings, statistics and sheets, bit for bit."""
    settings = HetmmSettings(image_size=64, windows="auto", alpha="auto", weight="auto")
    first, second = (Hetmm().calibrate(frames[:8], settings, DetectorContext()) for _ in range(2))
    assert HetmmSettings(**first.settings).resolved
    assert first.settings["weight"][0] == 1
    assert all(0.3 <= share <= 0.7 for share in first.settings["alpha"])
    assert [len(each) for each in first.statistics["residual_forward"]] == [7, 5, 4]
    assert first.settings == second.settings
    assert first.statistics == second.statistics
    assert all(first.tensors[name].tobytes() == each.tobytes() for name, each in second.tensors.items())


def test_given_values_stay_and_shares_rest_on_them():
    """What the integrator wrote is kept, and the automatic share is computed for the windows in use."""
    sheets = jittered(4, 2, side=16, sheets=8, channels=8)
    resolved, measured = chosen_for(sheets, windows=((1, 9),), alpha="auto", weight=(3.0,))
    assert resolved.windows == ((1, 9),)
    assert resolved.weight == (3.0,)
    ahead, back = measured["residual_forward"][0][0], measured["residual_backward"][0][4]
    assert resolved.alpha[0] == pytest.approx(np.clip(back / (ahead + back), 0.3, 0.7), abs=1e-4)


def test_weights_of_the_layers_rest_on_the_mixed_map(atmm):
    """A layer's weight is the first one's level over its own, computed for the windows and shares in use."""
    layers = [jittered(seed, 1, side=6, sheets=8, channels=4) for seed in (5, 6)]
    windows, alpha = ((3, 1), (0, 3)), (0.4, 0.6)
    wanted = HetmmSettings(layers=("stage1", "stage2"), windows=windows, alpha=alpha, weight="auto")
    resolved, _ = choose(wanted, layers, silent)
    levels = []
    for sheets, (ahead, back), share in zip(layers, ((1, 0), (None, 1)), (0.4, 0.0), strict=True):
        wide = sheets.double().numpy()
        tops = []
        for probe in range(8):
            forward, backward = atmm.distances(wide[probe], np.delete(wide, probe, axis=0), ahead, back)
            tops.append(np.quantile(share * forward + (1 - share) * backward, 0.995))
        levels.append(np.mean(tops))
    assert resolved.weight == pytest.approx((1.0, np.clip(levels[0] / levels[1], 0.3, 1.0)), abs=1e-5)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_lent_bank_is_given_back_whole(index):
    """While lent, a bank lacks the sheet; afterwards every byte is back, also when the borrower fails."""
    sheets = jittered(7, 0, side=6, sheets=4, channels=3)
    tiles = pack(sheets)
    before = tiles.clone()

    def fail_while_borrowing():
        with without(tiles, index) as rest:
            lent = rest.view(rest.shape[0], 4, TILE * TILE, 3)
            own = before.view(lent.shape)[:, index]
            assert not any(torch.equal(lent[:, sheet], own) for sheet in range(4))
            raise KeyError(index)

    with pytest.raises(KeyError):
        fail_while_borrowing()
    assert torch.equal(tiles, before)
