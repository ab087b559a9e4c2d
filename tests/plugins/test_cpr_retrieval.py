"""CPR's local retrieval: both forms against the definition, at borders and odd sizes (T13 to T16)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plugins.cpr import retrieval
from plugins.cpr.lrb import normalised
from plugins.cpr.retrieval import ShiftedRetrieval, TiledRetrieval, pack_shifted, pack_tiled
from runtime.engines.precision import BEARS_16_BITS

FORMS = {"tiled": (TiledRetrieval, pack_tiled), "shifted": (ShiftedRetrieval, pack_shifted)}


@pytest.fixture(params=FORMS)
def form(request):
    """Return ``retrieve(query [B, D, H, W], references [N, D, H, W] (not normalised), chosen, reach)`` of each form."""
    module, pack = FORMS[request.param]

    def retrieve(query, references, chosen, reach, dtype=torch.float32):
        bank = pack(normalised(references).permute(0, 2, 3, 1).contiguous().to(dtype), reach)
        return module(*query.shape[2:], reach)(query, bank, chosen)

    return retrieve


def drawn(*shape, seed=0):
    """Draw normal float32 features."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("reach", [0, 1])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 1), (1, 6), (2, 3)])
def test_both_forms_are_the_definition(cpr, form, reach, height, width):
    """T15: distances of two frames with references of their own are those computed pixel by pixel in float64."""
    query, references = drawn(2, 6, height, width), drawn(5, 6, height, width, seed=1)
    chosen = torch.tensor([[3, 0, 4], [1, 4, 2]])
    found = form(query, references, chosen, reach)
    for frame in range(2):
        expected = cpr.retrieve(query[frame].numpy(), references[chosen[frame]].numpy(), reach)
        np.testing.assert_allclose(found[frame].numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 200, 3000])
def test_pieces_change_nothing(monkeypatch, chunk):
    """However few tiles are gathered at once, the distances are the same."""
    query, bank = drawn(2, 6, 9, 9), pack_tiled(normalised(drawn(4, 6, 9, 9, seed=1)).permute(0, 2, 3, 1), 1)
    chosen = torch.tensor([[3, 0], [1, 2]])
    expected = TiledRetrieval(9, 9, 1)(query, bank, chosen)
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    torch.testing.assert_close(TiledRetrieval(9, 9, 1)(query, bank, chosen), expected, rtol=0, atol=1e-6)


def test_several_queries_a_frame_are_compared_with_its_references(form):
    """Two queries of each of two frames get, but for rounding, what each gets alone."""
    first, second, references = drawn(2, 6, 7, 8), drawn(2, 6, 7, 8, seed=1), drawn(5, 6, 7, 8, seed=2)
    chosen = torch.tensor([[3, 0, 4], [1, 4, 2]])
    both = form(torch.stack((first, second), 1).flatten(0, 1), references, chosen, 1).unflatten(0, (2, 2))
    for number, query in enumerate((first, second)):
        torch.testing.assert_close(both[:, number], form(query, references, chosen, 1), rtol=0, atol=1e-6)
    assert (both[:, 0] - both[:, 1]).abs().max() > 0.1


def test_the_products_say_that_they_bear_16_bits():
    """An exported retrieval is annotated with the very word by which programs are lowered."""
    bank, chosen = pack_tiled(normalised(drawn(4, 6, 9, 9, seed=1)).permute(0, 2, 3, 1), 1), torch.tensor([[3, 0]])
    program = torch.export.export(TiledRetrieval(9, 9, 1), (drawn(1, 6, 9, 9), bank, chosen), strict=True)
    products = [node.meta for node in program.graph.nodes if node.target == torch.ops.aten.bmm.default]
    assert products
    assert all(BEARS_16_BITS in each["custom"] for each in products)


def test_nothing_outside_the_map_wins(form):
    """T13: against opposite references every distance is 2, at the border too, where zeros would give 1."""
    towards = torch.zeros(1, 4, 9, 9)
    towards[:, 1] = 3.0
    torch.testing.assert_close(form(towards, -towards, torch.tensor([[0]]), 1), torch.full((1, 9, 9), 2.0))


def test_a_neighbour_is_found_within_reach_only(form):
    """T14: a feature that moved by one pixel diagonally is at distance 0 with regions of 3 x 3, and 1 without."""
    first, second = torch.eye(2)
    query = second.view(1, 2, 1, 1).expand(1, 2, 6, 6).clone()
    reference = query.clone()
    query[0, :, 1, 1], reference[0, :, 0, 0] = first, first
    chosen = torch.tensor([[0]])
    assert form(query, reference, chosen, 1)[0, 1, 1].item() == pytest.approx(0, abs=1e-6)
    assert form(query, reference, chosen, 0)[0, 1, 1].item() == pytest.approx(1, abs=1e-6)


def test_scale_order_and_number_of_references(form):
    """T16: the frame's scale and the references' order do not matter, and one reference more never adds distance."""
    query, references = drawn(1, 8, 6, 6), drawn(4, 8, 6, 6, seed=1)
    found = form(query, references, torch.tensor([[0, 1, 2]]), 1)
    torch.testing.assert_close(form(7.5 * query, references, torch.tensor([[2, 0, 1]]), 1), found, rtol=0, atol=1e-6)
    more = form(query, references, torch.tensor([[0, 1, 2, 3]]), 1)
    assert (more <= found + 1e-6).all()
    assert (more < found - 1e-3).any()
    itself = form(query, torch.cat((references, query)), torch.tensor([[1, 4]]), 1)
    assert itself.abs().max() <= 1e-6


def test_features_of_zeros_are_at_distance_one(form):
    """A frame's feature without direction is neither like nor unlike anything; nothing is NaN."""
    query = drawn(1, 4, 4, 4)
    query[:, :, 2, 2] = 0
    found = form(query, drawn(2, 4, 4, 4, seed=1), torch.tensor([[0, 1]]), 1)
    assert found[0, 2, 2].item() == 1
    assert found.isfinite().all()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 6e-4), (torch.bfloat16, 8e-3)])
def test_narrow_banks_stay_close(form, dtype, most):
    """A float16 bank moves no distance by more than 6e-4 (8e-3 for bfloat16), and moves some: it is what is read."""
    query, references = drawn(1, 16, 20, 20), drawn(6, 16, 20, 20, seed=1)
    chosen = torch.tensor([[0, 2, 4]])
    difference = (form(query, references, chosen, 1, dtype) - form(query, references, chosen, 1)).abs().max()
    assert 0 < difference <= most
