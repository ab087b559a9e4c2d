"""The benchmark of matching: what it compares with is right, and its figures are those of what it ran."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from plugins.hetmm import bench
from plugins.hetmm.bench import QUICK, Layer, _alternate, _work, bench_hetmm, pairs
from plugins.hetmm.formulations import shifted, shifted_in_place, unfolded
from plugins.matching import MutualMatch, pack


def by_pixel(form):
    """Give ``form``, which takes the channels last, channels first."""
    return lambda query, sheets, *halves: form(query.permute(1, 2, 0), sheets.permute(2, 3, 0, 1), *halves)


FORMS = {
    "ours": lambda query, sheets, *halves: [
        each[0] for each in MutualMatch(*query.shape[1:], *halves)(query[None], pack(sheets))
    ],
    "shifted": by_pixel(shifted),
    "shifted in place": by_pixel(shifted_in_place),
    "unfolded": unfolded,
}
SHAPES = [
    # sheets, channels, height, width, ahead, back
    (3, 5, 6, 7, 2, 1),
    (2, 4, 7, 5, 1, 3),
    (1, 1, 4, 4, 1, 1),
    (2, 3, 3, 2, 4, 5),
    (4, 6, 1, 5, 1, 0),
    (2, 2, 1, 1, 0, 0),
]


@pytest.fixture(scope="module")
def quick():
    """Return a quick run's figures and the progress it made."""
    steps = []
    figures = bench_hetmm(lambda *step: steps.append(step), threads=1, sheets=3, quick=True)
    return figures, steps


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_form_computes_the_definition(atmm, form, shape):
    """Whatever is timed gives the distances of the float64 reference: nobody wins by computing something else."""
    sheets, channels, height, width, ahead, back = shape
    rng = np.random.default_rng(sum(shape))
    query = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal(shape[1:4])).float(), dim=0)
    bank = torch.nn.functional.normalize(
        torch.from_numpy(rng.standard_normal((sheets, channels, height, width))).float(), dim=1
    )
    expected = atmm.distances(query.double().numpy(), bank.double().numpy(), ahead, back)
    for found, truth in zip(form(query, bank, ahead, back), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), truth, rtol=0, atol=1e-6)


def numbers(record):
    """Yield every number of nested records, named."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from numbers(value)
        elif isinstance(value, list):
            for each in value:
                yield from numbers(each)
        elif not isinstance(value, str):
            yield name, value


def test_quick_run_gives_finite_positive_figures(quick):
    """Every figure of a run is a positive finite number that JSON can carry, and all forms agreed."""
    figures, _ = quick
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    for name, value in numbers(figures):
        assert math.isfinite(value), name
        if name == "largest_difference":
            assert 0 <= value <= 1e-6
        else:
            assert value > 0, name
    assert [len(case["layers"]) for case in figures["cases"]] == [len(layers) for layers in QUICK.cases.values()]


def test_ratios_and_sums_are_those_of_the_times(quick):
    """A ratio is the other form's time over ours, and a case's sum is over its layers."""
    for case in quick[0]["cases"]:
        for record in (*case["layers"], case["sum"]):
            for name in ("shifted", "shifted_in_place", "unfold"):
                assert record[f"{name}_ratio"] == pytest.approx(record[f"{name}_ms"] / record["matching_ms"])
        for name in ("matching_ms", "shifted_ms", "executed_gflop", "bank_bytes"):
            assert case["sum"][name] == pytest.approx(sum(layer[name] for layer in case["layers"]))
    end_to_end = quick[0]["end_to_end"]
    assert end_to_end["fps"] == pytest.approx(1000 / end_to_end["frame_ms"])


def test_progress_reaches_its_end(quick):
    """Progress counts up from nothing to all, one step for every layer and one for the whole detector."""
    done = [step[0] for step in quick[1]]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, quick[1][-1][1])
    assert {step[1] for step in quick[1]} == {3}


def test_threads_are_put_back():
    """A run leaves torch with the threads it found, also when it fails."""
    before = torch.get_num_threads()

    def fail(*_step):
        assert torch.get_num_threads() == before + 1
        raise KeyError("stop")

    with pytest.raises(KeyError):
        bench_hetmm(fail, threads=before + 1, quick=True)
    assert torch.get_num_threads() == before


def test_forms_take_turns(monkeypatch):
    """Actions alternate within a round; the times kept are each action's own, without its first, untimed run."""
    log = []
    monkeypatch.setattr(bench, "_milliseconds", lambda action, _device: action() or len(log))
    fast, slow = {"a": lambda: log.append("a")}, {"shifted": lambda: log.append("s")}
    times = _alternate([fast, fast, slow], 2, torch.device("cpu"))
    assert log == [*"a", *"aas", *"aas"]
    assert times == {"a": [2, 3, 5, 6], "shifted": [4, 7]}


def test_pairs_in_numbers():
    """I-19: the pairs within a window, counted by the formula, are those of the specification and of the definition."""
    assert [pairs(64, 6), pairs(64, 3), pairs(32, 4), pairs(16, 3)] == [624100, 190096, 71824, 10000]
    for side, half in ((5, 0), (5, 2), (4, 3), (3, 7)):
        at = range(side)
        near = sum(abs(a - b) <= half for a in at for b in at)
        assert pairs(side, half) == near**2


def test_work_is_counted_from_the_shapes():
    """Executed products are tiles x rows x halo x channels; the bank is what is packed, in bytes."""
    layer = Layer(8, 6, 1, 0)
    match = MutualMatch(6, 6, 1, 0)
    work = _work(layer, match, 5)
    packed = pack(torch.zeros(5, 8, 6, 6))
    assert work["bank_bytes"] == packed.nbytes
    assert work["bank_float16_bytes"] == packed.half().nbytes
    assert work["executed_gflop"] == pytest.approx(2e-9 * 9 * 20 * 16 * 8)
    assert work["useful_gflop"] == pytest.approx(2e-9 * pairs(6, 1) * 5 * 8)
    assert work["scores_bytes"] == 4 * 9 * 20 * 16
