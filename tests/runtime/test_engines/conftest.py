"""A small detector and its templates, a cache, and a backend that compiles in no time because it does not."""

import sys
from importlib import util
from pathlib import Path

import pytest
import torch

from runtime.engines import backends
from runtime.engines.build import build
from runtime.engines.cache import EngineCache
from runtime.engines.choice import choose
from runtime.engines.program import Inputs
from runtime.engines.settings import EngineSettings
from runtime.engines.target import Target
from runtime.store import Store

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def spot():
    """Return the module of the small detector; importable as ``spot`` by processes that have its folder."""
    spec = util.spec_from_file_location("spot", HERE / "spot.py")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def store(tmp_path):
    """Return an empty store."""
    return Store.create(tmp_path / "store")


@pytest.fixture
def cache(tmp_path):
    """Return an empty cache with room for a gigabyte."""
    return EngineCache(tmp_path / "engines", 1 << 30)


@pytest.fixture
def target():
    """Return what engines are built for here."""
    return Target("inductor", "fp32", "cpu", 1)


def silent(_done, _total, _what):
    """Report progress to nobody."""


class Played:
    """A backend that keeps the exported program itself: it runs, and it counts how often it was asked to compile."""

    def __init__(self):
        self.compiled = 0
        self.wrong = 0.0
        self.wrong_together = 0.0
        self.error = None

    def compile(self, program, folder, target, tick):
        """Write the program."""
        del target
        self.compiled += 1
        tick(1.0)
        if self.error:
            raise self.error
        torch.export.save(program, folder / "model.so")
        return {"compiler": "none"}

    def load(self, folder, layouts, device):
        """Return the program, its map off by ``wrong``; one for several frames by ``wrong_together``, too."""
        del device
        wrong = self.wrong if layouts[0].shape[0] == 1 else self.wrong + self.wrong_together
        module, inputs = torch.export.load(folder / "model.so").module(), Inputs(layouts)

        def call(*tensors):
            inputs.check(tensors)
            anomaly_map, score = module(*tensors)
            return anomaly_map + wrong, score

        return call


class Workshop:
    """All it takes to build engines of the small detector, with the played backend in the place of ``inductor``."""

    def __init__(self, spot, store, cache, target):
        self.spot, self.store, self.cache, self.target = spot, store, cache, target
        self.backend = Played()

    def put(self, *content, **options):
        """Store a template; the first argument is its content."""
        return self.spot.put(self.store, *content, **options)

    def build(self, template, progress=silent, batch=1):
        """Build a template's engines."""
        return build(self.spot.Spot(), template, self.target, self.cache, progress, batch=batch)

    def choose(self, template, backend, *, detector=None, threads=1, batch=1):
        """Choose as a worker does, whose station file names ``backend``."""
        wish = EngineSettings(backend, "fp32", self.cache.folder, 1024, batch)
        return choose(detector or self.spot.Spot(), template, wish, "cpu", threads)


@pytest.fixture
def shop(spot, store, cache, target, monkeypatch):
    """Return a workshop with nothing built yet."""
    made = Workshop(spot, store, cache, target)
    played = backends.Backend({}, made.backend.compile, made.backend.load)
    monkeypatch.setitem(backends._BACKENDS, "inductor", played)
    return made


@pytest.fixture(scope="session")
def built(spot, tmp_path_factory):
    """Return store, template, cache and the record of one engine that was really compiled: 10 to 90 seconds."""
    root = tmp_path_factory.mktemp("built")
    store, cache = Store.create(root / "store"), EngineCache(root / "engines", 1 << 30)
    template = spot.put(store, spot.content_of(2))
    said = []
    target = Target("inductor", "fp32", "cpu", 2)
    (record,) = build(spot.Spot(), template, target, cache, lambda *each: said.append(each))
    assert record.compiled
    assert any(what.startswith("compile") for _, _, what in said)
    return store, template, cache, record


@pytest.fixture
def importable(spot, monkeypatch):
    """Let this process and those it starts import the detector by name."""
    folder = str(Path(spot.__file__).parent)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder)
