"""The checksum of a station file's content: PLCs and people compare it to see whether anybody changed a setting."""

from __future__ import annotations

import zlib

from runtime.disk.canonical import encode
from runtime.station.config import Station


def config_crc32(station: Station) -> int:
    """Return the CRC-32 of a station's checked content, in canonical JSON: two files of one meaning have one."""
    return zlib.crc32(encode(station.model_dump(mode="json", by_alias=True)))
