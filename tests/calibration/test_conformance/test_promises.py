"""Each promise, broken by a toy in this process: the check names the cause."""

import importlib
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict

from calibration.conformance import answering, lasting, learning, programs
from calibration.conformance.outcomes import PROMISES, BrokenError, NotedError, Outcome, kept
from calibration.conformance.subject import Subject
from runtime.errors import EdgeadError
from runtime.registry import RegisteredDetector, Registry


@pytest.fixture(scope="module")
def toys():
    """Import the sound toy, whose parts the broken ones here replace."""
    sys.path.insert(0, str(Path(__file__).parent))
    yield importlib.import_module("broken_detectors")
    sys.path.remove(str(Path(__file__).parent))
    for name in ("broken_detectors", "broken_graphs"):
        sys.modules.pop(name, None)


@pytest.fixture
def subject(toys, tmp_path):
    """Return a function that makes the subject of a sound toy with some members replaced."""

    def make(**members):
        toy = type("Toy", (toys.Sound,), {"name": "toy", **members})
        registered = RegisteredDetector("toy", toy, "test", "toys 1")
        registry = Registry(detectors={"toy": registered})
        return Subject(registry, "toy", tmp_path, settings=[], preset=None, frames=60)

    return make


def changed(**fields):
    """Return a ``calibrate`` that changes fields of what the sound one learnt."""

    def calibrate(self, references, settings, context):
        content = super(type(self), self).calibrate(references, settings, context)
        return replace(content, **{name: make(content) for name, make in fields.items()})

    return calibrate


class Required(BaseModel):
    """A setting without a default."""

    model_config = ConfigDict(extra="forbid")

    spots: int


class Loose(BaseModel):
    """A setting that takes anything."""

    model_config = ConfigDict(extra="forbid")

    least_spread: object = 4.0


class Flat(torch.nn.Module):
    """One value everywhere."""

    def forward(self, frames, mean, spread):
        """Inspect."""
        score = frames.to(torch.float32).mean((1, 2, 3)) + 0 * spread[0, 0]
        return score[:, None, None] + 0 * mean, score


class Wide(torch.nn.Module):
    """Numbers of twice the width."""

    def forward(self, frames, mean, spread):
        """Inspect."""
        anomaly_map = frames.to(torch.float64).mean() + 0 * (mean + spread)[None].double()
        return anomaly_map, anomaly_map.amax((1, 2))


class Median(torch.nn.Module):
    """An antialiased resize, which engines get as products, and a median, which they do not get."""

    def forward(self, frames, mean, spread):
        """Inspect."""
        planes = frames.permute(0, 3, 1, 2).to(torch.float32)
        small = torch.nn.functional.interpolate(planes, size=mean.shape, mode="bilinear", antialias=True)
        anomaly_map = (small.mean(1) - mean).abs() / spread
        return anomaly_map, self.score(anomaly_map.flatten(1))

    def score(self, values):
        """Reduce a map to its score."""
        return values.median(1).values


class Largest(Median):
    """The same with nothing an engine refuses."""

    def score(self, values):
        """Reduce a map to its score."""
        return values.amax(1)


def forgetful(_self, _content, bank, _index):
    """Empty the bank that was lent."""
    bank["mean"].zero_()
    return bank


def grabbing(_self, content, _references, _context):
    """Write the new frames over the old ones."""
    content.tensors["mean"] += 1
    return content


def growing(self, content):
    """Lay the bank out by its values."""
    bank = type(self).__mro__[1].bank(self, content)
    rows = int(content.tensors["mean"].sum()) % 97
    return bank | {"more": torch.zeros(rows + 1)}


def careless(self, references, settings, context):
    """Learn from nothing as well."""
    if not len(references):
        return None
    return type(self).__mro__[1].calibrate(self, references, settings, context)


CASES = {
    "a setting without a default": ({"settings_model": Required}, learning.settings, "without a default: spots"),
    "a setting that takes anything": ({"settings_model": Loose}, learning.settings, "a word: least_spread"),
    "a tensor that is not finite": (
        {"calibrate": changed(tensors=lambda each: each.tensors | {"mean": each.tensors["mean"] * np.nan})},
        learning.calibrate, "tensor mean has values that are not finite",
    ),
    "a tensor of a foreign dtype": (
        {"calibrate": changed(tensors=lambda each: each.tensors | {"mean": each.tensors["mean"].astype(np.float64)})},
        learning.calibrate, "tensor mean is float64",
    ),
    "more references than room": (
        {"calibrate": changed(capacity=lambda _: 1)}, learning.calibrate, "valid 8 of capacity 1",
    ),
    "times among the statistics": (
        {"calibrate": changed(statistics=lambda _: {"took_s": time.perf_counter()})}, learning.digest, "statistics",
    ),
    "nothing to learn from": ({"calibrate": careless}, learning.errors, "passed over in silence"),
    "weights that nobody compares": (
        {"calibrate": changed(weights=lambda _: {"net": "1" * 64})}, learning.weights, "other weights is taken",
    ),
    "another dtype": ({"graph": lambda *_: Wide()}, answering.answer, "forward returned torch.float64, torch.float64"),
    "one value everywhere": ({"graph": lambda *_: Flat()}, answering.variety, "one value everywhere"),
    "a bank that was lent": ({"leave_out": forgetful}, lasting.leave_out, "leave_out changes the bank it was given"),
    "content that was lent": ({"extend": grabbing}, lasting.extend, "extend changes the content it was given"),
    "a layout that follows values": ({"bank": growing}, programs.bank, "a bank of another layout"),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_a_broken_promise_is_named(what, subject):
    """A detector that breaks one promise is told what was found, and what to do."""
    members, check, cause = CASES[what]
    with pytest.raises(BrokenError) as broken:
        check(subject(**members))
    assert cause in broken.value.cause


def test_what_engines_refuse_is_said_by_lint(subject):
    """An operation no engine takes is noted by its name; one that is said otherwise for engines is not."""
    with pytest.raises(NotedError, match=r"^TensorRT would not run it: aten\.median"):
        programs.lint(subject(graph=lambda *_: Median()))


def test_what_engines_get_otherwise_passes_lint(subject):
    """A resize with antialiasing and a move of uint8 become other operations first: nothing is noted."""
    assert programs.lint(subject(graph=lambda *_: Largest())) == "nothing to replace"


def test_a_refusal_of_the_family_is_an_answer(subject):
    """References a detector cannot learn from may be refused with a sentence."""

    def picky(self, references, settings, context):
        if len(references) < 2:
            raise EdgeadError("two are needed")
        return type(self).__mro__[1].calibrate(self, references, settings, context)

    assert "one reference refused (two are needed)" in learning.few(subject(calibrate=picky))


def test_only_judged_and_kept_is_kept():
    """A promise that failed or was not judged is not kept, and no promise at all neither."""
    states = {state: kept([Outcome("toy", "loads", state, "")]) for state in ("pass", "note", "fail", "skip")}
    assert states == {"pass": True, "note": True, "fail": False, "skip": False}
    assert not kept([])


def test_promises_need_only_what_comes_before():
    """No promise waits for one that is checked later."""
    names = [promise.name for promise in PROMISES]
    assert len(set(names)) == len(names)
    for place, promise in enumerate(PROMISES):
        assert set(promise.needs) <= set(names[:place])
