"""Compares HETMM templates on any data set: all references, PTS choices, and references drawn at random.

    python tests/bench/bench_sheets.py DATASET [--sheets 60 20] [--draws 3] [--frames 0]

Features (EfficientNet-Lite0, 256 x 256, default settings) are made once; every template then scores the same test
frames. Printed: image AUROC of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import bench_presets
import numpy as np
import torch

from calibration.calibrate import spread
from calibration.dataset import read_dataset
from calibration.metrics import auroc
from calibration.references import References
from plugins.hetmm import pts
from plugins.hetmm.auto import choose
from plugins.hetmm.graph import Features, Matching
from plugins.hetmm.settings import HetmmSettings
from plugins.matching import pack


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--sheets", type=int, nargs="+", default=[60, 20], help="sheets of the smaller templates")
    parser.add_argument("--draws", type=int, default=3, help="random choices of as many references")
    parser.add_argument("--frames", type=int, default=0, help="test frames scored; 0: all")
    options = parser.parse_args()
    dataset = read_dataset(options.dataset)
    shown = spread(len(dataset.test), options.frames or len(dataset.test))
    labels = [dataset.test[index].is_defect for index in shown]
    features = Features(HetmmSettings()).eval()
    sheets = bench_presets.extracted(features, References(dataset.references))
    settings, _ = choose(HetmmSettings(), sheets, lambda *_: None)
    matching = Matching(settings).eval()
    taps = bench_presets.extracted(features, References(dataset.test).only(shown))
    print(f"{len(dataset.references)} references, {len(shown)} test frames", flush=True)
    for name, kept in templates(sheets, options.sheets, options.draws):
        bank = tuple(pack(each.half()) for each in kept)
        scores = [float(matching(tuple(tap[i : i + 1] for tap in taps), bank)[1]) for i in range(len(labels))]
        print(f"{name:14} {auroc(labels, scores):.4f}", flush=True)


def templates(sheets, counts, draws):
    """Yield (name, features kept per layer, float32 [K, C, H, W])."""
    yield "all", sheets
    references = len(sheets[0])
    for count in [each for each in counts if each < references]:
        yield f"PTS-{count}", [pts.gather(each, pts.select(each, count, rule="max").slots) for each in sheets]
        for draw in range(draws):
            chosen = torch.from_numpy(np.random.default_rng(draw).permutation(references)[:count].copy())
            yield f"random-{count} #{draw}", [each[chosen] for each in sheets]


if __name__ == "__main__":
    with torch.inference_mode():
        main()
