"""PTS: the choice of the definition at every pixel, and inserted sheets end where choosing again would put them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import OPTICS

from plugins.hetmm import pts
from plugins.hetmm.choice import choose, rows_of, rows_on_demand
from plugins.hetmm.graph import Features
from plugins.hetmm.optics import cluster, min_samples, unit_grid
from plugins.hetmm.pts import Selection, cluster_needed, gather, insert, reselect, restore, select
from plugins.hetmm.settings import HetmmSettings
from plugins.resize import Resize
from runtime.images import read_image

ANGLES = (0, 2, 5, 40, 43, 50, 90, 180)
LABELS = (0, 0, 0, 1, 1, 1, -1, -1)
RULES = ("sum", "max")


def literal(vectors, labels, count, rule="sum", centres=()):
    """Return (slots, number of centres, criterion) at one pixel, by section 10 word for word, on plain numbers.

    ``vectors``: float64 [N, C]; ``centres`` given: clusters are frozen.
    """
    like = (vectors @ vectors.T).tolist()
    every = range(len(like))
    chosen = list(centres)
    if not chosen:
        for label in dict.fromkeys(label for label in labels if label >= 0):
            if len(chosen) < count:
                members = [i for i in every if labels[i] == label]
                chosen.append(max(members, key=lambda j: sum_of(like[j][k] for k in members)))
    if not chosen:
        chosen.append(max(every, key=lambda j: sum_of(like[j])))
    leading, criterion = len(chosen), [np.nan] * len(chosen)
    worth = [sum_of(like[s][i] for s in chosen) if rule == "sum" else max(like[s][i] for s in chosen) for i in every]
    while len(chosen) < count:
        value, pick = min((worth[i], i) for i in every if i not in chosen)
        chosen.append(pick)
        criterion.append(value)
        worth = [worth[i] + like[pick][i] if rule == "sum" else max(worth[i], like[pick][i]) for i in every]
    return chosen, leading, criterion


def sum_of(numbers):
    """Add one by one; Python's own sum is more exact from 3.12 on, and this is about the bits."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def row(*degrees):
    """Return sheets of one pixel at these angles, float64 [N, 2, 1, 1]."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], 1)[:, :, None, None]


def chosen_of(sheets, labels, count, rule="sum"):
    """Return the selection at the one pixel of ``sheets`` under given labels."""
    units = unit_grid(sheets)[:, :, 0, 0]
    slots, centres, criterion = choose((units @ units.T)[None], torch.tensor([labels]), count, rule)
    return Selection(
        slots.to(torch.int32).T[:, :, None], centres.to(torch.int16)[:, None], criterion.T[:, :, None].contiguous()
    )


def drawn(rng, count, channels, height, width, *, copies):
    """Return sheets around a few directions a pixel, float32 [N, C, H, W], ``copies`` of them written over others."""
    directions = rng.standard_normal((rng.integers(1, 4), channels, height, width))
    sheets = directions[rng.integers(0, len(directions), count)]
    sheets = sheets + rng.uniform(0.05, 1) * rng.standard_normal(sheets.shape)
    sheets[rng.integers(0, count, copies)] = sheets[rng.integers(0, count, copies)]
    return torch.from_numpy(sheets).float()


def assert_same(found, expected):
    """Compare two selections bit for bit."""
    for name in ("slots", "centres", "criterion"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True)


def assert_literal(selection, sheets, labels, rule="sum", centres=None):
    """Compare a selection with the definition, pixel by pixel; ``labels`` and ``centres`` of each in reading order."""
    units = unit_grid(sheets).flatten(2).numpy()
    count = len(selection.slots)
    for pixel in range(units.shape[2]):
        frozen = () if centres is None else centres[pixel]
        slots, leading, criterion = literal(units[:, :, pixel], labels[pixel], count, rule, frozen)
        assert selection.slots.flatten(1)[:, pixel].tolist() == slots
        assert selection.centres.flatten()[pixel] == leading
        np.testing.assert_array_equal(selection.criterion.flatten(1)[:, pixel].numpy(), criterion)


def labels_of(sheets, smallest):
    """Return OPTICS' labels of every pixel, [pixels][N]."""
    units = unit_grid(sheets).flatten(2).permute(2, 0, 1)
    return cluster(units @ units.mT, smallest).tolist()


