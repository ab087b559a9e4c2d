"""Named arrays to safetensors bytes and back.

The file format: 8-byte little-endian header length, JSON header, raw data.

Writing goes through the safetensors library. Reading is done here, on the very bytes whose digest was checked: the
arrays are views of that buffer, so a bank of a gigabyte is held once, and every way a header can lie ends in
``TemplateError``. Format: https://huggingface.co/docs/safetensors (tensors tile the data section without gaps or
overlap).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from runtime.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

#: numpy's name -> (safetensors' name, bytes an element): all a template may hold. Anything else is refused, both ways.
DTYPES = {
    "float16": ("F16", 2),
    "float32": ("F32", 4),
    "uint8": ("U8", 1),
    "int16": ("I16", 2),
    "int32": ("I32", 4),
    "bool": ("BOOL", 1),
}
#: A header entry takes some 100 bytes; 4 MiB is room for 40,000 tensors, and bounds what a lying length can make us
#: parse.
MAX_HEADER_BYTES = 4 << 20

_NUMPY_NAMES = {code: (name, width) for name, (code, width) in DTYPES.items()}


def encode(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return the safetensors file of ``tensors``: equal tensors give equal bytes, whatever the order of the mapping.

    Raises ``TemplateError`` for a dtype outside ``DTYPES`` and for the name ``__metadata__``.
    """
    import numpy as np
    from safetensors.numpy import save

    if "__metadata__" in tensors:
        raise TemplateError(
            "expected tensor names, found '__metadata__', which safetensors keeps for itself; rename it"
        )
    laid_out = {}
    for name, tensor in tensors.items():
        if tensor.dtype.name not in DTYPES:
            raise TemplateError(
                f"tensor {name!r}: expected one of {', '.join(DTYPES)}, found {tensor.dtype}; convert it first"
            )
        # safetensors 0.8 writes a transposed view's memory as it lies, under the transposed shape; asarray keeps 0-d
        # arrays 0-d.
        laid_out[name] = np.asarray(tensor, dtype=tensor.dtype.newbyteorder("<"), order="C")
    data: bytes = save(laid_out)
    return data


def layout(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return each array's dtype (numpy's name) and shape, as JSON."""
    return {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in tensors.items()}


def decode(data: bytes | bytearray, where: str) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file as views of ``data`` (writable if it is a bytearray).

    Raises ``TemplateError`` when header and data do not agree in every byte.
    """
    start, header = _header(data, where)
    spans = sorted(((*_span(entry, name, where), name) for name, entry in header.items()), key=lambda span: span[:2])
    tensors = {}
    end_before = 0
    for begin, end, dtype, shape, name in spans:
        if begin != end_before:
            raise TemplateError(
                f"{where}: expected tensor {name!r} to begin at byte {end_before} of the data, found {begin}"
            )
        end_before = end
        if end > len(data) - start:
            raise TemplateError(f"{where}: expected {end} bytes of data for tensor {name!r}, found {len(data) - start}")
        tensors[name] = _view(data, start + begin, dtype, shape, f"{where}: tensor {name!r}")
    if end_before != len(data) - start:
        raise TemplateError(f"{where}: expected {end_before} bytes of data, found {len(data) - start}")
    return tensors


def require_finite(tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Raise ``TemplateError`` naming the first float tensor that holds NaN or infinity, and where in it."""
    import numpy as np

    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not (finite := np.isfinite(tensor)).all():
            at = [int(i) for i in np.argwhere(~finite)[0]]
            raise TemplateError(
                f"{where}: expected finite numbers, found {tensor[tuple(at)]} in {name!r} at {at}; calibrate again"
            )


def _header(data: bytes | bytearray, where: str) -> tuple[int, dict[str, Any]]:
    """Return (offset of the data section, header)."""
    length = int.from_bytes(data[:8], "little") if len(data) >= 8 else -1  # noqa: PLR2004 -- the format's length field
    if not 0 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise TemplateError(
            f"{where}: expected a safetensors header, found a header length of {length} in {len(data)} bytes"
        )
    try:
        header = json.loads(bytes(data[8 : 8 + length]).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"{where}: expected a safetensors header in JSON, found {error}") from error
    if not isinstance(header, dict):
        raise TemplateError(f"{where}: expected a JSON object as safetensors header, found {type(header).__name__}")
    return 8 + length, header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("one name twice")
    return dict(pairs)


def _span(entry: Any, name: str, where: str) -> tuple[int, int, str, tuple[int, ...]]:
    """Return (begin, end, numpy dtype, shape) of a header entry whose parts agree."""
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)], **rest} if (
            not rest and code in _NUMPY_NAMES and all(type(side) is int and side >= 0 for side in shape)
        ):
            dtype, width = _NUMPY_NAMES[code]
            if begin >= 0 and end - begin == math.prod(shape) * width:
                return begin, end, dtype, tuple(shape)
    raise TemplateError(
        f"{where}: expected dtype, shape and data_offsets of tensor {name!r} to agree, found {str(entry)[:200]}"
    )


def _view(data: bytes | bytearray, offset: int, dtype: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    import numpy as np

    view: np.ndarray = np.ndarray(shape, np.dtype(dtype).newbyteorder("<"), data, offset)
    if dtype == "bool" and view.view(np.uint8).max(initial=0) > 1:
        raise TemplateError(f"{where}: expected bytes 0 and 1 in a bool tensor, found another")
    # A file of another writer may leave a tensor unaligned, which torch.from_numpy does not take.
    return view if view.flags.aligned else view.copy()
