"""What the encoders are trained to (section 4), and how a collapse is told (section 9, item 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Inside the root of a distance: the gradient of a norm is undefined at zero.
ROOT_EPS = 1e-12
#: Cosines are stabilised with this.
COSINE_EPS = 1e-8
#: Embeddings are taken for constant above this mean cosine of random pairs, or below this mean deviation.
MOST_COSINE, LEAST_DEVIATION = 0.98, 0.01


def position_loss(logits: Tensor, directions: Tensor) -> Tensor:
    """Return the cross-entropy of ``logits`` float32 [B, 12] for ``directions`` int64 [B]; ln 12 = chance."""
    return functional.cross_entropy(logits, directions)


def similarity_loss(anchor: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Return mean ||anchor - near|| + mean(cos(anchor, far) - cos(anchor, near)) of embeddings [B, D] each."""
    distance = ((anchor - near).square().sum(1) + ROOT_EPS).sqrt().mean()
    alike = functional.cosine_similarity(anchor, near, dim=1, eps=COSINE_EPS)
    unlike = functional.cosine_similarity(anchor, far, dim=1, eps=COSINE_EPS)
    return distance + (unlike - alike).mean()


def cluster_loss(embeddings: Tensor, centres: Tensor) -> Tensor:
    """Return mean min_c ||h - c||^2 of [B, D] to [G, D], gradient to the embeddings only (section 5, corrected)."""
    nearest = torch.cdist(embeddings.detach(), centres).argmin(1)
    return (embeddings - centres.detach()[nearest]).square().sum(1).mean()


def has_collapsed(first: Tensor, second: Tensor) -> bool:
    """Tell whether embeddings of random patches [n, D] and of others [n, D] are all but one constant."""
    cosine = functional.cosine_similarity(first, second, dim=1, eps=COSINE_EPS).mean()
    deviation = torch.cat((first, second)).std(0, correction=0).mean()
    return bool(cosine > MOST_COSINE) or bool(deviation < LEAST_DEVIATION)
