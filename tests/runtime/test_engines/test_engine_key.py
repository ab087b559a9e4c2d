"""The key of an engine: everything that changes what is computed changes it, nothing else does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from runtime.engines.key import digest_program, engine_key
from runtime.engines.target import Target, isa

FRAMES = torch.zeros((1, 6, 6, 1), dtype=torch.uint8)
ROWS = torch.zeros((4, 5))


class Program(nn.Module):
    """One operation on the frames, a weight, and the rows."""

    def __init__(self, operation, weight=1.0, dtype=torch.float32):
        super().__init__()
        self.operation = operation
        self.register_buffer("weight", torch.full((3,), weight, dtype=dtype))

    def forward(self, frames, rows):
        """Return two values."""
        value = self.operation(frames.float()) * self.weight[0]
        return value.flatten(1), rows.sum() + value.flatten(1).amax(1)


def digest(operation, *, inputs=(FRAMES, ROWS), **weights):
    """Return the digest of one program."""
    return digest_program(torch.export.export(Program(operation, **weights), inputs, strict=True))


BASE = digest(lambda x: x.clamp(0, 6))


def _renamed(first_frames):
    another_name = first_frames.clamp(0, 6)
    return another_name  # noqa: RET504 - the name is what the test is about


def test_names_do_not_count():
    """The same operations under other names have the same digest."""
    assert digest(_renamed) == BASE


DIFFERENT = {
    "bound": lambda x: x.clamp(0, 1),
    "lower bound": lambda x: x.clamp(1, 6),
    "float bound": lambda x: x.clamp(0, 6.5),
    "no bound": lambda x: x.clamp(0),
    "another operation": lambda x: x.clamp_max(6),
    "one more": lambda x: x.clamp(0, 6).abs(),
    "another order": lambda x: x.abs().clamp(0, 6),
    "another axis": lambda x: x.clamp(0, 6).flip(1),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_program_has_another_key(what):
    """An argument, a bound, an operation or its place: each changes the digest."""
    assert digest(DIFFERENT[what]) != BASE


def test_arguments_that_other_caches_forget_count():
    """Sums over other axes and other top-k, which torch-TensorRT's own cache key cannot tell apart, are told apart."""
    pairs = [
        (lambda x: x.sum(1), lambda x: x.sum(2)),
        (lambda x: x.flatten(1).topk(3).values, lambda x: x.flatten(1).topk(3, largest=False).values),
        (lambda x: x + 1, lambda x: x + 1.0),
    ]
    for one, other in pairs:
        assert digest(one) != digest(other)


def test_constants_and_shapes_count():
    """Another weight, weight type, frame shape or bank capacity is another program."""
    found = {
        BASE,
        digest(lambda x: x.clamp(0, 6), weight=1.0000001),
        digest(lambda x: x.clamp(0, 6), dtype=torch.float16),
        digest(lambda x: x.clamp(0, 6), inputs=(torch.zeros((1, 6, 7, 1), dtype=torch.uint8), ROWS)),
        digest(lambda x: x.clamp(0, 6), inputs=(FRAMES, torch.zeros((5, 5)))),
        digest(lambda x: x.clamp(0, 6), inputs=(FRAMES, ROWS.half())),
    }
    assert len(found) == 6


def test_the_banks_values_do_not_count():
    """The bank is an input: a template's new version has the same program."""
    assert digest(lambda x: x.clamp(0, 6), inputs=(FRAMES, ROWS + 1)) == BASE


def test_every_mark_of_the_target_counts(monkeypatch):
    """Backend options, precision, threads, library version and processor: engines for one are not found for another."""
    program = torch.export.export(Program(torch.abs), (FRAMES, ROWS), strict=True)
    base = Target("inductor", "fp32", "cpu", 2)
    keys = {
        engine_key(program, base, {"freezing": True}),
        engine_key(program, base, {"freezing": False}),
        engine_key(program, Target("inductor", "bf16", "cpu", 2), {"freezing": True}),
        engine_key(program, Target("inductor", "fp32", "cpu", 1), {"freezing": True}),
        engine_key(program, Target("another", "fp32", "cpu", 2), {"freezing": True}),
    }
    monkeypatch.setattr("runtime.engines.target.isa", lambda: "0" * 16)
    keys.add(engine_key(program, base, {"freezing": True}))
    monkeypatch.setattr("runtime.engines.target.version", lambda _name: "9.9")
    keys.add(engine_key(program, base, {"freezing": True}))
    assert len(keys) == 7


def test_the_isa_is_the_processors(monkeypatch):
    """The mark of a processor comes from the features the kernel lists, in whatever order."""
    texts = [
        "flags\t\t: fpu avx2\n",
        "flags\t\t: avx2 fpu\n",
        "flags\t\t: fpu avx2 avx512f\n",
        "Features\t: asimd\n",
        "",
    ]
    found = []
    for text in texts:
        monkeypatch.setattr(Path, "read_text", lambda _self, text=text, **_options: text)
        isa.cache_clear()
        found.append(isa())
    isa.cache_clear()
    assert found[0] == found[1]
    assert len(set(found)) == 4


_OTHER_PROCESS = """
import sys; sys.path.insert(0, sys.argv[1])
import spot
from runtime.engines.engine import export
from runtime.engines.key import digest_program
print(digest_program(export(spot.Spot(), spot.content_of(2), (32, 40, 3))))
"""


def test_another_process_gives_the_same_key(spot):
    """The digest does not depend on the process: hash seeds, addresses, counters."""
    from runtime.engines.engine import export

    here = digest_program(export(spot.Spot(), spot.content_of(2), (32, 40, 3)))
    folder = str(Path(spot.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, folder], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == here