def centres_of(selection):
    """Return the sheets that are centres, [pixels][1..K]."""
    numbers = selection.centres.flatten().tolist()
    return [slots[:number] for slots, number in zip(selection.slots.flatten(1).T.tolist(), numbers, strict=True)]


def test_example_in_numbers():
    """I-13: centres in order of appearance, then the smallest sum; what clusters are called does not matter."""
    sheets = row(*ANGLES)
    for labels in (LABELS, (3, 3, 3, 0, 0, 0, -1, -1)):
        selection = chosen_of(sheets, labels, 8)
        assert selection.slots.flatten().tolist() == [1, 4, 7, 6, 0, 2, 5, 3]
        assert selection.centres.item() == 2
    cosines = np.cos(np.deg2rad(np.subtract.outer(ANGLES, ANGLES)))
    criterion = selection.criterion.flatten().numpy()
    assert np.isnan(criterion[:2]).all()
    np.testing.assert_allclose(criterion[2], -1.730745, atol=1e-6)
    np.testing.assert_allclose(criterion[3], 0.716898 + cosines[6, 7], atol=1e-6)


def test_noise_alone_starts_at_the_medoid():
    """I-13 and section 10, 2: with no cluster the first slot is the sheet most like all others, and then it goes on."""
    sheets = row(*ANGLES)
    selection = chosen_of(sheets, [-1] * 8, 3)
    assert selection.slots.flatten().tolist() == [3, 7, 0]
    assert selection.centres.item() == 1
    assert_same(select(sheets, 3, cluster="medoid"), selection)


def test_inserting_in_numbers():
    """I-14: a new sheet takes the first slot it beats, and nothing where it beats none."""
    sheets = row(*ANGLES)
    for degrees, count, slots in ((135, 4, [1, 4, 7, 8]), (200, 4, [1, 4, 8, 7]), (135, 3, [1, 4, 7])):
        before = chosen_of(sheets, LABELS, count)
        after = insert(torch.cat([sheets, row(degrees)]), before, 1)
        assert after.slots.flatten().tolist() == slots
    criterion = insert(torch.cat([sheets, row(200)]), chosen_of(sheets, LABELS, 4), 1).criterion.flatten()
    assert criterion[2].item() == pytest.approx(-1.871561, abs=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    count=st.integers(3, 40),
    slots=st.integers(1, 12),
    channels=st.integers(2, 12),
    rule=st.sampled_from(RULES),
    copies=st.sampled_from([0, 4, 20]),
    seed=st.integers(0, 10_000),
)
def test_selection_is_the_definition(*, count, slots, channels, rule, copies, seed):
    """Every pixel's slots, centres and criterion equal the literal loop's to the last bit, ties included."""
    slots = min(slots, count - 1)
    sheets = drawn(np.random.default_rng(seed), count, channels, 2, 3, copies=copies)
    found = select(sheets, slots, rule=rule)
    assert_literal(found, sheets, labels_of(sheets, min_samples(count, slots)), rule)
    assert_literal(select(sheets, slots, rule=rule, cluster="medoid"), sheets, [[-1] * count] * 6, rule)
    assert (found.slots.dtype, found.centres.dtype) == (torch.int32, torch.int16)
    assert found.criterion.dtype == torch.float64


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    count=st.integers(4, 30),
    slots=st.integers(1, 15),
    new=st.integers(0, 4),
    channels=st.integers(2, 6),
    rule=st.sampled_from(RULES),
    copies=st.sampled_from([0, 5, 20]),
    seed=st.integers(0, 10_000),
)
def test_inserting_is_choosing_again(*, count, slots, new, channels, rule, copies, seed):
    """Inserted at once or one by one, with duplicates or without, sheets end in the bits of a full new choice."""
    slots = min(slots, count - 1)
    sheets = drawn(np.random.default_rng(seed), count + new, channels, 3, 3, copies=copies)
    before = select(sheets[:count], slots, rule=rule)
    after = insert(sheets, before, new, rule=rule)
    assert_same(after, reselect(sheets, before, rule=rule))
    assert_literal(after, sheets, [()] * 9, rule, centres_of(before))
    singly = before
    for end in range(count, count + new):
        singly = insert(sheets[: end + 1], singly, 1, rule=rule)
    assert_same(singly, after)
    assert_same(restore(sheets, after.slots.to(torch.int16), after.centres, rule=rule), after)


