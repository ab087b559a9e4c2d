"""The benchmark of CPR: what is timed beside the graph computes the same, and its figures are those of what it ran."""

from __future__ import annotations

import json
import math

import pytest
import torch

from plugins.cpr import CprFaster
from plugins.cpr import formulations as plain
from plugins.cpr.bench import _case, _found, _ours, _settings, _theirs
from plugins.cpr.settings import CprFasterSettings


@pytest.fixture(scope="module")
def quick():
    """Return a quick run's figures and the progress it made."""
    steps = []
    return CprFaster().bench(lambda *step: steps.append(step), threads=1, quick=True), steps


@pytest.mark.parametrize("retrieval", ["tiled", "shifted"])
def test_plain_stages_compute_the_same(retrieval):
    """Stage by stage the plain form gives what ours gives: nobody wins by computing something else."""
    settings = CprFasterSettings(retrieval=retrieval, bank_dtype="float32")
    with torch.inference_mode():
        case = _case(_settings(settings, quick=True), quick=True, device="cpu")
        found = _found(case)
        ours, theirs = _ours(case, found), _theirs(case, found)
        for name in ("heads", "codebook", "retrieval", "fusion", "foreground", "smoothing", "score"):
            found, expected = ours[name](), theirs[name]()
            found, expected = (each if isinstance(each, (list, tuple)) else [each] for each in (found, expected))
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one.squeeze(), other.squeeze(), rtol=1e-4, atol=1e-5)
        assert set(ours["ranking"]()[0].tolist()) == set(theirs["ranking"]().tolist())
        torch.testing.assert_close(ours["frame"]()[0][0], theirs["map"](), rtol=0, atol=1e-5)
        assert ours["frame"]()[0].std() > 1e-3


def test_what_is_measured_has_the_papers_shapes():
    """Whatever cpr-faster adds by default, it is measured with two layers, ten references and heads alone."""
    measured = _settings(CprFasterSettings(), quick=False)
    assert (measured.layer_names, measured.nearest, measured.raw_share) == (("stage1", "stage2"), 10, 0.0)


def test_plain_blur_is_that_of_the_specification():
    """T21 and T22: the plain form has the specification's figures, too: impulse, and box of ones."""
    impulse = torch.zeros(320, 320)
    impulse[160, 160] = 1
    assert plain.blurred(impulse, 4, 33).max().item() == pytest.approx(0.00994789, abs=1e-7)
    box = torch.zeros(320, 320)
    box[100:120, 100:120] = 1
    assert 512 * plain.scored(plain.blurred(box, 4, 33), 512).item() == pytest.approx(325.1275, abs=1e-3)


def test_quick_run_gives_finite_positive_figures(quick):
    """Every stage has times and their ratio, the sums are of them, and all of it is JSON."""
    figures, steps = quick
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert len(figures["stages"]) == 9
    for stage in (*figures["stages"], figures["sum"]):
        assert 0 < stage["ours_ms"] < math.inf
        assert stage["ratio"] == pytest.approx(stage["plain_ms"] / stage["ours_ms"])
    for form in ("ours_ms", "plain_ms"):
        assert figures["sum"][form] == pytest.approx(sum(stage[form] for stage in figures["stages"]))
    assert 0 <= figures["largest_difference"] < 1e-2
    assert figures["frame_ms"] > 0
    assert (steps[0][0], steps[-1][0]) == (0, steps[-1][1])


def test_threads_are_put_back():
    """A run leaves torch with the threads it found."""
    before = torch.get_num_threads()
    CprFaster().bench(lambda *_: None, threads=before + 1, quick=True)
    assert torch.get_num_threads() == before
