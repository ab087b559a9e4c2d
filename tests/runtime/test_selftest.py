"""A worker is ready only where its template's golden frames are answered as they were at calibration."""

import dataclasses

import numpy as np
import pytest

from runtime.engine import Engine
from runtime.errors import TemplateError
from runtime.manifest import DetectorIdentity
from runtime.selftest import check_version, self_test
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
    """Return a golden frame with this score and largest map value."""
    anomaly_map = np.zeros((MAP_SIDE, MAP_SIDE), np.float32)
    anomaly_map[3, 4] = peak
    return GoldenFrame(np.zeros((8, 8), np.uint8), anomaly_map, score)


def test_the_same_answers_pass(template):
    """Golden frames answered as stored, to the last thousandth, are no reason to refuse."""
    self_test(Engine(Nothing(), template.content()), Answering(template, [frame(), frame(5e-5, 5e-5)]))


@pytest.mark.parametrize("golden", [frame(score=0.01), frame(peak=0.01), frame(score=123.0)])
def test_another_answer_is_refused(template, golden):
    """A golden score or map that comes out differently names the frame and both values."""
    with pytest.raises(TemplateError, match="golden frame 1"):
        self_test(Engine(Nothing(), template.content()), Answering(template, [frame(), golden]))


def test_another_version_is_refused(template):
    """The version that calibrated the template is the only one it runs under."""
    check_version(template, Nothing.version)
    with pytest.raises(TemplateError, match="version 1, which calibrated it, found 2 installed"):
        check_version(template, "2")
    older = template.manifest.model_copy(update={"detector": DetectorIdentity(name="x", version="0", distribution="y")})
    with pytest.raises(TemplateError, match="calibrate again"):
        check_version(dataclasses.replace(template, manifest=older), Nothing.version)
