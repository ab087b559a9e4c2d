"""A loaded engine reads inputs where they lie, notices when they move, and is refused where it is something else.

TensorRT itself is played: on this side of its interface everything is as it is with a GPU.
"""

import json

import pytest
import torch

from runtime.engines.program import Layout
from runtime.engines.tensorrt.compiler import BINDINGS, PLAN
from runtime.engines.tensorrt.program import TensorRTProgram
from runtime.errors import EngineError

RECORD = {
    "inputs": [
        {"name": "frames", "shape": [1, 4, 5, 3], "dtype": "uint8"},
        {"name": "rows", "shape": [2, 3], "dtype": "float"},
    ],
    "outputs": [
        {"name": "map", "shape": [1, 4, 5], "dtype": "float"},
        {"name": "score", "shape": [1], "dtype": "float"},
    ],
}
LAYOUTS = [Layout((1, 4, 5, 3), "uint8"), Layout((2, 3), "float32")]
FRAMES = torch.arange(60, dtype=torch.uint8).reshape(1, 4, 5, 3)


class Direct:
    """A launch without a GPU: enqueues on stream 7 and counts."""

    def __init__(self):
        self.launched = self.forgotten = 0

    def __call__(self, enqueue):
        """Enqueue at once."""
        self.launched += 1
        if not enqueue(7):
            raise EngineError("refused")

    def forget(self):
        """Count."""
        self.forgotten += 1


@pytest.fixture
def make(tmp_path, beside):
    """Return a function that writes an engine's files, spoilt as asked, and loads them."""

    def load(plan=None, bindings=None, layouts=LAYOUTS, **marks):
        (tmp_path / PLAN).write_bytes(json.dumps(RECORD | marks).encode() if plan is None else plan)
        (tmp_path / BINDINGS).write_text(json.dumps(RECORD) if bindings is None else bindings)
        launch = Direct()
        program = TensorRTProgram(beside("played"), tmp_path, layouts, "cpu", launch)
        return program, launch

    return load


def test_it_answers_from_inputs_by_name(make):
    """Inputs in the program's order reach the engine under their own names, whatever its order is."""
    program, _ = make()
    rows = torch.full((2, 3), 0.5)
    anomaly_map, score = program(FRAMES, rows)
    torch.testing.assert_close(anomaly_map, FRAMES.float().mean(3) + 0.5)
    torch.testing.assert_close(score, anomaly_map.amax((1, 2)))


def test_outputs_are_fresh(make):
    """An answer stays what it is when the next frame is inspected."""
    program, _ = make()
    rows = torch.zeros(2, 3)
    first, _ = program(FRAMES, rows)
    kept = first.clone()
    program(FRAMES + 1, rows)
    assert torch.equal(first, kept)


def test_a_bank_changed_in_place_needs_no_new_launch(make):
    """While inputs keep their addresses nothing is set or captured again, and their new contents are seen."""
    program, launch = make()
    frames, rows = FRAMES.clone(), torch.zeros(2, 3)
    program(frames, rows)
    placed = len(program._context.set)
    rows.fill_(2.0)
    frames.fill_(1)
    anomaly_map, _ = program(frames, rows)
    assert torch.equal(anomaly_map, torch.full((1, 4, 5), 3.0))
    assert (len(program._context.set), launch.forgotten, launch.launched) == (placed, 1, 2)


def test_a_bank_that_moved_is_found(make):
    """Another tensor of the same layout is read from its own place, and what was captured is forgotten."""
    program, launch = make()
    program(FRAMES, torch.zeros(2, 3))
    other = torch.ones(2, 3)
    anomaly_map, _ = program(FRAMES, other)
    torch.testing.assert_close(anomaly_map, FRAMES.float().mean(3) + 1)
    assert launch.forgotten == 2


@pytest.mark.parametrize(
    "bank",
    [torch.zeros(3, 3), torch.zeros(2, 3).half(), torch.zeros(3, 2).T, torch.zeros(2, 3, device="meta")],
    ids=["more rows", "half", "not contiguous", "elsewhere"],
)
def test_foreign_inputs_never_reach_the_engine(make, bank):
    """An input of another shape, format, layout or device is refused before its address is handed on."""
    program, launch = make()
    with pytest.raises(EngineError, match=r"expected (contiguous )?inputs"):
        program(FRAMES, bank)
    assert launch.launched == 0


@pytest.mark.parametrize(
    ("spoilt", "match"),
    [
        ({"plan": b"of another version"}, "expected an engine for this GPU and this TensorRT"),
        ({"too_large": True}, "expected GPU memory for the engine's work space"),
        ({"bindings": "no JSON"}, "expected names, shapes and dtypes"),
        ({"bindings": json.dumps({"inputs": [], "outputs": [{"name": "x", "shape": [1], "dtype": "fp4"}]})}, "fp4"),
        ({"bindings": json.dumps({"inputs": 3, "outputs": []})}, "expected names, shapes and dtypes"),
        ({"layouts": LAYOUTS[:1]}, "expected inputs"),
        ({"layouts": [LAYOUTS[0], Layout((4, 3), "float32")]}, "expected inputs"),
    ],
    ids=["plan", "memory", "no JSON", "unknown format", "no list", "fewer inputs", "another bank"],
)
def test_an_engine_that_is_something_else_is_refused(make, spoilt, match):
    """What does not load, or is not of the program it is to stand for, is an error that says what to do."""
    with pytest.raises(EngineError, match=match):
        make(**spoilt)


def test_a_refused_launch_is_an_error(make):
    """TensorRT's refusal to run is no answer."""
    program, _ = make(refuses=True)
    with pytest.raises(EngineError):
        program(FRAMES, torch.zeros(2, 3))


def test_an_input_the_engine_dropped_is_not_set(make):
    """A bank tensor the program does not read is no part of the engine, and is passed over."""
    more = {**RECORD, "inputs": [*RECORD["inputs"], {"name": "unread", "shape": [2], "dtype": "half"}]}
    program, _ = make(bindings=json.dumps(more), layouts=[*LAYOUTS, Layout((2,), "float16")])
    anomaly_map, _ = program(FRAMES, torch.zeros(2, 3), torch.zeros(2).half())
    torch.testing.assert_close(anomaly_map, FRAMES.float().mean(3))
