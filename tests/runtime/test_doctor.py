"""What the doctor finds, and what is in the way."""

import importlib.metadata
import shutil
import sys
from types import SimpleNamespace

import pytest

from runtime import doctor
from runtime.doctor import examine
from runtime.engines.cache import EngineCache
from runtime.engines.folder import default_folder
from runtime.registry import BrokenPlugin, load_plugins
from runtime.weights import weights_dir

BUILTINS = ("plugins.hetmm",)


def found(registry=None):
    """Return the findings by check."""
    return {each.check: each for each in examine(registry or load_plugins(BUILTINS, entry_points=False))}


def test_a_usable_machine():
    """On the machine that runs these tests nothing is in the way, and every finding is a sentence under a status."""
    findings = found()
    assert {each.status for each in findings.values()} <= {"ok", "note", "warn"}
    assert findings["python"].detail == ".".join(map(str, sys.version_info[:3]))
    assert findings["torch"].detail == importlib.metadata.version("torch")
    assert findings["detector hetmm"].status == "ok"
    assert findings["weights efficientnet_lite0"].detail == "present"
    assert all(each.detail for each in findings.values())


def test_damaged_weights_are_in_the_way():
    """A weight file that is not the pinned one is a failure."""
    (weight,) = [
        each for each in load_plugins(BUILTINS, entry_points=False).weights.values() if each.name == "resnet18"
    ]
    assert found()["weights resnet18"].status == "note"
    weights_dir().mkdir(parents=True)
    (weights_dir() / weight.filename).write_bytes(b"not it")
    assert found()["weights resnet18"].status == "fail"


def test_a_missing_package_is_in_the_way(monkeypatch):
    """A package edgead needs and does not find is a failure; one it can do without is a note."""

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    monkeypatch.setattr("runtime.engines.tensorrt.marks.version", version)
    findings = {each.check: each for each in (*doctor._packages(), *doctor._engines())}
    assert findings["numpy"].status == "fail"
    for backend in ("tensorrt", "tensorrt-rtx"):
        assert findings[f"backend {backend}"].status == "note"
        assert f"install `edgead[{backend}]`" in findings[f"backend {backend}"].detail


def test_little_disk_is_a_warning(monkeypatch):
    """Less free disk than templates may need is a warning that says so."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=doctor.LOW_DISK_BYTES - 1))
    disk = found()["disk"]
    assert disk.status == "warn"
    assert "templates" in disk.detail


def test_another_system_is_in_the_way(monkeypatch):
    """Elsewhere than on Linux the host cannot run, and the doctor says why."""
    monkeypatch.setattr(sys, "platform", "darwin")
    (system,) = [each for each in doctor._system() if each.check == "system"]
    assert system.status == "fail"
    assert "Linux" in system.detail


def test_broken_plugins_are_in_the_way():
    """A plugin that cannot be loaded, and a detector that cannot be made, are failures with their reason."""
    registry = load_plugins((), entry_points=False)
    registry.broken.append(BrokenPlugin("other", "other 1.0", "ImportError: no module"))
    finding = found(registry)["plugin other"]
    assert (finding.status, finding.detail) == ("fail", "other 1.0: ImportError: no module")


def test_a_cpu_has_a_name(monkeypatch, tmp_path):
    """The processor has a name where the kernel tells one, else the architecture's."""
    assert doctor.cpu_name()
    monkeypatch.setattr(doctor, "Path", lambda _path: tmp_path / "nothing")
    assert doctor.cpu_name() == doctor.platform.machine()


def test_memory_is_in_bytes():
    """A machine that runs these tests has between one GiB and a hundred TiB."""
    assert 2**30 < doctor.memory_bytes() < 100 * 2**40


@pytest.mark.gpu
def test_a_gpu_is_named():
    """A CUDA device is listed with its name and memory."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert torch.cuda.get_device_name(0) in found()["cuda:0"].detail


def test_a_missing_compiler_is_a_note(monkeypatch):
    """Without a C++ compiler nothing is in the way of a station, and the doctor says what cannot be done."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    finding = found()["c++ compiler"]
    assert (finding.status, "edgead build" in finding.detail) == ("note", True)


def test_an_engine_cache_others_may_write_is_in_the_way():
    """The doctor counts engines, and fails a cache folder that others may put code into."""
    assert found()["engine cache"].status == "note"
    cache = EngineCache(default_folder(), 1 << 20)
    with cache.builder("a" * 64) as folder:
        cache.publish("a" * 64, folder, {})
    finding = found()["engine cache"]
    assert (finding.status, finding.detail.startswith("1 engines")) == ("ok", True)
    cache.folder.chmod(0o777)
    finding = found()["engine cache"]
    assert (finding.status, "machine code" in finding.detail) == ("fail", True)
