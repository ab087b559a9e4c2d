"""A worker is ready only where its template's golden frames are answered as they were at calibration."""

import dataclasses

import numpy as np
import pytest

from runtime.engine import Engine
from runtime.errors import TemplateError
from runtime.manifest import DetectorIdentity
from runtime.selftest import check_golden, check_version, self_test
from runtime.store import Store
from runtime.template import GoldenFrame
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


def test_one_frame_is_kept_for_later(template):
    """The first golden frame comes back in memory of its own, and answers as it did; without any there is none."""
    engine, golden = Engine(Nothing(), template.content()), [frame(), frame()]
    kept = self_test(engine, Answering(template, golden))
    assert not np.shares_memory(kept.frame, golden[0].frame)
    assert not np.shares_memory(kept.anomaly_map, golden[0].anomaly_map)
    check_golden(engine, kept, "here")
    assert self_test(engine, Answering(template, [])) is None


@pytest.mark.parametrize("golden", [frame(score=0.01), frame(peak=0.01)])
def test_a_golden_frame_that_comes_out_differently_later(template, golden):
    """An engine that no longer answers as at calibration is named with the place that was asked."""
    with pytest.raises(TemplateError, match="here: expected score"):
        check_golden(Engine(Nothing(), template.content()), golden, "here")


def test_another_version_is_refused(template):
    """The version that calibrated the template is the only one it runs under."""
    check_version(template, Nothing.version)
    with pytest.raises(TemplateError, match="version 1, which calibrated it, found 2 installed"):
        check_version(template, "2")
    older = template.manifest.model_copy(update={"detector": DetectorIdentity(name="x", version="0", distribution="y")})
    with pytest.raises(TemplateError, match="calibrate again"):
        check_version(dataclasses.replace(template, manifest=older), Nothing.version)
