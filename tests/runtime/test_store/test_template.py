"""Canonical JSON, the laws of the manifest, arrays in safetensors: content in, the same content out, or a refusal."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import numpy as safetensors

from runtime.disk import canonical, tensors
from runtime.errors import TemplateError
from runtime.store.manifest import (
    BankRecord,
    DetectorIdentity,
    GoldenRecord,
    Manifest,
    PoolRecord,
    Reference,
    TensorRecord,
    Thresholds,
    decode_manifest,
    encode_manifest,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=8), values, max_size=4)
digests = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
slugs = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,63}", fullmatch=True)
fractions = st.none() | st.floats(0, 1)
cuts = st.none() | finite
counts = st.integers(0, 2**40)

layouts = st.builds(
    TensorRecord,
    dtype=st.sampled_from(sorted(tensors.DTYPES)),
    shape=st.lists(counts, max_size=4).map(tuple),
)

manifests = st.builds(
    Manifest,
    product=slugs,
    detector=st.builds(DetectorIdentity, name=slugs, version=st.text(min_size=1, max_size=100), distribution=st.text()),
    settings=objects,
    weights=st.dictionaries(st.text(), digests, max_size=2),
    bank=st.builds(
        BankRecord,
        object=digests,
        size=st.integers(1, 2**40),
        capacity=st.just(2**40),
        valid=counts,
        tensors=st.dictionaries(st.text(), layouts, max_size=3),
    ),
    map_shape=st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    thresholds=st.builds(
        Thresholds, image=cuts, pixel=cuts, rule=st.text(), target=fractions, bound=fractions, held_out=counts
    ),
    held_out_scores=st.lists(finite, max_size=4).map(tuple),
    golden=st.builds(GoldenRecord, object=digests, size=st.integers(1, 2**40), count=counts),
    references=st.lists(st.builds(Reference, name=st.text(), sha256=digests), max_size=3).map(tuple),
    statistics=objects,
    parent=st.none() | digests,
    pool=st.none()
    | st.builds(
        PoolRecord,
        object=digests,
        size=st.integers(1, 2**40),
        tensors=st.dictionaries(st.text(), layouts, min_size=1, max_size=3),
    ),
)


def example(**changes):
    """Return a lawful manifest as plain JSON, with some of its top-level fields changed."""
    bank = {
        "object": "a" * 64,
        "size": 9,
        "capacity": 2,
        "valid": 1,
        "tensors": {"x": {"dtype": "float16", "shape": [2, 4]}},
    }
    return {
        "schema": "edgead.template/1",
        "product": "cap",
        "detector": {"name": "hetmm", "version": "1", "distribution": "edgead"},
        "settings": {"ratio": 0.1},
        "weights": {},
        "bank": bank,
        "map_shape": [3, 4],
        "thresholds": {
            "image": 0.5,
            "pixel": None,
            "rule": "conformal",
            "target": 0.01,
            "bound": 0.02,
            "held_out": 3,
        },
        "held_out_scores": [0.1],
        "golden": {"object": "b" * 64, "size": 9, "count": 1},
        "references": [{"name": "a.png", "sha256": "c" * 64}],
        "statistics": {},
        "parent": None,
    } | changes


@settings(deadline=None)
@given(values)
def test_canonical_json_reads_back_the_same(value):
    """Any JSON value has a spelling that reads back equal, types included."""
    data = canonical.encode(value)
    found = canonical.decode(data, "here")
    assert found == value
    assert canonical.encode(found) == data


@settings(deadline=None)
@given(objects, st.randoms())
def test_canonical_json_does_not_depend_on_order(value, rng):
    """The order in which keys were set makes no difference."""
    items = list(value.items())
    rng.shuffle(items)
    assert canonical.encode(dict(items)) == canonical.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":2}',
        b"1.50",
        b'"\xc3\xa9"',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"",
        b"{",
    ],
)
def test_other_spellings_are_refused(data):
    """Spaces, unsorted or double keys, long floats, raw non-ASCII, NaN, infinity and broken text are refused."""
    with pytest.raises(TemplateError, match=r"^here: expected canonical JSON"):
        canonical.decode(data, "here")


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {1, 2}, np.float32(1), {(1, 2): 3}])
def test_what_json_cannot_say_is_refused(value):
    """NaN, infinity, sets, numpy scalars and keys that are no text are refused when writing."""
    with pytest.raises(TemplateError, match="expected a JSON value of finite numbers"):
        canonical.encode(value)


def test_deep_nesting_is_refused_not_a_crash():
    """A bomb of brackets gives the room's own error."""
    with pytest.raises(TemplateError):
        canonical.decode(b"[" * 100_000 + b"]" * 100_000, "here")


@settings(max_examples=60, deadline=None)
@given(manifests)
def test_manifest_reads_back_the_same(manifest):
    """Every manifest is its bytes: decoding gives an equal record, which encodes to the same bytes."""
    data = encode_manifest(manifest)
    found = decode_manifest(data, "here")
    assert found == manifest
    assert encode_manifest(found) == data


