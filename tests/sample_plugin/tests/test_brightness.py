"""The brightness detector on edgead's simulated product: no camera, no data, no GPU."""

import numpy as np
import pytest
import torch
from brightness_detector import BrightnessDetector, BrightnessSettings

from edgead import ConfigError, DetectorContext, Frame

REFERENCES = 12


def test_even_blur_is_refused_by_its_settings():
    """blur_spots must be odd: an even kernel would shift the map by half a spot."""
    with pytest.raises(ValueError, match="odd"):
        BrightnessSettings(blur_spots=4)


@pytest.fixture
def references(simulated_product):
    """Return good parts; ``simulated_product`` comes from edgead's pytest plugin."""
    return [Frame(simulated_product.draw(index).image, f"good/{index}") for index in range(REFERENCES)]


@pytest.fixture
def content(references):
    """Return what the detector learns from them."""
    return BrightnessDetector().calibrate(references, BrightnessSettings(), DetectorContext())


def inspect(content, image, bank=None):
    """Return (map [h, w], score) of one image."""
    detector = BrightnessDetector()
    graph = detector.graph(content, image.shape)
    anomaly_map, score = graph(torch.from_numpy(image)[None], *(bank or detector.bank(content)).values())
    return anomaly_map[0].numpy(), float(score[0])


def test_a_dark_square_is_the_largest_anomaly(content, simulated_product):
    """A defect on a part the template has not seen outscores that good part, and the map peaks inside the defect."""
    good = simulated_product.draw(REFERENCES).image
    spoilt = good.copy()
    spoilt[60:90, 70:100] = 0
    anomaly_map, score = inspect(content, spoilt)
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert score > 2 * inspect(content, good)[1]
    assert 60 <= (row + 0.5) * 160 / 64 < 90
    assert 70 <= (column + 0.5) * 160 / 64 < 100


def test_leaving_a_reference_out_equals_never_having_had_it(content, references):
    """The bank without reference 3 is the bank of a calibration on the others."""
    detector = BrightnessDetector()
    others = detector.calibrate(references[:3] + references[4:], BrightnessSettings(), DetectorContext())
    left = detector.leave_out(content, detector.bank(content), 3)
    for name, tensor in detector.bank(others).items():
        torch.testing.assert_close(left[name], tensor, rtol=0, atol=0)


def test_extending_equals_calibrating_on_everything(content, references, simulated_product):
    """A good frame inserted later gives the template that a calibration with it would have given."""
    detector, extra = BrightnessDetector(), Frame(simulated_product.draw(50).image, "good/50")
    longer = detector.extend(content, [extra], DetectorContext())
    again = detector.calibrate([*references, extra], BrightnessSettings(), DetectorContext())
    assert longer.valid == again.valid == REFERENCES + 1
    np.testing.assert_array_equal(longer.tensors["spots"], again.tensors["spots"])


def test_one_reference_is_refused(references):
    """A single good frame has no spread: the error says how many are needed."""
    with pytest.raises(ConfigError, match="at least two good frames, found 1"):
        BrightnessDetector().calibrate(references[:1], BrightnessSettings(), DetectorContext())


def test_the_graph_exports_whole(content):
    """torch.export takes the graph in one piece, and the captured program gives the same numbers."""
    detector = BrightnessDetector()
    frames = torch.randint(0, 256, (1, 40, 60, 3), dtype=torch.uint8)
    graph, bank = detector.graph(content, (40, 60, 3)), tuple(detector.bank(content).values())
    program = torch.export.export(graph, (frames, *bank), strict=True)
    torch.testing.assert_close(program.module()(frames, *bank), graph(frames, *bank))
