"""The graphs of the broken detectors; apart from them, because only they need torch when imported."""

from typing import ClassVar

import torch

SIDE = 16


def spots(frames):
    """Return the brightness of SIDE x SIDE spots, float32 [B, SIDE, SIDE]."""
    grey = frames.to(torch.float32).mean(3).unsqueeze(1)
    return torch.nn.functional.interpolate(grey, size=(SIDE, SIDE), mode="bilinear").squeeze(1)


class Graph(torch.nn.Module):
    """Distance from the mean in standard deviations, and its largest value."""

    def forward(self, frames, mean, spread):
        """Inspect."""
        anomaly_map = (spots(frames) - mean).abs() / spread
        return anomaly_map, anomaly_map.flatten(1).amax(1)


class SmallMapGraph(Graph):
    """One row of the map is missing."""

    def forward(self, frames, mean, spread):
        """Inspect."""
        anomaly_map, score = super().forward(frames, mean, spread)
        return anomaly_map[:, 1:], score


class NoisyGraph(Graph):
    """Dropout that nobody turned off."""

    def forward(self, frames, mean, spread):
        """Inspect."""
        anomaly_map, score = super().forward(frames, mean, spread)
        return anomaly_map + torch.rand_like(anomaly_map), score


class LeakyGraph(Graph):
    """Remembers every frame it saw."""

    seen: ClassVar[list] = []

    def forward(self, frames, mean, spread):
        """Inspect."""
        if not torch.compiler.is_compiling():
            self.seen.append(frames.clone())
        return super().forward(frames, mean, spread)


class BranchingGraph(Graph):
    """Looks at the pixels to decide in Python."""

    def forward(self, frames, mean, spread):
        """Inspect."""
        anomaly_map, score = super().forward(frames, mean, spread)
        return (anomaly_map, score) if score.item() > 1 else (anomaly_map * 0.5, score * 0.5)


class ColourGraph(Graph):
    """Reads the second channel."""

    def forward(self, frames, mean, spread):
        """Inspect."""
        return super().forward(frames[:, :, :, [0, 1, 2]], mean, spread)
