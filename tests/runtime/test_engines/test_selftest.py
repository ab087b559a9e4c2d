"""A worker is ready only where its template's golden frames are answered as they were at calibration."""

import dataclasses

import numpy as np
import pytest
import torch

from runtime.engines.engine import Engine
from runtime.engines.parity import law_of
from runtime.engines.program import Batches
from runtime.engines.selftest import check_golden, check_version, keep, self_test
from runtime.errors import TemplateError
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity
from runtime.store.template import GoldenFrame
from runtime.testing.nothing import MAP_SIDE, Nothing
from runtime.testing.station import put_template


@pytest.fixture
def template(tmp_path):
    """Return a stored template of the do-nothing detector."""
    store = Store.create(tmp_path / "store")
    return store.template(put_template(store, Nothing(), 1.0))


class Answering:
    """A template whose golden frames are given, everything else the stored one's."""

    def __init__(self, template, golden):
        self.digest, self.manifest, self._golden = template.digest, template.manifest, golden

    def golden(self):
        """Return the golden frames."""
        return self._golden


def frame(score=0.0, peak=0.0):
    """Return a golden frame with this score and this value in the first place of its map."""
    anomaly_map = np.arange(MAP_SIDE * MAP_SIDE, dtype=np.float32).reshape(MAP_SIDE, MAP_SIDE)
    anomaly_map[0, 0] = peak
    return GoldenFrame(np.zeros((8, 8), np.uint8), anomaly_map, score)


def test_the_same_answers_pass(template):
    """Golden frames answered as stored, to the last thousandth, are no reason to refuse."""
    self_test(Engine(Nothing(), template.content()), Answering(template, [frame(), frame(5e-5, 5e-5)]))


@pytest.mark.parametrize("golden", [frame(score=0.01), frame(peak=0.01), frame(score=123.0)])
def test_another_answer_is_refused(template, golden):
    """A golden score or map that comes out differently names the frame and both values."""
    with pytest.raises(TemplateError, match="golden frame 1"):
        self_test(Engine(Nothing(), template.content()), Answering(template, [frame(), golden]))


def test_all_that_differ_are_named(template):
    """The refusal begins with the numbers of every golden frame that failed, and has the figures of each."""
    golden = [frame(score=0.01), frame(), frame(peak=0.5), frame(score=0.2)]
    with pytest.raises(TemplateError, match=r"golden frames 0, 2, 3 of 4 failed \(fp32\)") as refusal:
        self_test(Engine(Nothing(), template.content()), Answering(template, golden))
    assert all(f"frame {index}: expected score" in str(refusal.value) for index in (0, 2, 3))


def test_a_verdict_that_flips_is_refused(template):
    """A score well within the tolerance, on the other side of the image threshold, is refused."""
    thresholds = template.manifest.thresholds.model_copy(update={"image": 2e-5})
    manifest = template.manifest.model_copy(update={"thresholds": thresholds})
    engine, near = Engine(Nothing(), template.content()), Answering(template, [frame(score=4e-5)])
    assert self_test(engine, near).report.passed
    near.manifest = manifest
    with pytest.raises(TemplateError, match="verdict flips"):
        self_test(engine, near)


def test_one_frame_is_kept_for_later(template):
    """The first golden frame is kept in memory of its own, and answers as it did; without any there is none."""
    engine, golden = Engine(Nothing(), template.content()), [frame(), frame()]
    proof = self_test(engine, Answering(template, golden))
    assert (len(proof.report.frames), proof.report.passed) == (2, True)
    assert not np.shares_memory(proof.kept.golden.frame, golden[0].frame)
    assert not np.shares_memory(proof.kept.golden.anomaly_map, golden[0].anomaly_map)
    check_golden(engine, proof.kept, "here")
    assert self_test(engine, Answering(template, [])).kept is None


@pytest.mark.parametrize("golden", [frame(score=0.01), frame(peak=0.01)])
def test_a_golden_frame_that_comes_out_differently_later(template, golden):
    """An engine that no longer answers as at calibration is named with the place that was asked."""
    with pytest.raises(TemplateError, match="here: golden frame 0 of 1 failed"):
        check_golden(Engine(Nothing(), template.content()), keep(golden, law_of([golden], None)), "here")


def test_a_batch_that_goes_wrong_later_is_found(template):
    """Where several frames are answered at once, that is asked again as well, at every place."""
    engine, golden = Engine(Nothing(), template.content()), frame()
    kept, graph = keep(golden, law_of([golden], None)), engine.program((*golden.frame.shape, 1)[:3])
    wrong = []

    def together(frames, *bank):
        maps, scores = graph(frames, *bank)
        return maps, scores.expand(len(frames)).index_fill(0, torch.tensor(wrong, dtype=torch.int64), 5.0)

    engine.use_batches(Batches(3, 2, {(*golden.frame.shape, 1)[:3]: together}))
    check_golden(engine, kept, "here")
    wrong.append(2)
    with pytest.raises(TemplateError, match="here, 3 at once: golden frame 2 of 3 failed"):
        check_golden(engine, kept, "here")


def test_another_version_is_refused(template):
    """The version that calibrated the template is the only one it runs under."""
    check_version(template, Nothing.version)
    with pytest.raises(TemplateError, match="version 1, which calibrated it, found 2 installed"):
        check_version(template, "2")
    older = template.manifest.model_copy(update={"detector": DetectorIdentity(name="x", version="0", distribution="y")})
    with pytest.raises(TemplateError, match="calibrate again"):
        check_version(dataclasses.replace(template, manifest=older), Nothing.version)
