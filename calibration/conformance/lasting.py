"""Promises about a template over its life: left out, stored, extended, and run for long."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from calibration.calibrate import calibrate, save
from calibration.conformance.outcomes import BrokenError, NotedError
from calibration.conformance.subject import SEED, SHAPE, THREADS, Subject, bits_of, digest_content
from calibration.extend import extend as insert
from calibration.extension import ExtensionOptions
from runtime.detector import Detector
from runtime.engines.engine import Engine
from runtime.engines.program import Layout
from runtime.engines.selftest import self_test
from runtime.errors import EdgeadError, PluginError
from runtime.lane.memory import own_bytes
from runtime.store.manifest import DetectorIdentity
from runtime.store.store import Store
from runtime.store.template import Template

#: Rounds the frames are counted in: a leak grows in each of them, what is only warming up does not.
ROUNDS = 6
#: A round may grow by as much as the allocator's own housekeeping: what a hundred small frames never need.
HOUSEKEEPING_BYTES = 256 * 1024
#: Longest run before the first count, in frames: caches of torch and of the allocator fill.
WARM_UP = 20
_PRODUCT, _WHO = "part", "edgead plugins check"


def leave_out(subject: Subject) -> str:
    """Leave out the first and the last reference: the layout stays, and so do the bits of the bank itself."""
    content, detector = subject.content, subject.detector
    unseen = detector.unseen(content)
    if unseen is not None and not all(0 <= index < len(subject.pictures.good) for index in unseen):
        raise BrokenError(f"unseen names {list(unseen)[:8]}", "name references by their place, from 0")
    if type(detector).leave_out is Detector.leave_out:
        return "not offered: every fifth reference is held back"
    bank = dict(detector.bank(content))
    before = bits_of(bank)
    for index in (0, len(subject.pictures.good) - 1):
        rest = detector.leave_out(content, bank, index)
        if bits_of(bank) != before:
            raise BrokenError("leave_out changes the bank it was given", "return tensors of its own")
        if rest is None:
            return f"not possible for reference {index}"
        if {name: Layout.of(each) for name, each in rest.items()} != {n: Layout.of(t) for n, t in bank.items()}:
            raise BrokenError("a bank with one reference left out has another layout", "keep shapes, dtypes and order")
        subject.engine.infer(subject.pictures.good[index].image, rest)
    trained = "" if unseen is None else f", {len(unseen)} of them unseen by training"
    return f"first and last of {len(subject.pictures.good)}{trained}"


def store(subject: Subject) -> str:
    """Store, activate, read again without the pool: another object answers every golden frame as before."""
    _calibrate_into_store(subject)
    template = _template(subject)
    try:
        passed = self_test(Engine(subject.fresh(), template.content(), threads=THREADS), template)
    except EdgeadError as error:
        raise BrokenError(
            f"the stored template does not answer as it did: {error}",
            "let graph and bank depend on content alone, and not on its pool",
        ) from error
    thresholds = template.manifest.thresholds
    return f"{len(passed.report.frames)} golden frames, threshold {thresholds.image:.4g} ({thresholds.rule})"


def _calibrate_into_store(subject: Subject) -> None:
    """Do what `edgead calibrate --activate` does; the content must come back as it went in."""
    detector = subject.detector
    made = calibrate(detector, subject.pictures.good, subject.settings, subject.options, lambda *_: None)
    identity = DetectorIdentity(
        name=detector.name, version=detector.version,
        distribution=subject.registry.detectors[detector.name].distribution,
    )  # fmt: skip
    store = Store.create(_root(subject))
    template = save(made, store, product=_PRODUCT, detector=identity, who=_WHO, why="")
    store.activate(template.digest, who=_WHO, why="")
    if digest_content(_template(subject).content(pool=True)) != digest_content(made.content):
        raise BrokenError("the content is another one after the store", "keep plain JSON values in settings")


def _template(subject: Subject) -> Template:
    return Store(_root(subject)).active(_PRODUCT, subject.name)


def _root(subject: Subject) -> Path:
    return subject.folder / f"store-{subject.name}"


def extend(subject: Subject) -> str:
    """Insert frames as the host does, without disturbing what was there; or the detector says that it cannot."""
    detector = subject.detector
    if type(detector).extend is Detector.extend:
        return "not offered: the host refuses, and says to calibrate again"
    before = digest_content(subject.content)
    try:
        longer = subject.longer
    except EdgeadError as error:
        return f"refused: {error}"
    if digest_content(subject.content) != before:
        raise BrokenError("extend changes the content it was given", "make new arrays")
    if longer is None:
        return "not possible: the host refuses, and says to calibrate again"
    options = ExtensionOptions(everything=True, threads=THREADS, seed=SEED)
    try:
        extended = insert(detector, _template(subject), subject.pictures.new, options, lambda *_: None)
    except PluginError as error:
        raise BrokenError(str(error), "return content of the same settings, weights and map shape") from error
    if extended.made is None:
        raise NotedError(f"nothing was inserted: {extended.warnings[0]}")
    grown = extended.made.content
    return f"{len(subject.pictures.new)} inserted, {grown.valid} of {grown.capacity} places taken"


def _held() -> int:
    """Return the bytes in use. What is free in the allocator's pools goes back first: a leak would hide in there."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return own_bytes(os.getpid())


def memory(subject: Subject) -> str:
    """Inspect many different frames and count in rounds: a leak grows in every one of them."""
    random = np.random.default_rng(SEED)
    each = max(1, subject.frames // ROUNDS)

    def run(count: int) -> int:
        with torch.inference_mode():
            for _ in range(count):
                subject.engine.infer(random.integers(0, 256, SHAPE, np.uint8))
        return _held()

    gc.collect()
    gc.freeze()  # what torch has brought along need not be looked through in every round
    try:
        held = [run(WARM_UP), *(run(each) for _ in range(ROUNDS))]
    finally:
        gc.unfreeze()
    growth = np.diff(held[1:])  # the first round is warming up, too
    typical = float(np.median(growth))
    if typical > HOUSEKEEPING_BYTES and (growth > 0).all():
        raise BrokenError(
            f"memory grows with every frame: {typical / each / 1e3:.0f} kB a frame over {len(growth) * each} frames",
            "keep no frame, map or tensor beyond forward",
        )
    return f"{ROUNDS * each} frames, {(held[-1] - held[1]) / 1e6:+.1f} MB, {held[-1] / 1e6:.0f} MB in all"
