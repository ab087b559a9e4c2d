"""The manifest: the record that defines a template, its laws, and its one spelling in bytes.

The manifest is canonical JSON; its sha256 is the template's id. It names every other byte of the template by digest
(bank, golden frames) or carries it (settings, thresholds, held-out scores), so equal content gives an equal id and a
changed threshold is another template. Who made it and when is not content: that stands in the store's ref log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from runtime.disk import canonical
from runtime.errors import TemplateError
from runtime.wire.header import MAX_TEXT_BYTES

SCHEMA: Literal["edgead.template/1"] = "edgead.template/1"
#: 100,000 references at some 150 bytes each are 15 MB; four times that is a mistake or an attack.
MAX_MANIFEST_BYTES = 64 << 20
#: What a product or detector may be called: it becomes a file name on any file system and a topic on any bus.
SLUG = r"[a-z0-9][a-z0-9_.-]{0,63}"

Slug = Annotated[str, Field(pattern=f"^{SLUG}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _fits_a_message(text: str) -> str:
    found = len(text.encode())
    if not 1 <= found <= MAX_TEXT_BYTES:
        raise ValueError(f"expected 1 to {MAX_TEXT_BYTES} bytes of UTF-8, found {found}")
    return text


#: A detector's version: every inspection carries it as a text of the wire.
Version = Annotated[str, AfterValidator(_fits_a_message)]


class Record(BaseModel):
    """What every part of the manifest is: frozen, exact types, no unknown field, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True
    )


class DetectorIdentity(Record):
    """The detector that calibrated the template. ``distribution``: the installed package it came from."""

    name: Slug
    version: Version
    distribution: str


class TensorRecord(Record):
    """One bank tensor's layout; ``dtype`` by numpy's name."""

    dtype: Literal["float16", "float32", "uint8", "int16", "int32", "bool"]
    shape: tuple[NonNegativeInt, ...]


class BankRecord(Record):
    """The bank's object (safetensors, ``size`` bytes) and layout; ``valid`` of ``capacity`` places are taken."""

    object: Digest
    size: PositiveInt
    capacity: NonNegativeInt
    valid: NonNegativeInt
    tensors: Mapping[str, TensorRecord]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.valid > self.capacity:
            raise ValueError(f"expected valid <= capacity, found {self.valid} > {self.capacity}")
        return self


class PoolRecord(Record):
    """The pool's object (safetensors, ``size`` bytes) and layout: tensors that only extending the template reads."""

    object: Digest
    size: PositiveInt
    tensors: Annotated[Mapping[str, TensorRecord], Field(min_length=1)]


class GoldenRecord(Record):
    """The golden frames' object (safetensors, ``size`` bytes) and how many frames are in it."""

    object: Digest
    size: PositiveInt
    count: NonNegativeInt


class Thresholds(Record):
    """The cuts, and the promise they were chosen by.

    ``image``: cut on the image score, ``pixel``: cut on the anomaly map, in the detector's own units; a frame is NotOK
    when its score is above ``image``. None: not calibrated, so every verdict is NotDecidable. ``rule`` says in a word
    how they were chosen, ``target`` is the false-reject rate asked for, ``bound`` the one that ``held_out`` scores can
    promise (both 0..1; None if the rule promises nothing).
    """

    image: float | None
    pixel: float | None
    rule: str
    target: Fraction | None
    bound: Fraction | None
    held_out: NonNegativeInt


class Reference(Record):
    """A good frame the template was built from: path relative to its data set (posix), sha256 of the file."""

    name: str
    sha256: Digest


class Manifest(Record):
    """Everything a template is. ``settings`` and ``statistics`` are JSON objects of the detector's own making."""

    schema_: Literal["edgead.template/1"] = Field(default=SCHEMA, alias="schema")
    product: Slug
    detector: DetectorIdentity
    settings: Mapping[str, JsonValue]
    #: Backbone weight files used: name -> sha256.
    weights: Mapping[str, Digest]
    bank: BankRecord
    #: Height and width of the anomaly map, in map pixels.
    map_shape: tuple[PositiveInt, PositiveInt]
    thresholds: Thresholds
    #: Image scores of good frames the template has not seen, in the order calibration took them.
    held_out_scores: tuple[float, ...]
    golden: GoldenRecord
    references: tuple[Reference, ...]
    statistics: Mapping[str, JsonValue]
    #: The template this one was derived from (frames inserted, threshold changed).
    parent: Digest | None
    #: None where the detector keeps no pool: the key is then left out, so templates older than pools keep their id.
    pool: PoolRecord | None = None


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest's canonical bytes; their sha256 is the template's id.

    Raises ``TemplateError`` for what JSON cannot say.
    """
    return canonical.encode(manifest.model_dump(mode="json", exclude={"pool"} if manifest.pool is None else None))


def build_manifest(**fields: Any) -> Manifest:
    """Return the manifest with these fields (JSON or records). Raises ``TemplateError`` naming each wrong one."""
    plain = {name: _plain(value) for name, value in fields.items()}
    return validated(canonical.encode({"schema": SCHEMA, **plain}), "new template")


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.model_dump(mode="json")
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def decode_manifest(data: bytes | bytearray, where: str) -> Manifest:
    """Return the manifest these bytes spell; ``where`` names them in the message.

    Raises ``TemplateError`` for bytes that are not canonical JSON, another schema, an unknown, missing or wrong field.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise TemplateError(f"{where}: expected a manifest of at most {MAX_MANIFEST_BYTES} bytes, found {len(data)}")
    value = canonical.decode(data, where)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        newer = isinstance(schema, str) and re.fullmatch(r"edgead\.template/\d+", schema)
        advice = "it was written by a newer edgead: update this one" if newer else "it is no template of edgead"
        raise TemplateError(f"{where}: expected schema {SCHEMA!r}, found {str(schema)[:100]!r}; {advice}")
    if "pool" in value and value["pool"] is None:
        # A second spelling would give one template two ids.
        raise TemplateError(f"{where}: pool: expected a record, or no such field, found null")
    return validated(data, where)


def validated(data: bytes | bytearray, where: str) -> Manifest:
    """Return the manifest in these JSON bytes, or raise ``TemplateError`` naming each wrong field."""
    try:
        return Manifest.model_validate_json(bytes(data))
    except ValidationError as error:
        raise TemplateError(f"{where}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """Return one line naming the first wrong fields of a record: where, what was wrong, what was found."""
    faults = [
        f"{'.'.join(map(str, fault['loc'])) or 'record'}: {fault['msg']}, found {str(fault['input'])[:60]!r}"
        for fault in error.errors(include_url=False)
    ]
    return "; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if len(faults) > 4 else "")  # noqa: PLR2004 -- one screen
