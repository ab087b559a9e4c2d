"""The kit passes what we ship and the sample wheel, and names the cause where a promise is broken."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import edgead
from calibration.apart import EndedError
from calibration.conformance import PROMISES, Check, Outcome, check, kept
from runtime.errors import ConfigError
from runtime.registry import load_plugins

pytestmark = pytest.mark.timeout(900)

HERE = Path(__file__).parent
SAMPLE = HERE.parents[1] / "sample_plugin"
_CPR = ["backbone=efficientnet_lite0", "train=none", "image_size=80"]
#: What makes a shipped detector learn in a moment, with the weights that come with edgead.
QUICK = {
    "hetmm": ["image_size=64"],
    "cpr": _CPR,
    "cpr-fast": _CPR,
    "cpr-faster": _CPR,
    "prn": ["image_size=128", "width=4", "train_steps=2"],
    "mspba": ["image_size=192", "train=none", "bank_rows=64"],
}
#: The same with a training where it can be left out; takes minutes, because a kit calibrates eight times.
TRAINED = {
    "cpr-faster": ["image_size=80", "train_steps=2"],
    "mspba": ["image_size=192", "train_steps=2", "bank_rows=64", "dimension=8"],
}
SHIPPED = sorted(load_plugins(edgead.BUILTIN_PLUGINS, entry_points=False).detectors)
#: Detector -> the promise it breaks, and words of the cause.
BROKEN = {
    "small-map": ("answer", "expected a map of shape (1, 16, 16)"),
    "restless": ("digest", "a second calibration gives another template: tensors mean differ"),
    "noisy": ("repeat", "the same frame is answered differently the second time"),
    "endless": ("few", "no end within 20 s: it hangs, and was ended"),
    "leaky": ("memory", "memory grows with every frame: 6"),
    "branching": ("export", "torch.export refuses the graph"),
    "colour-only": ("grey", "IndexError: index 1 is out of bounds for dimension 0 with size 1"),
    "crashing": ("errors", "the process ended with status 3"),
}


def ignore(*_):
    """Show no progress."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel of the sample plugin as its author would; return its path."""
    source, made = tmp_path_factory.mktemp("sample") / "source", tmp_path_factory.mktemp("wheel")
    shutil.copytree(SAMPLE, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", made, source], check=True, timeout=100)
    [path] = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def outcomes(wheel):
    """Check everything, in two processes at a time; return detector -> promise -> outcome."""
    first = [name for name in SHIPPED if name in ("prn", "hetmm")]  # about half of the work
    rest = [name for name in SHIPPED if name not in first]
    requests = [
        (Check(what=first, settings=QUICK, frames=60), edgead.BUILTIN_PLUGINS),
        (Check(what=[*BROKEN, "sound"], limit_s=20, paths=(HERE,), frames=120), ("broken_detectors",)),
        (Check(what=rest, settings=QUICK, frames=60), edgead.BUILTIN_PLUGINS),
        (Check(what=[str(wheel)], frames=60), edgead.BUILTIN_PLUGINS),
    ]
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda each: check(*each, ignore), requests)
        everything = [outcome for part in found for outcome in part]
    by_name = {}
    for outcome in everything:
        by_name.setdefault(outcome.detector, {})[outcome.promise] = outcome
    return by_name


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHIPPED, "brightness", "sound"])
def test_a_sound_detector_keeps_every_promise(name, outcomes):
    """Every shipped detector, the sample third-party wheel and a toy keep every promise there is."""
    own = outcomes[name]
    assert [*own] == [promise.name for promise in PROMISES]
    assert [(each.promise, each.sentence) for each in own.values() if each.state not in ("pass", "note")] == []
    assert kept(own.values())


@pytest.mark.endurance
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_detector_keeps_every_promise(name):
    """With a training, too short to be worth anything, everything promised is kept all the same."""
    found = check(Check(what=[name], settings=TRAINED, frames=60, limit_s=300), edgead.BUILTIN_PLUGINS, ignore)
    assert [(each.promise, each.sentence) for each in found if each.state not in ("pass", "note")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_detector_fails_where_it_is_broken(name, outcomes):
    """A detector that breaks one promise fails that one, with the cause, and nothing that does not depend on it."""
    promise, cause = BROKEN[name]
    own = outcomes[name]
    assert [*own] == [each.name for each in PROMISES]
    assert [each.promise for each in own.values() if each.state == "fail"] == [promise]
    assert cause in own[promise].detail
    assert not kept(own.values())
    needing = {each.name for each in PROMISES if promise in each.needs}
    assert needing <= {each.promise for each in own.values() if each.state == "skip"}


@pytest.mark.slow
def test_the_wheel_never_enters_the_environment(outcomes):
    """After its check the sample is as unknown here as it was before."""
    assert outcomes["brightness"]["loads"].detail.endswith("edgead-brightness-detector 0.1.0")
    assert "brightness" not in load_plugins(edgead.BUILTIN_PLUGINS).detectors


def test_an_unknown_detector_is_refused():
    """A name nobody registered is refused with the names there are."""
    with pytest.raises(ConfigError, match=r"expected a detector of cpr, .*hetmm.*found 'hetm'"):
        check(Check(what=["hetm"]), edgead.BUILTIN_PLUGINS, ignore)


def test_the_guide_lists_the_promises():
    """The guide for plugin authors names every promise, with what the host relies on, in order."""
    text = (HERE.parents[2] / "docs" / "detector-plugin.md").read_text(encoding="utf-8")
    rows = "".join(f"| `{each.name}` | {each.sentence} |\n" for each in PROMISES)
    assert rows in text


def test_a_process_that_leaves_quietly_is_blamed(monkeypatch):
    """A promise whose process ends with status 0 has failed, and the check goes on; a crash at the very end is none."""
    begun = {"found": ["toy"], "known": ["toy"], "broken": []}
    told = Outcome("toy", "settings", "pass", "").as_json()
    runs = iter([[begun, {"begin": ["toy", "loads"]}], [begun, {"end": told}, {"finished": True}, EndedError("crash")]])
    jobs = []

    def played(_module, job, **_options):
        jobs.append(job["done"])
        for record in next(runs):
            if isinstance(record, EndedError):
                raise record
            yield record

    monkeypatch.setattr("calibration.conformance.kit.records", played)
    found = check(Check(what=["toy"]), (), ignore)
    assert [(each.promise, each.state) for each in found] == [("loads", "fail"), ("settings", "pass")]
    assert found[0].detail == "the process ended with status 0 in the middle"
    assert jobs == [{}, {"toy": {"loads": "fail"}}]


def test_what_is_no_wheel_is_refused(tmp_path):
    """A file that only calls itself a wheel is refused, and one that is not there."""
    fake = tmp_path / "acme_detector-1.0-py3-none-any.whl"
    with pytest.raises(ConfigError, match="found no file"):
        check(Check(what=[str(fake)]), (), ignore)
    fake.write_text("no zip")
    with pytest.raises(ConfigError, match="one pip refuses"):
        check(Check(what=[str(fake)]), (), ignore)
