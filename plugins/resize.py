"""Bilinear resize to the detector's size, inside the graph: antialiased as Pillow does, or plain as OpenCV does."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Resize(nn.Module):
    """uint8 frames [B, H, W, C], C = 1 or 3, 0..255 -> float32 [B, C, size, size] of whole levels 0..255.

    Aspect ratio is not kept. The result is rounded to whole grey levels as an 8-bit resize would be, so that a frame
    resized beforehand and one resized here give the same features. Within one level of Pillow (HETMM specification,
    section 2 item 2).
    """

    def __init__(self, frame_shape: tuple[int, int, int], size: int) -> None:
        super().__init__()
        self.size = size
        self.same = frame_shape[:2] == (size, size)

    def forward(self, frames: Tensor) -> Tensor:
        """Resize; see the class."""
        planes = frames.permute(0, 3, 1, 2).to(torch.float32)
        if self.same:
            return planes
        resized = functional.interpolate(
            planes, size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )
        return resized.round().clamp(0.0, 255.0)


class PlainResize(nn.Module):
    """uint8 frames [B, H, W, C], C = 1 or 3, 0..255 -> float32 [B, C, size, size] of whole levels 0..255.

    Bilinear between half-pixel centres without antialiasing, what OpenCV's ``resize`` does by default, within one level
    of it (CPR specification, section 1): large frames alias, and features of bank and frame must alias alike. Four
    gathers of the pixels that matter: the rest of the frame is not even converted.
    """

    corners: Tensor
    shares: Tensor

    def __init__(self, frame_shape: tuple[int, int, int], size: int) -> None:
        super().__init__()
        height, width, _ = frame_shape
        self.size = size
        self.same = (height, width) == (size, size)
        (top, bottom, down), (left, right, across) = _bilinear(height, size), _bilinear(width, size)
        corners = [(y[:, None] * width + x[None]).flatten() for y in (top, bottom) for x in (left, right)]
        shares = [(v[:, None] * h[None]).reshape(1, -1, 1) for v in (1 - down, down) for h in (1 - across, across)]
        self.register_buffer("corners", torch.stack(corners), persistent=False)
        self.register_buffer("shares", torch.stack(shares).float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Resize; see the class."""
        if self.same:
            return frames.permute(0, 3, 1, 2).to(torch.float32)
        pixels = frames.flatten(1, 2)
        parts = [pixels.index_select(1, self.corners[n]).to(torch.float32) * self.shares[n] for n in range(4)]
        total = parts[0] + parts[1] + parts[2] + parts[3]
        return total.round().view(-1, self.size, self.size, frames.shape[3]).permute(0, 3, 1, 2)


class LargestEnlarged(nn.Module):
    """Maps float32 [B, K, side, side] -> [B, size, size]: the largest of K at every place, each enlarged first.

    Bilinear between half-pixel centres. Where ``size`` is a multiple of ``side``, places between the same two columns
    are told apart by their number alone: as many maps of ``side`` - 1 columns, read as they lie in memory, which a
    compiler makes vectors of; the general form takes four numbers from anywhere for every place.
    """

    first: Tensor
    second: Tensor
    share: Tensor

    def __init__(self, side: int, size: int) -> None:
        super().__init__()
        self.size, self.times = size, size // side
        self.regular = size % side == 0 and self.times % 2 == 0 and side > 1
        first, second, share = _bilinear(side, size)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.register_buffer("share", share.float().view(-1, 1), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Enlarge and compare; see the class."""
        if not self.regular:
            large = functional.interpolate(maps, size=(self.size, self.size), mode="bilinear", align_corners=False)
            return large.amax(1)
        rows = maps.index_select(2, self.first) * (1 - self.share) + maps.index_select(2, self.second) * self.share
        shares = [(number + 0.5) / self.times for number in range(self.times)]
        left, right = rows[..., :-1], rows[..., 1:]
        between = [(left * (1 - share) + right * share).amax(1) for share in shares]
        inside = torch.stack(between, -1).flatten(2)
        edges = [rows[..., at].amax(1).unsqueeze(2).expand(-1, -1, self.times // 2) for at in (0, -1)]
        return torch.cat((edges[0], inside, edges[1]), 2)


def bilinear_matrix(source: int, target: int) -> Tensor:
    """Return U, float32 [target, source], such that U X U^T is X enlarged bilinearly between half-pixel centres."""
    first, second, share = _bilinear(source, target)
    matrix = torch.zeros(target, source, dtype=torch.float64)
    matrix.scatter_add_(1, first[:, None], (1 - share)[:, None])
    return matrix.scatter_add_(1, second[:, None], share[:, None]).float()


def _bilinear(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each target pixel of an axis its two source pixels, int64, and the share of the second, float64."""
    at = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5
    at = at.clamp(0, source - 1)
    first = at.floor().long()
    return first, (first + 1).clamp(max=source - 1), at - first
