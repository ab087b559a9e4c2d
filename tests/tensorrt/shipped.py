"""The shipped detectors with their shipped settings, on random rows: the programs whose conversion is examined.

Conversion depends on shapes and settings, not on what was learnt: nothing is calibrated, and backbones whose weights
are not on this machine get random ones.
"""

import contextlib
from unittest.mock import patch

import numpy as np
import torch

import plugins.backbones
from plugins.backbones import checkpoint, provenance
from runtime.detector import TemplateContent
from runtime.errors import WeightsError

#: A camera's frame, larger than every detector's image: the resize is part of the program.
FRAME = (360, 480, 3)
#: References in a bank: what an HETMM template chosen by PTS keeps, and more than CPR compares with.
SHEETS, REFERENCES = 60, 30


def _unit(rng, shape, axis):
    values = rng.standard_normal(shape, dtype=np.float32)
    return (values / np.linalg.norm(values, axis=axis, keepdims=True)).astype(np.float16)


def hetmm(detector):
    """Return a content of HETMM: 60 sheets a layer."""
    from plugins.hetmm.graph import feature_shapes
    from plugins.hetmm.settings import table_row

    wanted, rng = detector.settings_model(), np.random.default_rng(0)
    chosen = {name: table_row(wanted, name) for name in ("windows", "alpha", "weight")}
    settings = detector.settings_model.model_validate(wanted.model_dump() | chosen | {"layers": wanted.layer_names})
    shapes = zip(settings.layer_names, feature_shapes(settings), strict=True)
    tensors = {f"sheets.{name}": _unit(rng, (SHEETS, *shape), 1) for name, shape in shapes}
    return _content(settings, tensors, SHEETS)


def cpr(detector):
    """Return a content of a CPR: 30 references, heads as if trained, an object before a background."""
    from plugins.cpr.feb import Foreground
    from plugins.cpr.graph import Branches, Learnt
    from plugins.cpr.lrb import LocalHeads
    from plugins.cpr.settings import map_shapes
    from plugins.cpr.templates import learnt_tensors

    wanted, rng = detector.settings_model(), np.random.default_rng(0)
    choice = {"layers": wanted.layer_names, "kind": "object", "foreground": "on", "score_pixels": 512}
    # Of what training may decide for cpr-faster the most work: heads beside raw features in every layer.
    auto = wanted.raw_share == "auto"
    choice["raw_share"] = (0.5,) * len(wanted.layer_names) if auto else wanted.raw_shares
    settings = detector.settings_model.model_validate(wanted.model_dump() | choice)
    shapes = map_shapes(settings)
    torch.manual_seed(1)
    heads = LocalHeads(tuple(channels for channels, _ in shapes), settings.local_width).eval()
    learnt = Learnt(torch.randn(12, shapes[0][0]), Foreground(torch.randn(shapes[0][0]) / 16, 0.1), heads)
    branches = Branches(settings, learnt).eval()
    with torch.no_grad():
        local = branches.local([torch.rand(1, channels, side, side) for channels, side in shapes])
    tensors = learnt_tensors(settings, learnt)
    counts = rng.random((REFERENCES, 25, 12 + bool(branches.histograms.void)), np.float32)
    tensors["histograms"] = counts / counts.sum(-1, keepdims=True)
    tensors["foreground.maps"] = rng.random((REFERENCES, shapes[0][1], shapes[0][1])).astype(np.float16)
    for name, each in zip(settings.layer_names, local, strict=True):
        tensors[f"local.{name}"] = _unit(rng, (REFERENCES, *each.shape[2:], each.shape[1]), -1)
    return _content(settings, tensors, REFERENCES)


def prn(detector):
    """Return a content of PRN: eight prototypes a scale and a network that has learnt nothing."""
    from plugins.prn.learning import Learnt
    from plugins.prn.network import Network
    from plugins.prn.prototypes import Prototypes
    from plugins.prn.settings import SCALES, map_shapes
    from plugins.prn.templates import learnt_tensors

    settings = detector.settings_model(kind="object", score_pixels=100)
    torch.manual_seed(1)
    maps = [torch.rand(8, channels, side, side) for channels, side in map_shapes(settings)[:SCALES]]
    prototypes = tuple(Prototypes(each, np.ones(8, np.int32), 1.0, 0.0) for each in maps)
    tensors = learnt_tensors(settings, Learnt(prototypes, Network(settings).eval()))
    return _content(settings, tensors, 8, 8 + settings.spare)


def mspba(detector):
    """Return a content of MSPBA: heads that have learnt nothing, and as many rows as it keeps."""
    from plugins.mspba.embedding import learnt_tensors
    from plugins.mspba.encoders import heads_of
    from plugins.mspba.settings import SIDES

    settings, rng = detector.settings_model(), np.random.default_rng(0)
    torch.manual_seed(1)
    tensors = learnt_tensors(settings, heads_of(settings), None, None)
    for side, dimension in zip(SIDES, settings.width, strict=True):
        tensors[f"rows.{side}"] = rng.standard_normal((settings.bank_rows, dimension), np.float32)
        tensors[f"owners.{side}"] = np.zeros(settings.bank_rows, np.int32)
    tensors["radius"], tensors["weights"] = np.ones(3, np.float32), np.ones(3, np.float32)
    tensors["room"] = np.array([settings.bank_rows + settings.spare_rows], np.int32)
    return _content(settings, tensors, settings.bank_rows, settings.bank_rows + settings.spare_rows)


def _content(settings, tensors, count, capacity=None):
    return TemplateContent(
        settings=settings.model_dump(mode="json"), tensors=tensors, capacity=capacity or count, valid=count,
        map_shape=(settings.image_size, settings.image_size), weights={},
    )  # fmt: skip


#: Detector name -> how to make a content of it without calibrating.
CONTENTS = {"hetmm": hetmm, "cpr-faster": cpr, "cpr-fast": cpr, "cpr": cpr, "prn": prn, "mspba": mspba}


def content_of(detector):
    """Return a content of a shipped detector; fails for one that nobody has told how."""
    assert detector.name in CONTENTS, f"say in tests/tensorrt/shipped.py how a content of {detector.name} is made"
    return CONTENTS[detector.name](detector)


@contextlib.contextmanager
def any_weights():
    """Let backbones whose weight files are not on this machine have random weights, and templates fit them."""
    found, filled = plugins.backbones.locate_weights, checkpoint.fill

    def locate(weights):
        with contextlib.suppress(WeightsError):
            return found(weights)
        return {}

    def fill(trunk, published, origin):
        if published:
            filled(trunk, published, origin)
        else:
            checkpoint.randomise(trunk, 0)

    with (
        patch.object(plugins.backbones, "locate_weights", locate),
        patch.object(checkpoint, "fill", fill),
        patch.object(provenance, "weights_of", lambda _backbone: {}),
    ):
        yield


def program(detector, content, shape=FRAME, batch=1):
    """Return the detector's exported program for ``batch`` frames at once."""
    from runtime.engines.engine import export

    with any_weights():
        return export(detector, content, shape, batch)
