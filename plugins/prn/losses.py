"""What the network is trained to (specification, section 9): smooth L1 and focal loss on probabilities."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

#: Weight of the focal loss in the sum; its weight of either class, its power; what keeps its logarithm finite.
FOCAL_SHARE = 5.0
ALPHA, GAMMA = 0.5, 4
SMOOTH = 1e-5


def loss_of(probability: Tensor, mask: Tensor) -> Tensor:
    """Return smooth L1 + 5 focal, a scalar; both float32 in one shape, ``probability`` 0..1, ``mask`` 0 or 1."""
    return smooth_l1(probability, mask) + FOCAL_SHARE * focal(probability, mask).mean()


def smooth_l1(probability: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (p - m)^2 / 2: what smooth L1 with threshold 1 is where |p - m| <= 1."""
    return functional.smooth_l1_loss(probability, mask)


def focal(probability: Tensor, mask: Tensor) -> Tensor:
    """Return -(1/2) (1 - p_t)^4 ln p_t for every pixel, p_t the probability of the true class, both classes alike."""
    target = mask.clamp(SMOOTH, 1.0 - SMOOTH)
    other = (1.0 - mask).clamp(SMOOTH, 1.0 - SMOOTH)
    true = target * probability + other * (1.0 - probability) + SMOOTH
    return -ALPHA * (1.0 - true).pow(GAMMA) * true.log()
