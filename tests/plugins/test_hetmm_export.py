"""The whole detector as one exported program: what compiled backends start from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgead import DetectorContext
from plugins.hetmm import Hetmm
from plugins.hetmm.settings import HetmmSettings
from runtime.engines.engine import Engine, export

SETTINGS = HetmmSettings(
    image_size=64,
    windows=((3, 1), (3, 1), (1, 1)),
    blur_sigma=2.0,
    blur_kernel=9,
    spare=1,
    layers=("stage1", "stage2", "stage3"),
)


@pytest.mark.parametrize("shape", [(128, 144, 3), (90, 70, 1)])
def test_program_equals_eager(frames, damaged, shape):
    """I-20: strict export takes resize to score whole, bank as input, for any frame shape, and equals eager."""
    detector = Hetmm()
    content = detector.calibrate(frames[:3], SETTINGS, DetectorContext())
    program = export(detector, content, shape)
    bank = detector.bank(content)
    other = detector.bank(detector.extend(content, frames[4:5], DetectorContext()))
    image = np.ascontiguousarray(damaged.image[: shape[0], : shape[1], : shape[2]])
    engine = Engine(detector, content, threads=1)
    answers = []
    for each in (bank, other):
        with torch.no_grad():
            anomaly_map, score = program.module()(torch.from_numpy(image)[None], *each.values())
        expected = engine.infer(image[:, :, 0] if shape[2] == 1 else image, each)
        np.testing.assert_allclose(anomaly_map[0].numpy(), expected.anomaly_map, rtol=0, atol=1e-6)
        assert score.item() == pytest.approx(expected.score, abs=1e-6)
        answers.append(anomaly_map)
    assert not torch.equal(*answers)  # the bank is an input of the program, not a constant in it
