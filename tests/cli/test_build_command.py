"""`edgead build` by command line: engines made, found again, refused, and told about; exit codes."""

import pytest
import torch

from runtime.engines import backends
from runtime.engines.inductor import own_storage

KEYS = {"folder", "precision", "tried", "engines"}


@pytest.fixture
def station(calibrated, tmp_path, monkeypatch):
    """Return (station file, calls of the compiler); the backend keeps the exported program instead of compiling it."""
    store, _ = calibrated
    calls = []

    def compile_program(program, folder, target, tick):
        calls.append(target)
        tick(1.0)
        own_storage(program)
        torch.export.save(program, folder / "program.pt2")
        return {}

    def load(folder, _layouts, _device):
        return torch.export.load(folder / "program.pt2").module()

    monkeypatch.setitem(backends._BACKENDS, "inductor", backends.Backend({}, compile_program, load))
    path = tmp_path / "station.yaml"
    path.write_text(
        f"schema: edgead.station/1\nstation: line1\nstore: {store}\n"
        "cameras: {top: {product: part}}\nworker: {threads: 1, backend: auto, engines: engines}\n"
    )
    return path, calls


def test_build_and_find(station, run, tmp_path):
    """The first build compiles into the folder the file names, the second finds the engine; both pass the gate."""
    path, calls = station
    first, second = run("build", path, "--json"), run("build", path, "--json")
    assert (first.code, second.code, len(calls)) == (0, 0, 1), first.err
    assert first.last.keys() == KEYS
    assert first.last["folder"] == str(tmp_path / "engines")
    (one,), (other,) = first.last["engines"], second.last["engines"]
    assert (one["compiled"], other["compiled"]) == (True, False)
    assert one["key"] == other["key"]
    assert one["parity"]["failed"] == []
    shown = run("build", path)
    assert "found" in shown.out
    assert "hetmm" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


def test_what_the_file_does_not_ask_for_is_told(station, run):
    """An engine in another precision than the file's is built, and stderr says what to write to run it."""
    path, calls = station
    done = run("build", path, "--precision", "bf16")
    assert done.code in {0, 9}, done.err  # whether bf16 passes is the gate's to say
    if done.code == 0:
        assert "worker: {backend: inductor, precision: bf16}" in done.err
    assert calls[0].precision == "bf16"


def test_an_engine_the_gate_refuses(station, run, monkeypatch):
    """An engine with other answers is exit code 9 and one line that names the golden frames."""
    path, _ = station
    played = backends._BACKENDS["inductor"]

    def wrong(*arguments):
        program = played.load(*arguments)
        return lambda *inputs: (program(*inputs)[0] + 1, program(*inputs)[1])

    monkeypatch.setitem(backends._BACKENDS, "inductor", backends.Backend({}, played.compile, wrong))
    done = run("build", path)
    assert done.code == 9
    assert "parity gate refuses" in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--camera", "left"), 2, "expected a camera of the station (top), found 'left'"),
        (("--precision", "int3"), 2, "int3"),
    ],
)
def test_a_wrong_option_is_told(station, run, arguments, code, words):
    """What cannot be meant is one line and exit code 2."""
    done = run("build", station[0], *arguments)
    assert done.code == code
    assert words in " ".join(done.err.split())


@pytest.mark.slow
def test_bench_detector(station, run):
    """`edgead bench detector` measures what was built; before that the reference alone, in a table of 80 columns."""
    done = run("bench", "detector", "--station", station[0], "--frames", 10)
    assert done.code == 0, done.err
    assert "hetmm eager fp32" in done.out
    assert "first_warm_s" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
