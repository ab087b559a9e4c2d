"""PRN's one graph: uint8 frames and the bank in, anomaly map and image score out (specification, section 10)."""

from __future__ import annotations

from torch import Tensor, nn

from plugins.prn.features import Features
from plugins.prn.lanczos import LanczosResize
from plugins.prn.network import Network
from plugins.prn.prototypes import residuals
from plugins.prn.settings import SCALES


class Segmentation(nn.Module):
    """Resized frames [B, C, S, S] and the bank -> (map [B, S, S], score [B]); the same for every frame shape."""

    def __init__(self, features: Features, network: Network, top: int) -> None:
        super().__init__()
        self.features, self.network, self.top = features, network, top

    def forward(self, planes: Tensor, bank: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Segment; see ``PrnGraph``."""
        taps = self.features(planes)
        logits: Tensor = self.network(taps, residuals(taps[:SCALES], bank))
        anomaly_map = logits.sigmoid().squeeze(1)
        return anomaly_map, anomaly_map.flatten(1).topk(self.top, dim=1).values.mean(1)


class PrnGraph(nn.Module):
    """Whole detector for frames of one shape. ``forward(frames, *bank)``, the bank as of ``templates.bank_of``.

    Returns (map float32 [B, S, S], score float32 [B]), S = image_size: the probability that a pixel is anomalous, 0..1,
    and the mean of its largest pixels. Only the resize depends on the frame shape.
    """

    def __init__(self, resize: LanczosResize, segmentation: Segmentation) -> None:
        super().__init__()
        self.resize, self.segmentation = resize, segmentation

    def forward(self, frames: Tensor, *bank: Tensor) -> tuple[Tensor, Tensor]:
        """Inspect; see the class."""
        result: tuple[Tensor, Tensor] = self.segmentation(self.resize(frames), bank)
        return result
