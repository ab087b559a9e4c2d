"""Measures the automatic choice of HETMM's settings against the spread of the authors' tuned ones, on any data set.

    python tests/bench/bench_presets.py DATASET [--frames 100] [--sheets 60]

Features (EfficientNet-Lite0, 256 x 256) and PTS templates are made once; then windows, shares and weights of "auto"
(from good frames only), the defaults and each of the 15 presets score the same test frames. Printed: image AUROC of
each, and where auto lies among the presets.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from runtime.process_defaults import set_process_defaults

set_process_defaults()  # as a station does, and before torch is loaded

import torch  # noqa: E402

from calibration.calibrate import spread  # noqa: E402
from calibration.dataset import read_dataset  # noqa: E402
from calibration.metrics import auroc  # noqa: E402
from calibration.references import References  # noqa: E402
from plugins.hetmm import pts  # noqa: E402
from plugins.hetmm.auto import choose  # noqa: E402
from plugins.hetmm.graph import Features, Matching  # noqa: E402
from plugins.hetmm.paper import POST_PROCESSING  # noqa: E402
from plugins.hetmm.settings import HetmmSettings  # noqa: E402
from plugins.matching import pack  # noqa: E402
from plugins.resize import Resize  # noqa: E402
from runtime.station.presets import load_preset  # noqa: E402

TABLE = ("windows", "alpha", "weight")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--frames", type=int, default=100, help="test frames scored")
    parser.add_argument("--sheets", type=int, default=60, help="sheets of the templates")
    options = parser.parse_args()
    dataset = read_dataset(options.dataset)
    shown = spread(len(dataset.test), options.frames)
    labels = [dataset.test[index].is_defect for index in shown]
    features = Features(HetmmSettings()).eval()
    sheets = extracted(features, References(dataset.references))
    taps = extracted(features, References(dataset.test).only(shown))
    few = len(sheets[0]) <= options.sheets
    kept = [each if few else pts.gather(each, pts.select(each, options.sheets, rule="max").slots) for each in sheets]
    bank = tuple(pack(each.half()) for each in kept)
    found = {}
    for name, settings in candidates(sheets).items():
        matching = Matching(settings).eval()
        scores = [float(matching(tuple(tap[i : i + 1] for tap in taps), bank)[1]) for i in range(len(labels))]
        found[name] = auroc(labels, scores)
        print(f"{name:12} {found[name]:.4f}  windows {[list(pair) for pair in settings.windows]}", flush=True)
    tuned = sorted(found[name] for name in POST_PROCESSING)
    print(
        f"presets {tuned[0]:.4f} to {tuned[-1]:.4f}, median {statistics.median(tuned):.4f}; auto {found['auto']:.4f} "
        f"is above {sum(each < found['auto'] for each in tuned)} of {len(tuned)}"
    )


def extracted(features, frames):
    """Return unit feature vectors of all frames, float32 [N, C, H, W] per layer."""
    taps = []
    for index in range(len(frames)):
        image = frames[index].image
        image = image if image.ndim == 3 else image[:, :, None]
        taps.append(features(Resize(image.shape, 256)(torch.from_numpy(image)[None])))
    return [torch.cat(layer) for layer in zip(*taps, strict=True)]


def candidates(sheets):
    """Return the settings compared, by name; the presets' tables on Lite0's layers."""
    everything = dict.fromkeys(TABLE, "auto")
    chosen = {
        "auto": HetmmSettings(**everything),
        "auto windows": HetmmSettings(windows="auto"),
        "default": HetmmSettings(),
        "d0": HetmmSettings(**dict.fromkeys(TABLE, "d0")),
    }
    resolved = {name: choose(each, sheets, lambda *_: None)[0] for name, each in chosen.items()}
    for category in POST_PROCESSING:
        preset = load_preset(f"hetmm-mvtec-{category}").settings
        resolved[category] = HetmmSettings(layers=resolved["d0"].layers, **{name: preset[name] for name in TABLE})
    return resolved


if __name__ == "__main__":
    with torch.inference_mode():
        main()
