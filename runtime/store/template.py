"""A template: the versioned artefact one detector uses for one product, as a manifest plus the arrays it names.

The law of the arrays is here and needs no store: ``decode_bank``, ``decode_pool`` and ``decode_golden`` take bytes and
a manifest. A station reads bank and golden frames; the pool is read to extend the template, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.disk import tensors
from runtime.errors import TemplateError
from runtime.store.manifest import BankRecord, PoolRecord
from runtime.store.manifest import Manifest as Manifest

if TYPE_CHECKING:
    import numpy as np

    from runtime.detector import TemplateContent
    from runtime.store.objects import Objects


def decode_bank(manifest: Manifest, data: bytes | bytearray, where: str) -> dict[str, np.ndarray]:
    """Return the bank's arrays as views of ``data``, laid out as the manifest says.

    Raises ``TemplateError`` if they are laid out otherwise.
    """
    return _decode_tensors(manifest.bank, "bank", data, where)


def decode_pool(manifest: Manifest, data: bytes | bytearray, where: str) -> dict[str, np.ndarray]:
    """Return the pool's arrays as ``decode_bank`` does; a manifest without a pool is refused like a wrong layout."""
    if manifest.pool is None:
        raise TemplateError(f"{where}: expected no pool, found one; import the template again")
    return _decode_tensors(manifest.pool, "pool", data, where)


def _decode_tensors(
    record: BankRecord | PoolRecord, kind: str, data: bytes | bytearray, where: str
) -> dict[str, np.ndarray]:
    arrays = tensors.decode(data, where)
    found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    expected = {name: (each.dtype, each.shape) for name, each in record.tensors.items()}
    if found != expected:
        raise TemplateError(f"{where}: expected the manifest's {kind} {expected}, found {found}; calibrate again")
    return arrays


@dataclass(frozen=True)
class GoldenFrame:
    """A good frame and what the reference backend answered: every other backend must give the same within tolerance.

    ``frame`` uint8, 0..255, [H, W] (grey) or [H, W, 3] (RGB). ``anomaly_map`` float32 [h, w], the manifest's
    ``map_shape``. ``score``: the image score, kept as float32.
    """

    frame: np.ndarray
    anomaly_map: np.ndarray
    score: float


def encode_golden(golden: Sequence[GoldenFrame]) -> bytes:
    """Return golden frames as safetensors: ``frame.<i>``, ``map.<i>`` and one ``score`` float32 [count]."""
    import numpy as np

    named = {f"frame.{i}": each.frame for i, each in enumerate(golden)}
    named |= {f"map.{i}": each.anomaly_map for i, each in enumerate(golden)}
    return tensors.encode(named | {"score": np.array([each.score for each in golden], np.float32)})


def decode_golden(manifest: Manifest, data: bytes | bytearray, where: str) -> list[GoldenFrame]:
    """Return the golden frames in ``data`` (views of it).

    Raises ``TemplateError`` when they are not what the manifest says.
    """
    arrays = tensors.decode(data, where)
    count = manifest.golden.count
    names = {"score", *(f"{kind}.{i}" for kind in ("frame", "map") for i in range(count))}
    if arrays.keys() != names:
        raise TemplateError(f"{where}: expected {count} golden frames, found tensors {sorted(arrays)[:20]}")
    score = arrays["score"]
    if score.dtype != "float32" or score.shape != (count,):
        raise TemplateError(f"{where}: expected score float32 [{count}], found {score.dtype} {list(score.shape)}")
    golden = [GoldenFrame(arrays[f"frame.{i}"], arrays[f"map.{i}"], float(score[i])) for i in range(count)]
    for i, each in enumerate(golden):
        shape = each.frame.shape
        if each.frame.dtype != "uint8" or (len(shape), shape[2:]) not in {(2, ()), (3, (3,))}:
            raise TemplateError(
                f"{where}: expected frame.{i} uint8 [H, W] or [H, W, 3], found {each.frame.dtype} {list(shape)}"
            )
        if each.anomaly_map.dtype != "float32" or each.anomaly_map.shape != manifest.map_shape:
            raise TemplateError(
                f"{where}: expected map.{i} float32 {list(manifest.map_shape)}, "
                f"found {each.anomaly_map.dtype} {list(each.anomaly_map.shape)}"
            )
    return golden


@dataclass(frozen=True)
class Template:
    """A template in a store: ``digest`` is its id, the sha256 of its manifest. Arrays are read when asked for."""

    digest: str
    manifest: Manifest
    objects: Objects

    def bank(self) -> dict[str, np.ndarray]:
        """Return the bank's arrays, writable and the caller's own, in the layout of ``manifest.bank.tensors``.

        The bytes handed out are the bytes whose digest was checked, each time: 0.12 s per 100 MB, off the inspection
        path. Raises ``TemplateError`` when the object is missing or damaged.
        """
        record = self.manifest.bank
        data = self.objects.read(record.object, record.size)
        return decode_bank(self.manifest, data, f"bank of {self.digest[:12]}")

    def pool(self) -> dict[str, np.ndarray]:
        """Return the pool's arrays as ``bank`` does, none where the template has no pool. Only for extending it."""
        record = self.manifest.pool
        if record is None:
            return {}
        data = self.objects.read(record.object, record.size)
        return decode_pool(self.manifest, data, f"pool of {self.digest[:12]}")

    def golden(self) -> list[GoldenFrame]:
        """Return the golden frames, proven as the bank is. Raises ``TemplateError`` as ``bank`` does."""
        record = self.manifest.golden
        data = self.objects.read(record.object, record.size)
        return decode_golden(self.manifest, data, f"golden frames of {self.digest[:12]}")

    def content(self, *, pool: bool = False) -> TemplateContent:
        """Return what the detector learnt, in the form its ``graph``, ``bank`` and ``leave_out`` take it.

        ``pool=True`` reads the pool as well, as ``extend`` wants it; else it is empty and its object is not touched.
        """
        from runtime.detector import TemplateContent

        manifest = self.manifest
        return TemplateContent(
            settings=dict(manifest.settings),
            tensors=self.bank(),
            capacity=manifest.bank.capacity,
            valid=manifest.bank.valid,
            map_shape=manifest.map_shape,
            weights=dict(manifest.weights),
            statistics=dict(manifest.statistics),
            pool=self.pool() if pool else {},
        )
