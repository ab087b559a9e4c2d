"""On a GPU with TensorRT: a real build, run, save, load, swap, and CUDA graphs. Never run so far: docs/tensorrt.md."""

import numpy as np
import pytest
import torch

from edgead import BUILTIN_PLUGINS
from runtime.engines.cache import EngineCache
from runtime.engines.choice import choose
from runtime.engines.engine import Engine, export
from runtime.engines.parity import LIMITS
from runtime.engines.program import layouts
from runtime.engines.settings import EngineSettings
from runtime.engines.target import Target
from runtime.engines.tensorrt import ready
from runtime.engines.tensorrt.backend import compile_program, load_tensorrt
from runtime.errors import EngineError
from runtime.registry import load_plugins

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(1800)]
TARGET = Target("tensorrt", "fp32", "cuda", 1)
DETECTORS = sorted(load_plugins(BUILTIN_PLUGINS).detectors)


@pytest.fixture(scope="module", autouse=True)
def _tensorrt():
    """Skip, with the sentence an integrator would read, where TensorRT cannot run."""
    try:
        ready.check_ready("tensorrt", "cuda")
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=DETECTORS)
def built(request, shipped, tmp_path_factory, _tensorrt):
    """Build a shipped detector's engine; return detector, content and the engine's folder."""
    detector = load_plugins(BUILTIN_PLUGINS).detector(request.param)
    content, folder = shipped.content_of(detector), tmp_path_factory.mktemp("engine")
    compile_program(shipped.program(detector, content), folder, TARGET)
    return detector, content, folder


def frame(seed):
    """Return a frame of noise."""
    return np.random.default_rng(seed).integers(0, 256, (360, 480, 3), dtype=np.uint8)


def assert_close(found, expected):
    """Compare as the parity gate does in fp32."""
    np.testing.assert_allclose(found, expected, rtol=LIMITS["fp32"].relative, atol=LIMITS["fp32"].absolute)


def test_it_equals_eager(built, shipped):
    """Loaded from its files, the engine answers as eager on the CPU does, captured and replayed, frame after frame."""
    detector, content, folder = built
    program = load_tensorrt(folder, layouts(detector, content, shipped.FRAME), "cuda")
    with shipped.any_weights():
        eager = Engine(detector, content)
        engine = Engine(detector, content, device="cuda", programs={shipped.FRAME: program})
        for seed in range(5):
            found, expected = engine.infer(frame(seed)), eager.infer(frame(seed))
            assert_close(found.anomaly_map, expected.anomaly_map)
            assert_close(found.score, expected.score)
    assert program._launch._graph is not None


def test_a_captured_launch_follows_a_bank_at_another_place(built, shipped):
    """Another version's bank lies elsewhere: the launch is captured anew, and answers from it."""
    detector, content, folder = built
    from dataclasses import replace

    halved = {name: each * 0.5 for name, each in content.tensors.items() if each.shape[:1] == (content.valid,)}
    other = replace(content, tensors={**content.tensors, **halved})
    program = load_tensorrt(folder, layouts(detector, content, shipped.FRAME), "cuda")
    with shipped.any_weights():
        engine = Engine(detector, content, device="cuda", programs={shipped.FRAME: program})
        for _ in range(3):
            before = engine.infer(frame(1))
        captured = program._launch._graph
        swapped = Engine(detector, other, device="cuda", programs={shipped.FRAME: program})
        for _ in range(3):
            found = swapped.infer(frame(1))
        assert captured is not None
        assert program._launch._graph not in {None, captured}
        expected = Engine(detector, other, device="cuda").infer(frame(1))
    assert_close(found.anomaly_map, expected.anomaly_map)
    assert not np.array_equal(found.anomaly_map, before.anomaly_map)


def test_the_cache_serves_it(spot, tmp_path):
    """`edgead build` and a worker's choice, from golden frames to an approved engine found again."""
    from runtime.engines.build import build
    from runtime.store.store import Store

    store, cache = Store.create(tmp_path / "store"), EngineCache(tmp_path / "engines", 1 << 30)
    template = spot.put(store, spot.content_of(2))
    (record,) = build(spot.Spot(), template, TARGET, cache, lambda *_: None)
    assert record.compiled
    (again,) = build(spot.Spot(), template, TARGET, cache, lambda *_: None)
    assert not again.compiled
    chosen = choose(spot.Spot(), template, EngineSettings("tensorrt", "fp32", cache.folder, 1024), "cuda", 1)
    assert (chosen.backend, chosen.note) == ("tensorrt", "")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_pass_or_are_refused_by_the_gate(spot, tmp_path, precision):
    """A 16-bit engine builds; whether it may run is the gate's decision, in one of its two sentences."""
    from runtime.engines.build import build
    from runtime.store.store import Store

    store, cache = Store.create(tmp_path / "store"), EngineCache(tmp_path / "engines", 1 << 30)
    target = Target("tensorrt", precision, "cuda", 1)
    try:
        (record,) = build(spot.Spot(), spot.put(store, spot.content_of(2)), target, cache, lambda *_: None)
        assert record.parity["failed"] == []
    except EngineError as error:
        assert "the parity gate refuses" in str(error)  # noqa: PT017 - either is right


def test_cuda_eager_equals_cpu(built, shipped):
    """The reference of the gate holds on the GPU itself."""
    detector, content, _ = built
    with shipped.any_weights():
        found, expected = (Engine(detector, content, device=each).infer(frame(0)) for each in ("cuda", "cpu"))
    assert_close(found.anomaly_map, expected.anomaly_map)


def test_export_stays_on_the_cpu(shipped):
    """A detector that runs on the GPU is exported from the CPU: the program, and so the key, is the same."""
    detector = load_plugins(BUILTIN_PLUGINS).detector("hetmm")
    content = shipped.content_of(detector)
    Engine(detector, content, device="cuda").infer(frame(0))
    program = export(detector, content, shipped.FRAME)
    assert {each.device.type for each in program.state_dict.values()} == {"cpu"}
    assert torch.cuda.is_available()
