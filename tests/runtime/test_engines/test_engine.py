"""The engine: one call from uint8 image to a checked result, few graphs kept, and graphs that export whole."""

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from runtime.detector import Detector, TemplateContent
from runtime.engines.engine import MAX_GRAPHS, Engine, ResultError, available_cores, export
from runtime.errors import ConfigError, PluginError

SIDE = 4


class Settings(BaseModel):
    """No settings."""

    model_config = ConfigDict(extra="forbid")


class Distance(nn.Module):
    """The map is the distance of the averaged frame from the bank's mean; the score is its largest value."""

    def forward(self, frames, mean):
        """Return (map [B, 4, 4], score [B])."""
        grey = frames.to(torch.float32).mean(3).unsqueeze(1)
        distance = (nn.functional.adaptive_avg_pool2d(grey, (SIDE, SIDE)).squeeze(1) - mean).abs()
        return distance, distance.flatten(1).amax(1)


class Spoilt(nn.Module):
    """A graph that breaks the contract: its right answer goes through ``spoil`` first."""

    def __init__(self, spoil):
        super().__init__()
        self.distance = Distance()
        self.spoil = spoil

    def forward(self, frames, mean):
        """Return what ``spoil`` makes of (map, score)."""
        return self.spoil(*self.distance(frames, mean))


class Toy(Detector):
    """Inspects flat images; notes the shapes it was asked to build graphs for."""

    name, version, settings_model = "toy", "1", Settings

    def __init__(self, spoil=None):
        self.shapes = []
        self.spoil = spoil

    def calibrate(self, references, settings, context):
        """Learn nothing: the tests bring their content."""
        raise NotImplementedError

    def graph(self, content, frame_shape):
        """Build a new graph."""
        del content
        self.shapes.append(frame_shape)
        return Spoilt(self.spoil) if self.spoil else Distance()

    def bank(self, content):
        """Return the mean grey level of every spot."""
        return {"mean": torch.from_numpy(content.tensors["mean"])}


MEAN = np.full((SIDE, SIDE), 100, np.float32)
CONTENT = TemplateContent(settings={}, tensors={"mean": MEAN}, capacity=1, valid=1, map_shape=(SIDE, SIDE))


def engine(spoil=None):
    """Return an engine with the toy detector on one thread."""
    return Engine(Toy(spoil), CONTENT, threads=1)


def image(height=8, width=12, level=100, channels=()):
    """Return a flat image."""
    return np.full((height, width, *channels), level, np.uint8)


@pytest.mark.parametrize("channels", [(), (1,), (3,)], ids=["H W", "H W 1", "RGB"])
def test_grey_and_colour_give_map_and_score(channels):
    """A grey or RGB image gives a float32 map of the promised shape and a Python float."""
    picture = image(channels=channels)
    picture[:2, :3] = 130
    result = engine().infer(picture)
    assert result.anomaly_map.shape == (SIDE, SIDE)
    assert result.anomaly_map.dtype == np.float32
    assert result.anomaly_map[0, 0] == pytest.approx(30)
    assert result.anomaly_map.sum() == pytest.approx(30)
    assert type(result.score) is float
    assert result.score == pytest.approx(30)


def test_the_graph_sees_the_frame_itself():
    """The frame goes in uncopied, channels last, batch one: the graph reads the caller's memory."""
    seen = []
    picture = image(channels=(3,))
    detector = Toy()
    detector.graph = lambda _content, shape: seen.append(shape) or _Watch(seen)
    Engine(detector, CONTENT, threads=1).infer(picture)
    assert seen == [(8, 12, 3), (1, 8, 12, 3), torch.uint8, picture.ctypes.data]


def test_the_graph_runs_in_inference_mode_whoever_entered_it():
    """No gradients are kept on the line: the engine enters inference mode itself, unless its caller has."""
    modes = []
    made = engine(lambda m, s: modes.append(torch.is_inference_mode_enabled()) or (m, s))
    made.infer(image())
    assert not torch.is_inference_mode_enabled()
    with torch.inference_mode():
        made.infer(image())
    assert modes == [True, True]


class _Watch(Distance):
    """Notes what comes in."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, frames, mean):
        self.seen += [tuple(frames.shape), frames.dtype, frames.data_ptr()]
        return super().forward(frames, mean)


def test_another_bank_replaces_the_engines_own_for_one_call():
    """Leave-one-out scoring passes its own bank; the next call uses the engine's again."""
    made = engine()
    other = {"mean": torch.full((SIDE, SIDE), 90.0)}
    assert made.infer(image(), other).score == pytest.approx(10)
    assert made.infer(image()).score == 0
    assert list(made.bank) == ["mean"]


