"""The TensorRT backends on a machine without them: one clear sentence everywhere, and keys that hold what they must."""

import pytest
import torch
from torch import nn

from runtime.engines.backends import backend_of
from runtime.engines.key import engine_key
from runtime.engines.target import Target, isa
from runtime.engines.tensorrt import marks, ready
from runtime.engines.tensorrt.options import OPTIONS, check_options
from runtime.errors import ConfigError, EngineError

BACKENDS = ("tensorrt", "tensorrt-rtx")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


class Double(nn.Module):
    """Twice a frame."""

    def forward(self, frames):
        """Return twice the frame."""
        return frames.float() * 2


def program():
    """Return the program of a small graph."""
    return torch.export.export(Double(), (torch.zeros((1, 4, 4, 1), dtype=torch.uint8),), strict=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cpu_is_refused(backend):
    """TensorRT on a CPU is a mistake in the station file: said before anything is looked for."""
    with pytest.raises(EngineError, match=f"{backend}: expected worker.device cuda or cuda:N, found 'cpu'"):
        ready.check_ready(backend, "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_packages_are_named(backend, monkeypatch):
    """What is not installed is named together with the extra that brings it."""
    monkeypatch.setattr(ready, "versions", lambda _: {"torch_tensorrt": "2.13.0", "tensorrt": "none"})
    with pytest.raises(EngineError, match=rf"found no tensorrt: install `edgead\[{backend}\]`"):
        ready.check_ready(backend, "cuda")


@needs_no_gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_gpu_is_one_sentence(backend, monkeypatch, tmp_path):
    """With everything installed but no GPU, looking, building (but for RTX) and loading say so, and what to do."""
    monkeypatch.setattr(ready, "versions", lambda _: {"torch_tensorrt": "2.13.0", "tensorrt": "11.0"})
    match = r"expected an NVIDIA GPU for worker.device 'cuda', found none .* set worker.backend to inductor"
    with pytest.raises(EngineError, match=match):
        ready.check_ready(backend, "cuda")
    with pytest.raises(EngineError, match=match):
        backend_of(backend).load(tmp_path, [], "cuda")


@needs_no_gpu
def test_nothing_is_built_without_a_gpu(tmp_path):
    """Building for TensorRT refuses before it writes anything: its optimiser times kernels on the GPU itself."""
    target = Target("tensorrt", "fp32", "cuda", 1)
    with pytest.raises(EngineError, match="expected an NVIDIA GPU"):
        backend_of("tensorrt").compile(program(), tmp_path, target, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_backend_lists_what_there_is():
    """The names of all backends are in the error for one that is none."""
    with pytest.raises(ConfigError, match="inductor, tensorrt, tensorrt-rtx, found 'onnx'"):
        backend_of("onnx")


@pytest.fixture
def gpu(monkeypatch):
    """Play a GPU's name; returns a function that changes it."""

    def be(name):
        monkeypatch.setattr("runtime.engines.target._gpu", lambda _: name)

    be("NVIDIA L4 SM 8.9")
    return be


def installed(monkeypatch, versions):
    """Play what is installed."""
    monkeypatch.setattr("runtime.engines.target.versions", lambda _: versions)


def test_a_key_holds_versions_and_gpu(gpu, monkeypatch):
    """Another GPU, torch-TensorRT, TensorRT, precision or option is another key; other threads and CPUs are not."""
    here = {"torch_tensorrt": "2.13.0", "tensorrt": "11.0.0"}
    exported, options = program(), backend_of("tensorrt").options

    def key(precision="fp32", threads=1, options=options):
        return engine_key(exported, Target("tensorrt", precision, "cuda", threads), options)

    installed(monkeypatch, here)
    base = key()
    assert key(threads=8) == base
    found = {base, key("fp16"), key(options=dict(options) | {"optimization_level": 5})}
    gpu("NVIDIA L40S SM 8.9")
    found.add(key())
    gpu("NVIDIA L4 SM 8.9")
    for name in here:
        installed(monkeypatch, here | {name: "9.9"})
        found.add(key())
    assert len(found) == 6
    installed(monkeypatch, here)
    assert key() == base


def test_rtx_engines_are_for_several_gpus(monkeypatch):
    """Their mark is the list of compute capabilities, so a key is made, and an engine built, where there is no GPU."""
    found = Target("tensorrt-rtx", "fp32", "cuda", 4).marks()
    assert found["device"] == "SM86 SM89 SM120"
    assert isa() not in found.values()
    assert "+" not in found["torch"]
    monkeypatch.setattr("runtime.engines.target._gpu", lambda _: pytest.fail("no GPU is asked"))
    Target("tensorrt-rtx", "fp32", "cuda", 4).marks()


def test_the_precision_is_never_an_option():
    """Networks are strongly typed: no option chooses a format, the program does; TF32 is off."""
    assert not {name for name in OPTIONS if "precision" in name or "autocast" in name}
    assert OPTIONS["disable_tf32"]
    assert OPTIONS["require_full_compilation"]


def test_a_misspelt_option_is_refused():
    """``**kwargs`` is no excuse: only named parameters count."""

    def compile_program(*, min_block_size=5, **kwargs):
        return min_block_size, kwargs

    check_options({"min_block_size": 1}, compile_program)
    with pytest.raises(EngineError, match="found min_blocksize, which it would drop without a word"):
        check_options({"min_blocksize": 1}, compile_program)


def test_versions_are_read_without_importing():
    """Where nothing of NVIDIA's is installed the versions are "none", and nothing was imported to find out."""
    import sys

    found = marks.versions("tensorrt")
    assert set(found) == {"torch_tensorrt", "tensorrt"}
    if "torch_tensorrt" not in sys.modules:
        assert "tensorrt" not in sys.modules
