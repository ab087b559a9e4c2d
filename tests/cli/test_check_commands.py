"""`edgead plugins check` and `edgead evaluate --all` by command line: what they refuse, print, and end with."""

import pytest

from calibration import comparison, conformance
from calibration.conformance.outcomes import Outcome

KEPT = [Outcome("toy", "loads", "pass", "toy 1"), Outcome("toy", "lint", "note", "log1p", "write log")]
BROKEN = [
    *KEPT,
    Outcome("toy", "repeat", "fail", "answered differently", "draw nothing"),
    Outcome("toy", "export", "skip", "not judged"),
]


def found(monkeypatch, outcomes):
    """Let the kit find ``outcomes``; return the list its request will be in."""
    asked = []

    def check(request, _builtins, _tell):
        asked.append(request)
        return outcomes

    monkeypatch.setattr(conformance, "check", check)
    return asked


def test_kept_promises_end_with_0(monkeypatch, run):
    """Promises that are kept, with a note or without, are a line each and exit code 0; settings reach the kit."""
    asked = found(monkeypatch, KEPT)
    done = run("plugins", "check", "toy", "--set", "side=8", "--preset", "quick", "--limit", "5")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines() if line.strip()]
    assert ["loads", "pass", "toy", "1"] in rows
    assert ["lint", "note", "log1p;", "write", "log"] in rows
    assert "toy: all 2 promises kept" in done.err
    assert (asked[0].what, asked[0].limit_s) == (["toy"], 5)
    assert (asked[0].settings, asked[0].presets) == ({"": ["side=8"]}, {"": "quick"})


def test_broken_promises_end_with_1(monkeypatch, run):
    """One promise that is not kept, or not judged, is exit code 1; --json has cause and advice apart."""
    found(monkeypatch, BROKEN)
    done = run("plugins", "check", "toy", "--json")
    assert done.code == 1
    assert "toy: 1 of 4 promises not kept, 1 not judged" in done.err
    assert not done.last["passed"]
    (repeat,) = [each for each in done.last["promises"] if each["promise"] == "repeat"]
    assert (repeat["state"], repeat["detail"], repeat["advice"]) == ("fail", "answered differently", "draw nothing")


def test_a_detector_nobody_has_is_refused(run):
    """A name that is no detector and no wheel is one line, and exit code 2."""
    done = run("plugins", "check", "nosuch")
    assert done.code == 2
    assert done.err.startswith("edgead: expected a detector of cpr, ")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [("--all",), ("--all", "--report", "r", "--set", "a=1"), ("--report", "r"), ("--detectors", "hetmm"),
     ("--preset", "hetmm", "--preset", "hetmm-d0")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options, dataset, run):
    """Options of one form of `evaluate` are refused in the other, before anything is computed."""
    done = run("evaluate", dataset, *options)
    assert done.code == 2
    assert "--all" in done.err


def test_a_failed_row_ends_with_1(monkeypatch, dataset, tmp_path, run):
    """A detector that failed is a row of dashes, its reason on stderr, and exit code 1."""
    rows = [
        {"label": "hetmm", "figures": {"image_auroc": 0.5}, "error": ""},
        {"label": "cpr", "figures": {}, "error": "no weights"},
    ]
    asked = []

    def compare(job, *_):
        asked.append(job)
        return {"rows": rows}

    monkeypatch.setattr(comparison, "run_comparison", compare)
    done = run("evaluate", "--all", dataset, "--report", tmp_path, "--detectors", "hetmm, cpr", "--preset", "hetmm-d0")
    assert done.code == 1
    assert "cpr failed: no weights" in done.err
    assert (asked[0].detectors, asked[0].presets) == (["hetmm", "cpr"], ["hetmm-d0"])
