"""What the calibration tests share: a small simulated set, tiny HETMM settings, and a detector that keeps no bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict

from calibration.dataset import Dataset, read_dataset
from calibration.references import References
from plugins.hetmm import Hetmm
from runtime.detector import Detector, DetectorContext, TemplateContent
from runtime.frame import Frame
from runtime.testing.product import SimulatedProduct, write_dataset

TINY = {"image_size": 64, "windows": ((5, 3), (3, 3), (3, 1)), "blur_sigma": 2.0, "blur_kernel": 9}


class MeanSettings(BaseModel):
    """Settings of the toy detector."""

    model_config = ConfigDict(extra="forbid")

    side: int = 16


class Difference(torch.nn.Module):
    """Map: grey difference to the mean of the references; score: its largest value."""

    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, frames, mean):
        """Inspect; uint8 [B, H, W, C] and float32 [side, side] in, (map, score) out."""
        grey = frames.float().mean(3).unsqueeze(1)
        small = torch.nn.functional.adaptive_avg_pool2d(grey, (self.side, self.side)).squeeze(1)
        anomaly_map = (small - mean).abs() / 255
        return anomaly_map, anomaly_map.flatten(1).amax(1)


class MeanPicture(Detector):
    """A toy that cannot leave a reference out: its template is the mean picture."""

    name = "mean-picture"
    version = "1"
    settings_model = MeanSettings

    def calibrate(self, references: Sequence[Frame], settings: BaseModel, context: DetectorContext) -> TemplateContent:
        """Average the references."""
        side = settings.side
        pictures = []
        for index in range(len(references)):
            frame = torch.from_numpy(references[index].image)[None]
            grey = frame.float().mean(3).unsqueeze(1)
            pictures.append(torch.nn.functional.adaptive_avg_pool2d(grey, (side, side))[0, 0].numpy())
            context.progress(index + 1, len(references), "averaging")
        mean = np.mean(pictures, axis=0, dtype=np.float32)
        return TemplateContent({"side": side}, {"mean": mean}, len(pictures), len(pictures), (side, side))

    def graph(self, content: TemplateContent, frame_shape: tuple[int, int, int]) -> torch.nn.Module:
        """Build the difference; the pooling knows the frame's shape by itself."""
        del frame_shape
        return Difference(content.settings["side"])

    def bank(self, content: TemplateContent) -> Mapping[str, torch.Tensor]:
        """Return the mean picture."""
        return {"mean": torch.from_numpy(content.tensors["mean"])}


@pytest.fixture(autouse=True)
def _one_torch_thread(_few_torch_threads: None) -> None:
    # Maps of 16 x 16 are done before a second thread has woken up; on a busy machine waiting for it is all there is.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return ten references, four good test images and two of each defect, 128 x 128 pixels."""
    root: Path = tmp_path_factory.mktemp("bracket")
    write_dataset(root, SimulatedProduct(seed=2, size=(128, 128)), 10, 4, 2)
    return read_dataset(root)


@pytest.fixture(scope="session")
def references(dataset: Dataset) -> References:
    """Return the ten references."""
    return References(dataset.references)


@pytest.fixture(scope="session")
def hetmm() -> Hetmm:
    """Return one HETMM detector for the session: its backbone is loaded once."""
    return Hetmm()


@pytest.fixture(scope="session")
def tiny() -> dict:
    """Return HETMM settings that take milliseconds a frame."""
    return dict(TINY)


@pytest.fixture(scope="session")
def mean_picture() -> MeanPicture:
    """Return the toy detector, which has no leave_out."""
    return MeanPicture()
