"""The real compiler: what it makes equals eager, takes any bank of its template, and refuses any other input."""

import os
import subprocess

import numpy as np
import pytest
import torch

from runtime.engines import inductor
from runtime.engines.build import build, build_batch
from runtime.engines.choice import choose
from runtime.engines.company import prove
from runtime.engines.engine import Engine
from runtime.engines.program import Batches
from runtime.engines.settings import EngineSettings
from runtime.engines.target import Target
from runtime.errors import EngineError

#: Compiling a small graph takes 10 seconds on an idle machine, a minute on a busy one.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TARGET = Target("inductor", "fp32", "cpu", 2)  # as in the fixture `built`
SHAPE = (32, 40, 3)


@pytest.fixture
def chosen(spot, built):
    """Return what a worker inspects with."""
    _, template, cache, _ = built
    return choose(spot.Spot(), template, EngineSettings("inductor", "fp32", cache.folder, 1024), "cpu", 2)


def test_it_equals_eager_and_passes_the_gate(spot, built, chosen):
    """Map and score of the compiled engine are the eager graph's to rounding, on frames it never saw."""
    _, template, _, record = built
    assert record.parity["failed"] == []
    eager = Engine(spot.Spot(), template.content(), threads=2)
    for seed in range(5, 10):
        expected, found = (each.infer(spot.image(seed)) for each in (eager, chosen.engine))
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-5)
        assert found.score == pytest.approx(expected.score, rel=1e-4)


def test_freezing_took_place(built):
    """The convolutions are oneDNN's with packed weights: torch skips freezing without a word where gradients are on."""
    _, _, cache, record = built
    library = (cache.folder / record.key / inductor.LIBRARY).read_bytes()
    assert b"mkldnn__convolution_pointwise" in library
    assert b"aoti_torch_cpu_convolution" not in library


def test_nothing_but_the_engine_is_kept(built):
    """The entry holds the library and its manifest; the compiler's caches and sources are gone."""
    _, _, cache, record = built
    assert {path.name for path in (cache.folder / record.key).iterdir()} <= {"model.so", "model.json", "manifest.json"}
    assert {path.name for path in cache.folder.iterdir()} == {record.key, "approved", "locks"}


def test_another_bank_takes_no_compilation(spot, built, chosen, monkeypatch):
    """Swapped and extended banks: the loaded program answers as a fresh eager engine; nothing is built."""
    _, _, cache, record = built
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_args, **_options: started.append(1))
    programs = {SHAPE: chosen.engine.program(SHAPE)}
    before = chosen.engine.infer(spot.image(3)).score
    for content in (spot.content_of(3), spot.content_of(2, seed=4), spot.content_of(spot.CAPACITY, seed=4)):
        engine = Engine(spot.Spot(), content, threads=2, programs=programs)
        fresh = Engine(spot.Spot(), content, threads=2)
        for seed in (3, 4):
            found, expected = engine.infer(spot.image(seed)), fresh.infer(spot.image(seed))
            np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-5)
            assert found.score == pytest.approx(expected.score, rel=1e-4)
        assert engine.detector.graphs == 0
    assert engine.infer(spot.image(3)).score != before
    assert started == []
    assert [key for key, _, _ in cache.entries()] == [record.key]


def test_several_frames_at_once_keep_apart(spot, built, chosen, cache):
    """A compiled program for three frames passes the gate in any company; no neighbour moves one bit of an answer."""
    _, template, _, _ = built
    program = build_batch(spot.Spot(), template, SHAPE, TARGET, cache, batch=3, progress=lambda *_: None)
    threshold = template.manifest.thresholds.image
    golden = template.golden()
    assert prove(chosen.engine, {SHAPE: program}, 3, golden, threshold=threshold, precision="fp32").passed
    chosen.engine.use_batches(Batches(3, 2, {SHAPE: program}))
    frame, black, noise = spot.image(1), np.zeros(SHAPE, np.uint8), spot.image(9)
    alone = chosen.engine.infer(frame)
    answers = [chosen.engine.infer_many(company)[1] for company in ([black, frame, black], [noise, frame, frame])]
    np.testing.assert_array_equal(answers[0].anomaly_map, answers[1].anomaly_map)
    assert answers[0].score == answers[1].score
    np.testing.assert_allclose(answers[0].anomaly_map, alone.anomaly_map, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "bank",
    [torch.zeros((5, 16)), torch.zeros((7, 16)), torch.zeros((6, 16)).half(), torch.zeros((16, 6)).T],
    ids=["too few rows", "too many rows", "half", "not contiguous"],
)
def test_machine_code_never_sees_another_bank(spot, chosen, bank):
    """A bank that is smaller, larger, of another type or laid out otherwise is refused before the code reads it."""
    with pytest.raises(EngineError, match="expected contiguous inputs"):
        chosen.engine.infer(spot.image(1), {"rows": bank})


def test_frames_of_another_shape_go_the_eager_way(spot, chosen):
    """A frame shape nothing was built for is inspected by the reference, not refused and not compiled for."""
    result = chosen.engine.infer(spot.image(1, (40, 40, 3)))
    expected = Engine(spot.Spot(), chosen.engine.content, threads=2).infer(spot.image(1, (40, 40, 3)))
    assert result.score == expected.score


def test_the_library_is_owned_by_its_user_alone(built):
    """What is loaded can be written by nobody else."""
    _, _, cache, record = built
    found = (cache.folder / record.key / inductor.LIBRARY).stat()
    assert (found.st_mode & 0o777, found.st_uid) == (0o600, os.geteuid())


def _silent(_done, _total, _what):
    """Report progress to nobody."""


def test_a_missing_compiler_says_what_to_do(spot, store, cache, monkeypatch):
    """Without a C++ compiler the error names it, the remedies, and leaves nothing behind."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineError, match=r"no 'no-such-compiler': install g\+\+ .* worker\.backend to auto or eager"):
        build(spot.Spot(), spot.put(store, spot.content_of(2)), TARGET, cache, _silent)
    assert cache.entries() == []


def test_a_compiler_that_fails_is_quoted(spot, store, cache, monkeypatch):
    """The end of a failed compiler's output is in the error."""
    broken = store.root / "broken-g++"
    broken.write_text("#!/bin/sh\necho 'out of tape' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(EngineError, match=r"failed with exit code 1: "):
        build(spot.Spot(), spot.put(store, spot.content_of(2)), TARGET, cache, _silent)
    assert cache.entries() == []


def test_a_library_that_is_none_is_an_engine_error(tmp_path):
    """A file that is no shared object is refused with its path."""
    (tmp_path / inductor.LIBRARY).write_bytes(b"no ELF")
    with pytest.raises(EngineError, match=r"model\.so cannot be loaded"):
        inductor.InductorProgram(tmp_path, [], "cpu")
