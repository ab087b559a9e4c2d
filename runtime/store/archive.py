"""One template as one plain tar file, to carry it from the bench to the line or to keep it.

Members, in this order: ``template/<id>`` (the manifest), then ``objects/<sha256>`` each: bank, golden frames, and the
pool where the manifest names one. Every tar header is fixed by the member's name and size (ustar, plain file, mode
0444, no owner, time 0), so equal templates give equal archives. Reading accepts exactly these headers: a link, a
device, an absolute or climbing path, an extension header, a member twice or one too many is another header, and nothing
of a refused archive is written anywhere.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runtime.disk import durable
from runtime.errors import TemplateError
from runtime.store.integrity import parts
from runtime.store.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from runtime.store.objects import MAX_OBJECT_BYTES, digest_of, is_digest

_BLOCK = tarfile.BLOCKSIZE
#: A tar ends with zero blocks up to a multiple of 10,240 bytes, and at least two of them.
_MAX_END_BYTES = 2 * tarfile.RECORDSIZE


@dataclass(frozen=True)
class Archive:
    """A proven archive: id, manifest (and the bytes it came in), and its objects' bytes, ordered as in ``parts``."""

    digest: str
    manifest: Manifest
    manifest_bytes: bytes
    objects: tuple[bytes, ...]


def pack(manifest_bytes: bytes | bytearray, *objects: bytes | bytearray) -> bytes:
    """Return the archive of a template as bytes; ``objects`` in the order of ``runtime.store.integrity.parts``."""
    members = [(f"template/{digest_of(manifest_bytes)}", manifest_bytes)]
    members += [(f"objects/{digest_of(data)}", data) for data in objects]
    pieces: list[bytes | bytearray] = []
    for name, data in members:
        pieces += [_header(name, len(data)), data, bytes(-len(data) % _BLOCK)]
    size = sum(map(len, pieces)) + 2 * _BLOCK
    return b"".join([*pieces, bytes(2 * _BLOCK + -size % tarfile.RECORDSIZE)])


def unpack(file: Path) -> Archive:
    """Return the template in an archive, every digest, header, shape and number checked.

    Raises ``TemplateError`` for anything but an archive as ``pack`` writes it; sizes are checked against the file
    before reading.
    """
    with durable.translated("read", file), file.open("rb") as stream:
        name, size = _peek(stream, file)
        digest = name.removeprefix("template/")
        if not (name.startswith("template/") and is_digest(digest)):
            raise TemplateError(f"{file}: expected member template/<sha256> first, found {name[:100]!r}; {_ADVICE}")
        data = _member(stream, file, name, size, MAX_MANIFEST_BYTES)
        manifest = decode_manifest(data, f"{file}: {name}")
        named = parts(manifest)
        objects = tuple(
            _member(stream, file, f"objects/{part.record.object}", part.record.size, MAX_OBJECT_BYTES) for part in named
        )
        rest = stream.read(_MAX_END_BYTES + 1)
        if len(rest) > _MAX_END_BYTES or any(rest):
            raise TemplateError(f"{file}: expected the end after {1 + len(named)} members, found more; {_ADVICE}")
    for part, found in zip(named, objects, strict=True):
        part.check(manifest, found, f"{file}: {part.name}")
    return Archive(digest, manifest, data, objects)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o444
    return member.tobuf(tarfile.USTAR_FORMAT)


def _peek(stream: BinaryIO, file: Path) -> tuple[str, int]:
    """Return the name and size in the header ahead, unproven, and leave the stream where it is."""
    header = stream.read(_BLOCK)
    stream.seek(-len(header), os.SEEK_CUR)
    try:
        return header[:100].rstrip(b"\0").decode("ascii"), int(header[124:136].rstrip(b"\0 "), 8)
    except ValueError as error:
        raise TemplateError(f"{file}: expected a tar header, found {header[:40]!r}; {_ADVICE}") from error


def _member(stream: BinaryIO, file: Path, name: str, size: int, limit: int) -> bytes:
    """Return the next member's data: called ``name``, of ``size`` bytes, with the digest in its name."""
    if not 0 < size <= min(limit, os.fstat(stream.fileno()).st_size - stream.tell() - _BLOCK):
        raise TemplateError(
            f"{file}: expected {size} bytes of {name} within the file and the limit of {limit}, found fewer; {_ADVICE}"
        )
    if (found := stream.read(_BLOCK)) != _header(name, size):
        raise TemplateError(
            f"{file}: expected member {name} as a plain file of {size} bytes, "
            f"found {found[:100].rstrip(bytes(1))!r} of type {found[156:157]!r}; {_ADVICE}"
        )
    data = stream.read(size)
    padding = stream.read(-size % _BLOCK)
    if digest_of(data) != name.rpartition("/")[2] or any(padding):
        raise TemplateError(f"{file}: expected data of {name} to have that sha256, found {digest_of(data)}; {_ADVICE}")
    return data


_ADVICE = "export the template again with 'edgead templates export'"