def test_only_pixels_a_new_sheet_changes_choose_again(monkeypatch):
    """Hot update: the work is done where the outcome differs, which is neither everywhere nor nowhere here."""
    sheets = drawn(np.random.default_rng(0), 31, 6, 8, 8, copies=0)
    before = select(sheets[:30], 8)
    sheets[30, :, :3] = gather(sheets, before.slots)[-1, :, :3]  # ties with the last slot, and beats no other
    worked, fill = [], pts.fill

    def watched(rows, leading, *rest, **how):
        worked.append(len(leading))
        return fill(rows, leading, *rest, **how)

    monkeypatch.setattr(pts, "fill", watched)
    after = insert(sheets, before, 1)
    differ = (after.slots != before.slots).any(0)
    assert sum(worked) == int(differ.sum())
    assert not differ[:3].any()
    assert 0 < sum(worked) < 40
    assert ((after.slots == 30).any(0) == differ).all()


def test_rows_are_the_same_foreseen_or_not():
    """Cosines that an insertion did not foresee are computed to the same bits as all at once."""
    units = unit_grid(drawn(np.random.default_rng(9), 12, 5, 1, 7, copies=3)).flatten(2).permute(2, 0, 1).contiguous()
    at_once = rows_of(units @ units.mT)
    on_demand = rows_on_demand(units, torch.tensor([[3, 5, 0]] * 7))
    for sheet in range(12):
        pick = (torch.arange(7) + sheet) % 12  # foreseen at some pixels, not at others
        assert torch.equal(on_demand(pick), at_once(pick))


def test_how_much_is_done_at_once_is_a_matter_of_speed(monkeypatch):
    """One pixel or all in a chunk, contiguous sheets or not: the same bits."""
    sheets = drawn(np.random.default_rng(1), 26, 20, 5, 6, copies=4)
    whole = select(sheets[:24], 7)
    inserted = insert(sheets, whole, 2)
    for limit in (1, 7 * 8 * 24 * 24):
        monkeypatch.setattr(pts, "_CHUNK_BYTES", limit)
        monkeypatch.setattr(pts, "_FEW_PIXELS", 1)
        assert_same(select(sheets[:24].to(memory_format=torch.channels_last), 7), whole)
        assert_same(insert(sheets, whole, 2), inserted)
        assert_same(restore(sheets[:24], whole.slots, whole.centres), whole)


def test_half_precision_sheets_are_chosen_from_as_they_are():
    """A bank in float16 gives the selection of the same numbers in float32, so a stored bank can be extended."""
    sheets = drawn(np.random.default_rng(2), 20, 9, 3, 4, copies=3).half()
    assert_same(select(sheets, 6), select(sheets.float(), 6))
    assert gather(sheets, select(sheets, 6).slots).dtype == torch.float16


def test_gathering_moves_every_vector_to_its_slot():
    """Slot k at (y, x) holds sheet ``slots[k, y, x]``'s vector at (y, x), also where width and height differ."""
    rng = np.random.default_rng(3)
    sheets = drawn(rng, 7, 4, 3, 5, copies=0)
    slots = torch.from_numpy(rng.integers(0, 7, (6, 3, 5))).to(torch.int16)
    found = gather(sheets, slots)
    assert found.shape == (6, 4, 3, 5)
    for k, y, x in np.ndindex(6, 3, 5):
        assert torch.equal(found[k, :, y, x], sheets[int(slots[k, y, x]), :, y, x])


@pytest.mark.parametrize(
    ("clustered", "now", "needed"),
    [
        (209, 209, False),
        (209, 229, False),  # 9.6 % new
        (209, 230, True),  # 10.05 % new
        (220, 240, True),  # the smallest cluster grows from 3 to 4
        (170, 180, True),  # and from 2 to 3
        (115, 121, False),  # N div 60 grows from 1 to 2, which it was taken for already
        (209, 208, True),  # a sheet went
    ],
)
def test_clusters_are_found_anew_when_enough_has_changed(clustered, now, needed):
    """Section 12: a new smallest cluster, or a tenth of new sheets; and sheets that went."""
    assert cluster_needed(clustered, now, 60) is needed


def test_nothing_is_chosen_from_too_few():
    """With no more sheets than slots there is nothing to choose, and no sheet is ever made up."""
    sheets = drawn(np.random.default_rng(4), 5, 3, 2, 2, copies=0)
    for count in (5, 6, 0, -1):
        with pytest.raises(ValueError, match=r"expected 1\.\.4 slots for 5 sheets"):
            select(sheets, count)