def test_manifest_spelling_is_pinned():
    """The bytes, and so the ids, of templates made today stay what they are."""
    data = encode_manifest(decode_manifest(canonical.encode(example()), "here"))
    assert data == json.dumps(example(), sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(data).hexdigest() == "c2b93bb0b9ef056dca20bb85ff9d782c7c21a377f41bfe276f235c3d1a37bfaf"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "edgead.template/2"}, r"expected schema 'edgead.template/1', found 'edgead.template/2'.*newer"),
        ({"schema": "else"}, "no template of edgead"),
        ({"colour": 1}, "colour: Extra inputs"),
        ({"product": "Cap"}, "product: String should match"),
        ({"product": "a/b"}, "product: String should match"),
        ({"product": "cap\n"}, "product: String should match"),
        ({"product": ""}, "product: String should match"),
        ({"map_shape": [3]}, "map_shape"),
        ({"map_shape": [3, 0]}, r"map_shape\.1"),
        ({"map_shape": [3.0, 4]}, r"map_shape\.0"),
        ({"parent": "A" * 64}, "parent"),
        ({"held_out_scores": ["0.1"]}, r"held_out_scores\.0"),
        ({"bank": example()["bank"] | {"valid": 3}}, r"bank: .*expected valid <= capacity, found 3 > 2"),
        ({"bank": example()["bank"] | {"tensors": {"x": {"dtype": "float64", "shape": []}}}}, "dtype"),
        ({"thresholds": example()["thresholds"] | {"target": 1.5}}, r"thresholds\.target"),
        ({"settings": [1]}, "settings"),
        ({"pool": None}, "pool: expected a record, or no such field, found null"),
        ({"pool": {"object": "a" * 64, "size": 9, "tensors": {}}}, r"pool\.tensors: .*at least 1 item"),
        ({"pool": {"object": "a" * 64, "size": 9}}, r"pool\.tensors: Field required"),
    ],
)
def test_unlawful_manifest_is_refused_by_field(change, message):
    """A wrong, unknown or future field is refused with its name."""
    with pytest.raises(TemplateError, match=f"^here: .*{message}"):
        decode_manifest(canonical.encode(example(**change)), "here")


@pytest.mark.parametrize("name", sorted(set(example()) - {"schema"}))
def test_missing_field_is_refused(name):
    """Every field must be there: a template without thresholds or golden frames is not one."""
    value = example()
    del value[name]
    with pytest.raises(TemplateError, match=f"{name}: Field required"):
        decode_manifest(canonical.encode(value), "here")


arrays = st.dictionaries(
    st.text(max_size=6),
    st.sampled_from(sorted(tensors.DTYPES)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=4,
)


@settings(deadline=None)
@given(arrays)
def test_arrays_read_back_the_same(named):
    """Arrays of every allowed dtype and shape come back bit for bit, by this reader and by the library's."""
    data = bytearray(tensors.encode(named))
    found = tensors.decode(data, "here")
    library = safetensors.load(bytes(data))
    assert found.keys() == named.keys() == library.keys()
    for name, array in named.items():
        for other in (found[name], library[name]):
            assert (other.dtype, other.shape, other.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert found[name].flags.writeable


@settings(deadline=None)
@given(arrays, st.data())
def test_cut_or_flipped_tensor_file_never_escapes(named, data):
    """A damaged file is refused with the room's own error or read within bounds; nothing else happens."""
    whole = bytearray(tensors.encode(named))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(TemplateError):
        tensors.decode(whole, "here")


def file_of(header, data=b""):
    """Return a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


X = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        (2**63).to_bytes(8, "little") + b"{}",
        file_of(b"[]"),
        file_of(b"{"),
        file_of(b'{"x":1,"x":2}'),
        file_of(b"[" * 50_000),
        file_of({"x": X}),
        file_of({"x": X}, b"12345"),
        file_of({"x": X | {"dtype": "F64"}}, b"1234"),
        file_of({"x": X | {"dtype": ["U8"]}}, b"1234"),
        file_of({"x": X | {"shape": [5]}}, b"1234"),
        file_of({"x": X | {"shape": [-2, -2]}}, b"1234"),
        file_of({"x": X | {"shape": [2**40, 2**40]}}, b"1234"),
        file_of({"x": X | {"shape": [True, 4]}}, b"1234"),
        file_of({"x": X | {"data_offsets": [1, 5]}}, b"12345"),
        file_of({"x": X | {"data_offsets": [-4, 0]}}, b"1234"),
        file_of({"x": X | {"more": 1}}, b"1234"),
        file_of({"x": X, "y": X}, b"1234"),
        file_of({"x": X, "y": X | {"data_offsets": [2, 6]}}, b"123456"),
        file_of({"__metadata__": {"a": "b"}}),
        file_of({"x": X | {"dtype": "BOOL"}}, b"\0\1\2\0"),
    ],
)
def test_header_that_lies_is_refused(data):
    """Overlaps, gaps, overruns, negative or huge shapes, unknown dtypes and double names are refused."""
    with pytest.raises(TemplateError, match=r"^here: .*expected"):
        tensors.decode(data, "here")


def test_unaligned_tensor_is_made_usable():
    """A file of another writer that leaves float32 unaligned gives an aligned array of the same values."""
    data = file_of(
        {
            "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
        },
        b"\7" + np.float32(1.5).tobytes(),
    )
    found = tensors.decode(data, "here")
    assert found["a"].tolist() == [7]
    assert found["b"].tolist() == [1.5]
    assert found["b"].flags.aligned


def test_big_endian_array_is_stored_by_value():
    """An array in the other byte order comes back with the same values."""
    found = tensors.decode(tensors.encode({"x": np.array([1, 2], ">i2")}), "here")
    assert found["x"].tolist() == [1, 2]


def test_name_the_file_format_keeps_for_itself_is_refused():
    """A tensor called __metadata__ would be read as something else, so it is not written."""
    with pytest.raises(TemplateError, match="__metadata__"):
        tensors.encode({"__metadata__": np.zeros(1, np.uint8)})


def test_naming_the_store_is_cheap():
    """Importing the store loads neither torch nor numpy nor safetensors: the host must start fast."""
    code = "import sys, runtime.store; print([m for m in ('torch', 'numpy', 'safetensors') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
