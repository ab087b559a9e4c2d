"""Mutual matching: the tiled form equals the definition, and obeys the laws the definition obeys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from plugins import matching
from plugins.matching import MutualMatch, backward_of, forward_of, pack

HALVES = st.none() | st.integers(0, 5)


def row(*degrees):
    """Return unit vectors at these angles as a map [2, 1, W]."""
    angles = np.deg2rad(np.array(degrees, float))
    return np.stack([np.cos(angles), np.sin(angles)])[:, None, :]


def matched(query, sheets, ahead, back):
    """Match one query [C, H, W] against sheets [T, C, H, W], numpy in and out."""
    match = MutualMatch(query.shape[1], query.shape[2], ahead, back)
    bank = pack(torch.tensor(sheets, dtype=torch.float32))
    return [each[0].numpy() for each in match(torch.tensor(query, dtype=torch.float32)[None], bank)]


def drawn(rng, *shape):
    """Return random unit vectors along the second axis of ``shape`` as float32."""
    return torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal(shape)).float(), dim=1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 5),
    sheets=st.integers(1, 4),
    channels=st.integers(1, 6),
    height=st.integers(1, 10),
    width=st.integers(1, 10),
    ahead=HALVES,
    back=HALVES,
    seed=st.integers(0, 99),
)
@example(batch=1, sheets=1, channels=1, height=1, width=1, ahead=0, back=0, seed=0)
@example(batch=2, sheets=1, channels=1, height=5, width=1, ahead=5, back=1, seed=1)
@example(batch=5, sheets=3, channels=4, height=8, width=9, ahead=1, back=4, seed=2)
@example(batch=1, sheets=2, channels=3, height=3, width=2, ahead=5, back=5, seed=3)
@example(batch=3, sheets=2, channels=3, height=7, width=6, ahead=None, back=2, seed=4)
@example(batch=3, sheets=2, channels=3, height=6, width=7, ahead=2, back=None, seed=5)
def test_tiles_compute_the_definition(atmm, *, batch, sheets, channels, height, width, ahead, back, seed):
    """For any shape and any pair of windows both distances are those of the definition, to rounding."""
    assume(ahead is not None or back is not None)
    rng = np.random.default_rng(seed)
    query, bank = drawn(rng, batch, channels, height, width), drawn(rng, sheets, channels, height, width)
    found = MutualMatch(height, width, ahead, back)(query, pack(bank))
    for index in range(batch):
        expected = atmm.distances(query[index].double().numpy(), bank.double().numpy(), ahead, back)
        for each, truth in zip(found, expected, strict=True):
            np.testing.assert_allclose(each[index].numpy(), truth, rtol=0, atol=1e-6)


def test_matching_piece_by_piece_gives_the_same(monkeypatch):
    """How many tiles and sheets are multiplied at once is a matter of speed only."""
    rng = np.random.default_rng(0)
    query, bank = drawn(rng, 2, 8, 9, 10), pack(drawn(rng, 5, 8, 9, 10))
    match = MutualMatch(9, 10, 2, 1)
    whole = match(query, bank)
    per_sheet = 4 * 2 * match.halo**2
    for limit in (1, 2 * per_sheet, 11 * per_sheet):  # one sheet at a time, two of five, two tiles
        monkeypatch.setattr(matching, "CHUNK", limit)
        for found, expected in zip(match(query, bank), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_one_sheet_in_numbers(atmm):
    """I-2: the worked example of the specification, forward, backward, without a window, and mixed."""
    query, sheets = row(0, 30, 60, 90), row(30, 60, 90, 120)[None]
    for distances in (matched, atmm.distances):
        a_forward, a_backward = distances(query, sheets, 1, 1)
        np.testing.assert_allclose(a_forward, [[0.133975, 0, 0, 0]], atol=1e-6)
        np.testing.assert_allclose(a_backward, [[0, 0, 0, 0.133975]], atol=1e-6)
        np.testing.assert_allclose(0.3 * a_forward + 0.7 * a_backward, [[0.040192, 0, 0, 0.093782]], atol=1e-6)
        np.testing.assert_allclose(distances(query, sheets, 0, 1)[0], [[0.133975] * 4], atol=1e-6)


def test_both_directions_come_from_one_band():
    """I-3: every pair of the example is in the band once, and both directions are maxima over it."""
    match = MutualMatch(1, 4, 1, 1)
    band = match.band(
        torch.tensor(row(0, 30, 60, 90)[None]).float(), pack(torch.tensor(row(30, 60, 90, 120)[None]).float())
    )
    pairs = {offset: [None] * 4 for offset in (-1, 0, 1)}
    for template in range(4):
        for step in (-1, 0, 1):  # query pixel = template pixel + step, so the offset seen from the query is -step
            query = template + step
            value = float(band[0, 0, template, 1, step + 1])
            if 0 <= query < 4:
                pairs[-step][query] = value
            else:
                assert value < -1
    assert pairs[-1] == [None, *[pytest.approx(1)] * 3]
    assert pairs[0] == [pytest.approx(0.866025)] * 4
    assert pairs[1] == [*[pytest.approx(0.5)] * 3, None]
    torch.testing.assert_close(1 - forward_of(band, 1)[0, 0], torch.tensor([0.133975, 0, 0, 0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(1 - backward_of(band, 1)[0, 0], torch.tensor([0, 0, 0, 0.133975]), rtol=0, atol=1e-6)


def test_two_sheets_in_numbers():
    """I-4: both directions take the best over all sheets."""
    sheets = np.stack([row(30, 60, 90, 120), row(0, 0, 90, 90)])
    a_forward, a_backward = matched(row(0, 30, 60, 90), sheets, 1, 0)
    np.testing.assert_allclose(a_forward, np.zeros((1, 4)), atol=1e-6)
    np.testing.assert_allclose(a_backward, [[0, 0.133975, 0.133975, 0]], atol=1e-6)


def test_missing_part_is_seen_backward_and_extra_part_forward():
    """I-5: each direction is blind to what the other one sees."""
    missing = matched(row(0, 0, 0, 0, 0), row(0, 0, 90, 0, 0)[None], 1, 0)
    extra = matched(row(0, 0, 90, 0, 0), row(0, 0, 0, 0, 0)[None], 1, 1)
    seen, blind = [[0, 0, 1, 0, 0]], [[0, 0, 0, 0, 0]]
    for found, expected in zip((*missing, *extra), (blind, seen, seen, blind), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_opposite_vectors_are_two_apart_and_no_vector_is_one_apart():
    """I-6 and section 14: the largest distance is 2; a vector of zeros has similarity 0 with everything."""
    assert [each.item() for each in matched(row(0), row(180)[None], 3, 2)] == pytest.approx([2, 2])
    assert [each.item() for each in matched(np.zeros((2, 1, 1)), row(180)[None], 0, 0)] == [1, 1]


def test_window_is_clipped_not_padded():
    """I-6: where every cosine in the image is negative, nothing outside it is taken for a better match."""
    for ahead, back in ((0, 0), (3, 1), (1, 3)):
        for found in matched(row(0, 10, 350), row(180, 170, 190)[None], ahead, back):
            assert found.min() > 1.9


def test_more_sheets_and_wider_windows_never_raise_a_distance():
    """I-9: a larger bank or window only adds candidates to a maximum."""
    rng = np.random.default_rng(1)
    query, bank = drawn(rng, 2, 6, 9, 11), drawn(rng, 4, 6, 9, 11)
    for sheets in range(1, 4):
        for fewer, more in zip(
            *(MutualMatch(9, 11, 2, 1)(query, pack(bank[:n])) for n in (sheets, sheets + 1)), strict=True
        ):
            assert (more <= fewer + 1e-6).all()
            assert (more < fewer - 1e-3).any()
    for half in range(4):
        smaller, wider = (MutualMatch(9, 11, d, d)(query, pack(bank)) for d in (half, half + 1))
        for narrow, wide in zip(smaller, wider, strict=True):
            assert (wide <= narrow + 1e-6).all()
            assert (wide < narrow - 1e-3).any()


def test_bank_matches_itself_and_its_shifted_self():
    """I-10: a sheet as query has distance 0; shifted by no more than the window it has wherever its source exists."""
    rng = np.random.default_rng(2)
    bank = drawn(rng, 3, 8, 10, 9)
    for found in MutualMatch(10, 9, 2, 1)(bank[1:2], pack(bank)):
        assert found.abs().max() <= 1e-6
    a_forward, _ = MutualMatch(10, 9, 2, 0)(torch.roll(bank[1:2], (2, -1), (2, 3)), pack(bank))
    assert a_forward[0, 2:, :-1].abs().max() <= 1e-6
    assert a_forward[0, :2].min() > 0.01


def test_copies_of_a_sheet_change_nothing():
    """I-18: spare room filled with copies is invisible, so its size is free."""
    rng = np.random.default_rng(3)
    query, bank = drawn(rng, 1, 5, 6, 7), drawn(rng, 2, 5, 6, 7)
    match = MutualMatch(6, 7, 2, 1)
    filled = torch.cat([bank, bank[:1].expand(3, -1, -1, -1)])
    for found, expected in zip(match(query, pack(filled)), match(query, pack(bank)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_packing_moves_every_vector_to_its_stated_row(dtype):
    """Row t * 4 + y * 2 + x of a tile is sheet t's vector at (y, x) of it; the rest of a tile is zeros."""
    bank = torch.arange(2 * 3 * 5 * 6).reshape(2, 3, 5, 6).to(dtype) + 1
    tiles = pack(bank)
    assert (tiles.shape, tiles.dtype) == ((9, 8, 3), dtype)
    expected = torch.zeros(2, 3, 6, 6, dtype=dtype)
    expected[:, :, :5, :6] = bank
    for t in range(2):
        for y in range(6):
            for x in range(6):
                found = tiles[(y // 2) * 3 + x // 2, t * 4 + y % 2 * 2 + x % 2]
                assert torch.equal(found, expected[t, :, y, x])


@pytest.mark.parametrize("channels", [1, 24, 256, 1024])
def test_real_channel_counts_stay_exact(atmm, channels):
    """As many channels as networks have do not wear the precision down: 1e-6 of the float64 definition."""
    rng = np.random.default_rng(channels)
    query, bank = drawn(rng, 1, channels, 5, 4), drawn(rng, 3, channels, 5, 4)
    expected = atmm.distances(query[0].double().numpy(), bank.double().numpy(), 2, 1)
    for found, truth in zip(MutualMatch(5, 4, 2, 1)(query, pack(bank)), expected, strict=True):
        np.testing.assert_allclose(found[0].numpy(), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 24, 512])
@pytest.mark.parametrize(("ahead", "back"), [(2, 1), (0, 2), (1, None)])
def test_half_precision_bank_costs_its_rounding_and_no_more(atmm, channels, ahead, back):
    """Only the stored numbers of a float16 bank are rounded: distances stay within 2^-11 of those of float32."""
    rng = np.random.default_rng(channels)
    query, bank = drawn(rng, 2, channels, 6, 5), drawn(rng, 3, channels, 6, 5)
    rounded = bank.half()
    found = MutualMatch(6, 5, ahead, back)(query, pack(rounded))
    for index in range(2):
        wide = query[index].double().numpy()
        stored, whole = (atmm.distances(wide, sheets.double().numpy(), ahead, back) for sheets in (rounded, bank))
        for each, of_stored, of_whole in zip(found, stored, whole, strict=True):
            np.testing.assert_allclose(each[index].numpy(), of_stored, rtol=0, atol=1e-6)
            np.testing.assert_allclose(each[index].numpy(), of_whole, rtol=0, atol=2**-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_piece_by_piece_with_any_number_format(atmm, dtype, monkeypatch):
    """Sheet by sheet and tile by tile, a bank of either format still gives the definition of what it stores."""
    monkeypatch.setattr(matching, "CHUNK", 1)
    rng = np.random.default_rng(8)
    query, bank = drawn(rng, 2, 5, 5, 7), drawn(rng, 4, 5, 5, 7).to(dtype)
    found = MutualMatch(5, 7, 1, 3)(query, pack(bank))
    for index in range(2):
        expected = atmm.distances(query[index].double().numpy(), bank.double().numpy(), 1, 3)
        for each, truth in zip(found, expected, strict=True):
            np.testing.assert_allclose(each[index].numpy(), truth, rtol=0, atol=1e-6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 8),
    sheets=st.integers(1, 5000),
    channels=st.integers(1, 2048),
    half=st.integers(0, 31),
)
def test_memory_held_at_once_is_bounded(batch, sheets, channels, half):
    """Scores, float32 bank and query pixels of one product stay below the stated count, whatever the bank's size."""
    match = MutualMatch(8, 8, half, None)
    around = batch * match.halo**2
    tiles, rows = match.pieces(batch, channels, sheets * 4)
    assert tiles >= 1
    assert rows % 4 == 0
    assert 4 <= rows <= sheets * 4
    if tiles > 1:
        assert rows == sheets * 4  # several tiles at once only where each is done with all sheets
        assert tiles * around * channels <= matching.CHUNK
    if tiles > 1 or rows > 4:
        assert tiles * rows * max(around, channels) <= matching.CHUNK


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("batch", [1, 4])
def test_strict_export_equals_eager(batch, dtype):
    """I-20: torch.export takes the matching whole and computes the same, without an operation TensorRT refuses."""
    rng = np.random.default_rng(4)
    query, bank = drawn(rng, batch, 6, 7, 6), pack(drawn(rng, 3, 6, 7, 6).to(dtype))
    match = MutualMatch(7, 6, 2, 1).eval()
    program = torch.export.export(match, (query, bank), strict=True)
    other = drawn(rng, batch, 6, 7, 6)
    for found, expected in zip(program.module()(other, bank), match(other, bank), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.bmm.default" in operations
    assert not {name for name in operations if name.startswith(("aten.gather", "aten.max.dim", "aten.unfold"))}


def test_at_least_one_direction_is_needed():
    """A layer with both directions off is refused: it would call every frame good."""
    with pytest.raises(ValueError, match="at least one direction"):
        MutualMatch(4, 4, None, None)