def test_features_that_are_no_numbers_are_refused():
    """Section 14: the sheet with NaN is named, whichever pixel it is at."""
    sheets = drawn(np.random.default_rng(5), 6, 3, 4, 4, copies=0)
    sheets[4, 1, 3, 2] = torch.nan
    with pytest.raises(ValueError, match="sheet 4 of 6"):
        select(sheets, 3)


def test_a_selection_of_other_sheets_is_refused():
    """A selection that was not made of the first N sheets at these pixels is never extended."""
    sheets = drawn(np.random.default_rng(6), 9, 3, 2, 2, copies=0)
    selection = select(sheets, 4)
    smaller = select(sheets[:, :, :, :1], 4)
    no_centre = Selection(selection.slots, torch.zeros_like(selection.centres), selection.criterion)
    for bad, new in ((smaller, 1), (selection, 5), (selection, -1), (no_centre, 0)):
        with pytest.raises(ValueError, match="select anew"):
            insert(sheets, bad, new)
    of_last = Selection(torch.full_like(selection.slots, 8), selection.centres, selection.criterion)
    with pytest.raises(ValueError, match=r"sheets 0\.\.7"):
        insert(sheets, of_last, 1)


def test_progress_counts_pixels(monkeypatch):
    """Progress rises to the number of pixels and ends there."""
    monkeypatch.setattr(pts, "_CHUNK_BYTES", 10 * 8 * 12 * 12)
    monkeypatch.setattr(pts, "_FEW_PIXELS", 1)
    told = []
    select(drawn(np.random.default_rng(7), 12, 3, 5, 7, copies=0), 4, progress=lambda *each: told.append(each))
    assert [done for done, _, _ in told] == [10, 20, 30, 35]
    assert {(total, phase) for _, total, phase in told} == {(35, "selecting templates")}


@pytest.mark.gpu
def test_a_gpu_chooses_the_same():
    """Selection, insertion and reselection on CUDA have the bits of the CPU's."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    sheets = drawn(np.random.default_rng(8), 64, 48, 6, 7, copies=10)
    there = sheets.cuda()
    before = select(sheets[:60], 20)
    found = select(there[:60], 20)
    for here, device in ((before, found), (insert(sheets, before, 4), insert(there, found, 4))):
        assert_same(Selection(device.slots.cpu(), device.centres.cpu(), device.criterion.cpu()), here)


@pytest.fixture(scope="module")
def real_columns(data_folder):
    """Return 2,048 columns of real features, float32 [100, Cj, 1, Pj] per layer of EfficientNet-Lite0."""
    torch.set_num_threads(2)
    features = Features(HetmmSettings()).eval()
    taken = []
    with torch.inference_mode():
        for path in sorted((data_folder / "mtd" / "train" / "good").iterdir())[:100]:
            image = read_image(path)
            image = image if image.ndim == 3 else image[:, :, None]
            taps = features(Resize(image.shape, 256)(torch.from_numpy(image)[None]))
            # Strides 4, 8, 16: 1024 + 768 + 256 columns, spread over the map.
            taken.append([tap[0].flatten(1)[:, ::step] for tap, step in zip(taps, (4, 1, 1), strict=True)])
    layers = [torch.stack(layer)[:, :, None] for layer in zip(*taken, strict=True)]
    layers[1] = layers[1][:, :, :, torch.arange(1024) % 4 != 0]
    return layers


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_features_are_chosen_as_scikit_learn_and_the_definition_choose(real_columns):
    """On 2,048 columns of a real product, labels are scikit-learn's and sheets those of the literal loop."""
    slots, smallest = 30, min_samples(100, 30)
    how = {"min_samples": smallest, "metric": "precomputed", "cluster_method": "xi", "xi": 0.05}
    spawn = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half
    columns = 0
    with ProcessPoolExecutor(2, mp_context=spawn) as processes:
        for sheets in real_columns:
            units = unit_grid(sheets).flatten(2).permute(2, 0, 1).numpy()
            distances = np.maximum(0, 1 - units @ units.transpose(0, 2, 1))
            distances[:, np.arange(100), np.arange(100)] = 0
            labels = [each.tolist() for each in processes.map(OPTICS(**how).fit_predict, distances, chunksize=16)]
            assert labels_of(sheets, smallest) == labels
            assert_literal(select(sheets, slots), sheets, labels)
            columns += len(labels)
    assert columns == 2048
