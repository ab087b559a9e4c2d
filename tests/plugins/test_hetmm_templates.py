"""What a template of HETMM keeps: all references, or K sheets chosen by PTS, and how it grows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgead import DetectorContext, Frame
from plugins.hetmm import Hetmm
from plugins.hetmm import pts as pts_room
from plugins.hetmm.settings import HetmmSettings
from runtime.engines.engine import Engine
from runtime.testing.product import SimulatedProduct

TINY = {"image_size": 48, "windows": ((3, 1), (3, 1), (3, 1)), "blur_sigma": 2.0, "blur_kernel": 9}
LAYERS = ("stage1", "stage2", "stage3")


@pytest.fixture(scope="module")
def detector():
    """Return one detector for the module: its backbone is loaded once."""
    return Hetmm()


@pytest.fixture(scope="module")
def many():
    """Return 46 good frames."""
    product = SimulatedProduct(seed=1, size=(128, 144))
    return [Frame(product.draw(index).image, f"{index:03d}.png") for index in range(46)]


def learnt(detector, frames, **settings):
    """Calibrate a tiny PTS template; ``settings`` override it."""
    return detector.calibrate(
        frames, HetmmSettings(**TINY | {"templates": "pts", "sheets": 4} | settings), DetectorContext()
    )


def inspected(detector, content, frame, bank=None):
    """Return (map, score) of one frame."""
    result = Engine(detector, content, threads=1).infer(frame.image, bank)
    return result.anomaly_map, result.score


def assert_same_content(found, expected):
    """Compare every array of two contents bit for bit, and their room."""
    assert (found.capacity, found.valid) == (expected.capacity, expected.valid)
    for name in ("tensors", "pool"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert (ours[key].dtype, ours[key].shape) == (theirs[key].dtype, theirs[key].shape)
            assert ours[key].tobytes() == theirs[key].tobytes(), f"{name} {key}"


@pytest.mark.parametrize("settings", [{}, {"easy": "medoid"}, {"hard": "sum"}, {"bank_dtype": "float32"}])
def test_every_vector_is_the_reference_it_names(detector, many, settings):
    """A PTS template has K sheets, and each vector is, bit for bit, the one of the reference its slot names."""
    content = learnt(detector, many[:9], **settings)
    assert (content.capacity, content.valid) == (4, 4)
    for layer in LAYERS:
        sheets, slots, pool = (
            content.tensors[f"sheets.{layer}"], content.tensors[f"slots.{layer}"], content.pool[f"sheets.{layer}"],
        )  # fmt: skip
        assert sheets.shape == (4, *pool.shape[1:])
        assert len(pool) == 9
        rows, columns = np.indices(slots.shape[1:])
        for slot in range(4):
            named = pool[slots[slot], :, rows, columns].transpose(2, 0, 1)
            assert sheets[slot].tobytes() == np.ascontiguousarray(named).tobytes()
        assert (np.sort(slots, 0)[1:] != np.sort(slots, 0)[:-1]).all(), "a reference twice at a pixel"


def test_the_same_references_give_the_same_template(detector, many):
    """PTS has no chance in it: another detector object chooses the same bits."""
    assert_same_content(learnt(Hetmm(), many[:9]), learnt(detector, many[:9]))


def test_fewer_sheets_never_lower_the_map(detector, many, damaged):
    """I-9: every distance to a part of the bank is at least the distance to all of it."""
    everything = learnt(detector, many[:12], templates="all")
    few = learnt(detector, many[:12])
    for frame in (damaged, many[20]):
        whole, part = inspected(detector, everything, frame), inspected(detector, few, frame)
        assert (part[0] >= whole[0] - 1e-6).all()
        assert part[1] >= whole[1] - 1e-6
    assert part[0].mean() > whole[0].mean() + 1e-4, "four sheets of twelve must show"


def test_no_more_references_than_sheets_are_all_kept(detector, many, damaged):
    """With N <= K a PTS template is the template of all references, in the room of K sheets."""
    content = learnt(detector, many[:4])
    assert (content.capacity, content.valid, content.pool) == (4, 4, {})
    assert (learnt(detector, many[:3]).capacity, learnt(detector, many[:3]).valid) == (4, 3)
    expected = learnt(detector, many[:4], templates="all")
    assert inspected(detector, content, damaged)[1] == inspected(detector, expected, damaged)[1]


@pytest.mark.parametrize("index", [-1, 9])
def test_no_other_reference_can_be_left_out(detector, many, index):
    """An index that is no reference's is refused: a bank left as it is would score a frame against itself."""
    content = learnt(detector, many[:9])
    with pytest.raises(ValueError, match=r"expected a reference 0\.\.8"):
        detector.leave_out(content, detector.bank(content), index)


