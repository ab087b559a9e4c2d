"""Small templates for the store's tests: a different ``number`` gives a different bank, golden frame and threshold.

Templates from number ``POOLED`` on have a pool as well.
"""

from __future__ import annotations

import numpy as np

from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Reference, Thresholds
from runtime.store.template import GoldenFrame, Template

POOLED = 50


def content(number: int, product: str = "cap", detector: str = "hetmm") -> dict:
    """Return the arguments of ``put_template`` for one template."""
    rng = np.random.default_rng(number)
    frame = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return {
        "product": product,
        "detector": DetectorIdentity(name=detector, version="1.0", distribution="edgead"),
        "settings": {"layers": ["stage1", "stage2"], "ratio": 0.1},
        "weights": {"lite0": "0" * 64},
        "bank": {
            "embeddings": rng.standard_normal((5, 4)).astype(np.float16),
            "offsets": rng.integers(-9, 9, (5, 2)).astype(np.int16),
            "taken": np.array([True, True, True, False, False]),
        },
        "capacity": 5,
        "valid": 3,
        "map_shape": (3, 4),
        "thresholds": Thresholds(image=0.5 + number, pixel=None, rule="conformal", target=0.01, bound=0.02, held_out=3),
        "held_out_scores": [0.1, 0.2, 1 / 3],
        "golden": [GoldenFrame(frame, rng.random((3, 4), np.float32), 0.25)],
        "references": [Reference(name="train/good/000.png", sha256="1" * 64)],
        "statistics": {"frames": 40},
        "parent": None,
        "pool": {"all": rng.standard_normal((9, 4)).astype(np.float32)} if number >= POOLED else {},
    }


def put(store: Store, number: int, product: str = "cap", detector: str = "hetmm") -> Template:
    """Store one template."""
    return store.put_template(**content(number, product, detector), who="test", why=f"number {number}")
