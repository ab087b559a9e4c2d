"""How long PTS takes a pixel, against scikit-learn's OPTICS.

``python tests/bench/bench_pts.py [--n 220] [--columns 64]``. Columns are random vectors around a few directions, in the
shapes of WideResNet's layers at 256 x 256 pixels. "select" is all of PTS, from features to chosen sheets; "labels" its
clustering alone, from the matrices of cosines; both one process on all cores. scikit-learn's is labels alone, spread
over all cores by joblib: "callable" from vectors, the authors' way, and "precomputed" from a matrix of distances made
beforehand. So precomputed compares with labels like for like, while select does more than either.

Ours is measured before, between and after the two of scikit-learn, and the median counts. Machines are noisy all the
same: read the ratios, of one run.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from runtime.process_defaults import set_process_defaults

set_process_defaults()  # as a station does, and before torch is loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402
from joblib import Parallel, delayed  # type: ignore[import-untyped] # noqa: E402
from sklearn.cluster import OPTICS  # noqa: E402

from plugins.hetmm.optics import cluster, min_samples, unit_grid  # noqa: E402
from plugins.hetmm.pts import insert, select  # noqa: E402

SHAPES = ((256, 64, 64), (512, 32, 32), (1024, 16, 16))
#: Slots of the authors' reduced bank.
SLOTS = 60
#: Ours needs full chunks to be measured fairly: this many columns, whatever scikit-learn gets.
OURS = 256


def drawn(rng: np.random.Generator, count: int, channels: int, columns: int) -> torch.Tensor:
    """Return sheets float32 [N, C, 1, P] around four directions a column."""
    directions = rng.standard_normal((4, channels, columns), np.float32)
    sheets = directions[rng.integers(0, 4, count)] + 0.5 * rng.standard_normal((count, channels, columns), np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(sheets), dim=1)[:, :, None]


def labels(points: np.ndarray, smallest: int, metric: object) -> np.ndarray:
    """Return scikit-learn's labels of one column."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by reachabilities of 0
        return np.asarray(OPTICS(min_samples=smallest, metric=metric, cluster_method="xi", xi=0.05).fit_predict(points))


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return 1 - cosine of unit vectors."""
    return 1 - float(a @ b)


def taken(work: Callable[[], Any], columns: int) -> tuple[float, float, Any]:
    """Run ``work()``; return wall and processor ms a column, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - wall) / columns * 1e3, (time.process_time() - cpu) / columns * 1e3, result


def compare(sheets: torch.Tensor, columns: int, pool: Parallel) -> tuple[list[float], int]:
    """Return ms a column (select, its CPU, insert, labels, precomputed, callable), and how many columns agree."""
    old = sheets[:-1]
    smallest = min_samples(len(old), SLOTS)
    select(old[:, :, :, :8], SLOTS)  # the first call allocates
    units = unit_grid(old[:, :, 0, :columns]).permute(2, 0, 1).contiguous()
    gram = units @ units.mT
    ours: list[tuple[float, ...]] = []

    def measure_ours() -> None:
        wall, cpu, selection = taken(lambda: select(old, SLOTS), sheets.shape[3])
        added, _, _ = taken(lambda: insert(sheets, selection, 1), sheets.shape[3])
        ours.append((wall, cpu, added, taken(lambda: cluster(gram, smallest), columns)[0]))

    measure_ours()
    matrices = (1 - gram).clamp_min_(0)
    matrices.diagonal(dim1=1, dim2=2).zero_()
    by_matrix, _, expected = taken(
        lambda: pool(delayed(labels)(each, smallest, "precomputed") for each in matrices.numpy()), columns
    )
    measure_ours()
    by_call, _, _ = taken(
        lambda: pool(delayed(labels)(each, smallest, cosine_distance) for each in units.numpy()), columns
    )
    measure_ours()
    same = sum(map(np.array_equal, cluster(gram, smallest).numpy(), expected))
    return [*np.median(ours, axis=0), by_matrix, by_call], same


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="PTS against scikit-learn's OPTICS")
    parser.add_argument("--n", type=int, default=220, help="sheets")
    parser.add_argument("--columns", type=int, default=64, help="columns scikit-learn is measured on, per layer")
    wanted = parser.parse_args()
    if wanted.n <= SLOTS:
        parser.error(f"--n: expected more sheets than the {SLOTS} slots to choose, found {wanted.n}")
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    write = sys.stdout.write
    write(f"{wanted.n} sheets, {SLOTS} slots, {cores} cores; ms a column\n")
    write(f"{'':64} precomputed / callable /\n")
    write("           layer  select     CPU  insert  labels  precomputed  callable  labels  select   select  same\n")
    total, pixels = np.zeros(6), 0
    with Parallel(n_jobs=cores) as pool:
        pool(delayed(labels)(np.eye(20), 2, "precomputed") for _ in range(cores))  # processes start once
        for channels, height, width in SHAPES:
            columns = max(wanted.columns, OURS)
            sheets = drawn(np.random.default_rng(0), wanted.n + 1, channels, columns)
            found, same = compare(sheets, wanted.columns, pool)
            write(f"{f'{channels} x {height} x {width}':>16} {line(found)} {same:9d}/{wanted.columns}\n")
            sys.stdout.flush()
            total += np.array(found) * height * width
            pixels += height * width
    write(f"{'all three':>16} {line(list(total / pixels))}\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    write(f"one product: select {total[1] / 1e3:.1f} CPU-seconds, insert {total[2] / 1e3:.1f} s; peak {peak:.2f} GiB\n")


def line(found: list[float]) -> str:
    """Return the figures of one row."""
    ours, cpu, added, labelled, by_matrix, by_call = found
    ratios = f"{by_matrix / labelled:6.0f}x {by_matrix / ours:6.0f}x {by_call / ours:7.0f}x"
    return f"{ours:7.2f} {cpu:7.2f} {added:7.2f} {labelled:7.2f} {by_matrix:12.1f} {by_call:9.1f}  {ratios}"


if __name__ == "__main__":
    main()