def test_a_program_stands_in_for_the_graph_of_its_shape(caplog):
    """Frames of a program's shape go through it, with the bank; others through the eager graph, with one warning."""
    seen = []

    def program(frames, mean):
        seen.append((tuple(frames.shape), float(mean[0, 0])))
        return Distance()(frames, mean)

    made = Engine(Toy(), CONTENT, threads=1, programs={(8, 12, 1): program})
    assert made.infer(image(level=130)).score == pytest.approx(30)
    assert made.detector.shapes == []
    for _ in range(2):
        assert made.infer(image(16, level=130)).score == pytest.approx(30)
    assert seen == [((1, 8, 12, 1), 100.0)]
    assert made.detector.shapes == [(16, 12, 1)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_programs_answer_is_checked_too():
    """A compiled program that answers with NaN is a ResultError, as a graph is."""
    made = Engine(Toy(), CONTENT, threads=1, programs={(8, 12, 1): Spoilt(lambda m, s: (m * NAN, s))})
    with pytest.raises(ResultError, match="not finite"):
        made.infer(image())


def test_graphs_are_shared_between_frames_of_one_shape():
    """A line with one frame shape builds one graph, however many frames come."""
    made = engine()
    for level in (90, 100, 110):
        made.infer(image(level=level))
    assert made.detector.shapes == [(8, 12, 1)]


def test_the_graph_cache_is_bounded_and_keeps_what_is_used():
    """Many frame shapes keep at most MAX_GRAPHS graphs, the ones used last."""
    made = engine()
    for height in range(8, 8 + MAX_GRAPHS):
        made.infer(image(height))
    made.infer(image(8))  # used again: now the newest
    made.infer(image(50))  # pushes out 9, the oldest
    built = len(made.detector.shapes)
    made.infer(image(8))
    assert len(made.detector.shapes) == built
    made.infer(image(9))
    assert made.detector.shapes[-1] == (9, 12, 1)
    assert len(made._graphs) == MAX_GRAPHS


NAN, INFINITY = float("nan"), float("inf")
BROKEN = {
    "map too small": lambda m, s: (m[:, :2], s),
    "map without batch": lambda m, s: (m[0], s),
    "map with channel": lambda m, s: (m[:, None], s),
    "score a scalar": lambda m, s: (m, s[0]),
    "score per pixel": lambda m, _: (m, m),
    "score no tensor": lambda m, _: (m, 1.0),
    "map missing": lambda _, s: (None, s),
    "one NaN in the map": lambda m, s: (m.index_fill(1, torch.tensor([2]), NAN), s),
    "infinite map": lambda m, s: (m + INFINITY, s),
    "score NaN": lambda m, s: (m, s * NAN),
    "score infinite": lambda m, s: (m, s - INFINITY),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_wrong_answer_is_a_result_error(how):
    """A map or score of the wrong shape, or not finite, never leaves the engine: it is the plugin's ResultError."""
    with pytest.raises(ResultError, match="toy") as refusal:
        engine(BROKEN[how]).infer(image(level=120))
    assert isinstance(refusal.value, PluginError)
    assert refusal.value.plugin == "toy"


def test_half_precision_answers_become_float32():
    """A graph that answers in half precision is read as float32; nothing downstream sees another type."""
    result = engine(lambda m, s: (m.half(), s.half())).infer(image(level=120))
    assert result.anomaly_map.dtype == np.float32
    assert result.score == 20


def test_a_detector_that_raises_is_not_wrapped():
    """The graph's own exception passes: the worker's guard turns it into an error word with its text."""

    def fail(_map, _score):
        raise ZeroDivisionError("in the graph")

    with pytest.raises(ZeroDivisionError, match="in the graph"):
        engine(fail).infer(image())


@pytest.mark.parametrize("channels", [1, 3])
def test_export_captures_the_whole_graph(channels):
    """torch.export takes the graph in one piece; frame and bank are its inputs, and the numbers are the same."""
    program = export(Toy(), CONTENT, (8, 12, channels))
    frames = torch.randint(0, 256, (1, 8, 12, channels), dtype=torch.uint8)
    for mean in (100.0, 90.0):  # the bank is an input: another version needs no new program
        bank = torch.full((SIDE, SIDE), mean)
        torch.testing.assert_close(program.module()(frames, bank), Distance()(frames, bank))


def test_export_refuses_control_flow_on_data():
    """A graph whose Python looks at the pixels is refused when it is exported, not on the line."""

    def look(anomaly_map, score):
        return (anomaly_map, score) if score[0] > 1 else (anomaly_map * 2, score)

    with pytest.raises(Exception, match=r"(?i)data.dependent"):
        export(Toy(look), CONTENT, (8, 12, 1))


def test_threads_are_what_was_asked_for():
    """The engine sets torch's threads: as many as told, or one per core this process may use."""
    Engine(Toy(), CONTENT, threads=1)
    assert torch.get_num_threads() == 1
    Engine(Toy(), CONTENT)
    assert torch.get_num_threads() == available_cores()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_gpu_says_what_to_do():
    """A station file that asks for a GPU which is not there is told so, with the key to change."""
    with pytest.raises(ConfigError, match=r"found none: set worker\.device to cpu"):
        Engine(Toy(), CONTENT, device="cuda:0")
