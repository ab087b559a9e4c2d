"""CPR compiled: banks are swapped and extended under a running engine, and nothing is compiled for it."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from plugins.cpr import CprFaster
from plugins.cpr.settings import CprFasterSettings
from runtime.detector import DetectorContext
from runtime.engines.build import build
from runtime.engines.cache import EngineCache
from runtime.engines.choice import choose
from runtime.engines.engine import Engine
from runtime.engines.settings import EngineSettings
from runtime.engines.target import Target
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.store.template import GoldenFrame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def template(frames, tmp_path_factory):
    """Return a stored template of two references with room for more, 80 x 80, with a golden frame."""
    settings = CprFasterSettings(train="none", image_size=80, kind="object", nearest=1, spare=4)
    content = CprFaster().calibrate(frames[:2], settings, DetectorContext())
    answer = Engine(CprFaster(), content, threads=1).infer(frames[3].image)
    return Store.create(tmp_path_factory.mktemp("cpr") / "store").put_template(
        product="part", detector=DetectorIdentity(name="cpr-faster", version="1", distribution="edgead"),
        settings=content.settings, bank=content.tensors, capacity=content.capacity, valid=content.valid,
        map_shape=content.map_shape, weights=content.weights, statistics=content.statistics, pool=content.pool,
        thresholds=Thresholds(image=None, pixel=None, rule="none", target=None, bound=None, held_out=0),
        golden=[GoldenFrame(frames[3].image, answer.anomaly_map, answer.score)], who="test",
    )  # fmt: skip


def test_a_bank_is_swapped_and_extended_without_compiling(template, frames, tmp_path, monkeypatch):
    """A swapped and an extended bank: no compilation, no graph, and the loaded program answers as a fresh engine."""
    cache = EngineCache(tmp_path / "engines", 1 << 30)
    build(CprFaster(), template, Target("inductor", "fp32", "cpu", 1), cache, lambda *_: None)
    started, graphs = [], []
    graph = CprFaster.graph
    engine = choose(CprFaster(), template, EngineSettings("inductor", "fp32", cache.folder, 1024), "cpu", 1).engine
    content = template.content(pool=True)
    extended = CprFaster().extend(content, frames[2:5], DetectorContext())
    other = CprFaster().extend(replace(content, pool=content.pool), frames[5:6], DetectorContext())
    fresh = {name: Engine(CprFaster(), each, threads=1) for name, each in (("extended", extended), ("other", other))}
    expected = {name: [each.infer(frame.image) for frame in frames[6:8]] for name, each in fresh.items()}
    monkeypatch.setattr(subprocess, "Popen", lambda *_arguments, **_options: started.append(1))
    monkeypatch.setattr(CprFaster, "graph", lambda *arguments: graphs.append(1) or graph(*arguments))
    before, shape = engine.infer(frames[2].image).score, frames[2].image.shape
    for name, each in (("extended", extended), ("other", other)):
        engine = Engine(CprFaster(), each, threads=1, programs={shape: engine.program(shape)})
        for frame, answer in zip(frames[6:8], expected[name], strict=True):
            found = engine.infer(frame.image)
            np.testing.assert_allclose(found.anomaly_map, answer.anomaly_map, rtol=1e-3, atol=1e-4)
            assert found.score == pytest.approx(answer.score, rel=1e-3)
        seen = engine.infer(frames[2].image).score  # among the extended bank's references, not among the other's
        assert (seen < 0.5 * before) is (name == "extended")
    assert (started, graphs) == ([], [])
    assert len(cache.entries()) == 1
