"""CPR's foreground: geometry, discriminant and normaliser in the specification's numbers (T23 to T25), and its veto."""

from __future__ import annotations

import pytest
import torch

from plugins.cpr.feb import FEWEST, Foreground, ForegroundMap, fit_foreground, lda_direction, regions, tails


@pytest.mark.parametrize(("side", "ring", "first", "last"), [(80, 3, 24, 55), (40, 1, 12, 27), (64, 2, 19, 43)])
def test_regions_are_those_of_the_specification(side, ring, first, last):
    """T23: width of the border, and rows of the middle; 924 and 1024 pixels at 80."""
    border, middle = regions(side)
    assert border[:, side // 2].nonzero().flatten().tolist() == [*range(ring), *range(side - ring, side)]
    assert middle[side // 2].nonzero().flatten().tolist() == list(range(first, last + 1))
    if side == 80:
        assert (int(border.sum()), int(middle.sum())) == (924, 1024)


def test_a_small_map_still_has_a_border():
    """The border is at least one pixel wide; nothing slices it to the whole map."""
    border, middle = regions(10)
    assert int(border.sum()) == 36
    assert not (border & middle).any()


@pytest.mark.parametrize(("value", "expected"), [(500, 0.500510), (0, 0), (999, 1), (9, 0), (990, 1)])
def test_normaliser_cuts_one_percent_at_both_ends(value, expected):
    """T24: of 0..999 in any order 9 becomes 0 and 990 becomes 1."""
    lowest, highest = tails(torch.randperm(1000, generator=torch.Generator().manual_seed(0)).float())
    assert (lowest, highest) == (9, 990)
    scale = 1 / (highest - lowest)
    foreground = ForegroundMap(Foreground(torch.tensor([scale]), -lowest * scale))
    assert foreground(torch.full((1, 1, 1, 1), float(value))).item() == pytest.approx(expected, abs=1e-6)


def test_few_values_have_their_extremes_as_tails():
    """With fewer than 100 values the smallest becomes 0 and the largest 1."""
    assert tails(torch.tensor([3.0, 1.0, 2.0])) == (1, 3)


def test_discriminant_in_numbers():
    """T25: a within-class covariance of diag(2, 8) and means (1, 2) apart give the direction (0.5, 0.25)."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * torch.tensor([2.0, 8.0]).sqrt()
    direction = lda_direction(corners + torch.tensor([1.0, 2.0]), corners)
    torch.testing.assert_close(direction / direction[0], torch.tensor([1.0, 0.5]))
    assert direction[0] > 0


def test_constant_features_do_not_decide():
    """A channel that is the same everywhere, or another one twice, does not blow the direction up."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(200, 3, generator=generator)
    rows = torch.cat((base, base[:, :1], torch.full((200, 1), 7.0)), 1)
    direction = lda_direction(rows[:100] + torch.tensor([4.0, 0, 0, 4.0, 0]), rows[100:])
    assert direction.isfinite().all()
    assert direction[4] == 0
    assert direction[0] == pytest.approx(direction[3].item(), rel=1e-3)


def plates(count, *, part=True, seed=0):
    """Return maps [3, 40, 40]: channel 0 high on a square part, low behind it, the others noise."""
    generator = torch.Generator().manual_seed(seed)
    maps = 0.1 * torch.randn(count, 3, 40, 40, generator=generator)
    if part:
        maps[:, 0, 8:32, 8:32] += 2.0
    return maps


CENTRES = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])


def test_a_part_before_a_background_is_found():
    """Of a bright square before a plain background the map is near 1 inside and near 0 outside, and is worth using."""
    maps = plates(4)
    fit = fit_foreground(lambda: iter(maps), CENTRES, 66)
    assert fit.helps
    assert (fit.ring, fit.centre) == (1, 0)
    found = ForegroundMap(fit.foreground)(plates(1, seed=1))[0]
    inside = torch.zeros(40, 40, dtype=torch.bool)
    inside[8:32, 8:32] = True
    assert found[inside].mean() > 0.8
    assert found[~inside].mean() < 0.2
    again = fit_foreground(lambda: iter(maps), CENTRES, 66)
    assert torch.equal(again.foreground.weight, fit.foreground.weight)


def test_any_positive_scale_of_the_direction_gives_the_same_map():
    """T25: the normaliser takes out the direction's length: features times seven give the same maps."""
    maps = plates(4)
    fits = [fit_foreground(lambda s=scale: iter(maps * s), CENTRES * scale, 66) for scale in (1.0, 7.0)]
    found = [ForegroundMap(fit.foreground)(maps * scale) for fit, scale in zip(fits, (1.0, 7.0), strict=True)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


def test_a_surface_that_fills_the_frame_is_vetoed():
    """A texture whose words lie anywhere is fitted and not recommended, with the reason."""
    maps = plates(4, part=False) * 12
    fit = fit_foreground(lambda: iter(maps), torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]), 66)
    assert fit.foreground is not None
    assert not fit.helps
    assert "no clear background" in fit.reason
    covered = plates(4)
    covered[:, 0, 8:32, 8:32] -= 2.0
    covered[:, 0, 18:22, 18:22] += 2.0
    fit = fit_foreground(lambda: iter(covered), CENTRES, 66)
    assert not fit.helps
    assert "no clear part" in fit.reason


def test_too_few_pixels_switch_it_off():
    """Frames without any difference have no foreground, and say how many pixels there were."""
    fit = fit_foreground(lambda: iter(torch.zeros(2, 3, 40, 40)), torch.zeros(2, 3), 66)
    assert fit.foreground is None
    assert f"fewer than {FEWEST}" in fit.reason