@pytest.mark.parametrize("index", [0, 5, 8])
def test_left_out_reference_is_nowhere_in_the_bank(detector, many, index):
    """Without reference i, every vector that came from it is another one of its pixel; no other one changes."""
    content = learnt(detector, many[:9])
    bank = detector.bank(content)
    before = {name: tensor.clone() for name, tensor in bank.items()}
    left = detector.leave_out(content, bank, index)
    slots = {layer: content.tensors[f"slots.{layer}"].copy() for layer in LAYERS}
    for layer in LAYERS:
        gone = slots[layer] == index
        assert gone.any()
        other = np.where(gone[:1], slots[layer][1:2], slots[layer][:1])
        slots[layer] = np.where(gone, other, slots[layer])
        assert (slots[layer] != index).all()
    gathered = {
        f"sheets.{layer}": pts_room.gather(
            torch.from_numpy(content.pool[f"sheets.{layer}"]), torch.from_numpy(slots[layer])
        ).numpy()
        for layer in LAYERS
    }
    expected = detector.bank(replace(content, tensors={**content.tensors, **gathered}))
    for name, tensor in left.items():
        assert torch.equal(tensor, expected[name]), name
        assert torch.equal(bank[name], before[name]), "the bank itself changed"


@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("count", [1, 2])
def test_insertion_is_choosing_again_around_the_clusters(detector, many, count, rule):
    """Few new references: the same bits as choosing from all of them with every new one labelled noise (section 12)."""
    content = learnt(detector, many[:41], hard=rule)  # 41 // 4 == 43 // 4, and two are less than a tenth
    new = [Frame(255 - many[41].image, "odd.png"), many[42]][:count]
    extended = detector.extend(content, new, DetectorContext())
    assert extended.statistics["clustered"] == 41
    assert extended.statistics["references"] == 41 + count
    for layer in LAYERS:
        pool = torch.from_numpy(extended.pool[f"sheets.{layer}"])
        first = torch.from_numpy(content.pool[f"sheets.{layer}"])
        whole = pts_room.select(first, 4, rule=rule)
        chosen = pts_room.reselect(pool, whole, rule=rule)
        assert np.array_equal(extended.tensors[f"slots.{layer}"], chosen.slots.numpy())
        assert np.array_equal(extended.pool[f"centres.{layer}"], chosen.centres.numpy())
    assert any((extended.tensors[f"slots.{layer}"] >= 41).any() for layer in LAYERS), "nothing new was taken"


def test_one_by_one_is_at_once(detector, many):
    """Two references inserted one after the other and both at once give the same bits."""
    content = learnt(detector, many[:41])
    one = detector.extend(content, many[41:42], DetectorContext())
    assert_same_content(
        detector.extend(one, many[42:43], DetectorContext()), detector.extend(content, many[41:43], DetectorContext())
    )


@pytest.mark.parametrize(("first", "last"), [(9, 12), (41, 46), (3, 4), (3, 9)])
def test_enough_new_references_are_a_calibration(detector, many, first, last):
    """Where clusters are found anew, or nothing was chosen yet, the template is that of a calibration on everything."""
    extended = detector.extend(learnt(detector, many[:first]), many[first:last], DetectorContext())
    expected = learnt(detector, many[:last])
    assert_same_content(extended, expected)
    assert dict(extended.statistics) == dict(expected.statistics)


def test_an_inserted_frame_is_known(detector, many):
    """A frame inserted into a PTS template is nearer to it afterwards; the graph's shapes stay."""
    content = learnt(detector, many[:41])
    odd = Frame(255 - many[42].image, "odd.png")
    extended = detector.extend(content, [odd], DetectorContext())
    assert inspected(detector, extended, odd)[1] < 0.5 * inspected(detector, content, odd)[1]
    shapes = [{name: tensor.shape for name, tensor in detector.bank(each).items()} for each in (content, extended)]
    assert shapes[0] == shapes[1]
