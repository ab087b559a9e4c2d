"""Canonical JSON: one value has one spelling, so that equal content gives an equal digest.

The spelling: UTF-8 of pure ASCII, keys sorted by code point, no spaces, floats in Python's shortest round-trip form, no
NaN or infinity (JSON has none). Reading refuses any other spelling of the same value, duplicate keys included.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from runtime.errors import TemplateError


def encode(value: Any) -> bytes:
    """Return the one spelling of a JSON value (dict with str keys, list, str, int, float, bool, None).

    Raises ``TemplateError`` for NaN, infinity and anything JSON cannot say.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError(
            f"expected a JSON value of finite numbers, found one that JSON cannot say ({error}); "
            "convert arrays with .tolist() and leave out what is not a number"
        ) from error
    return text.encode("ascii")


def decode(data: bytes | bytearray, where: str) -> Any:
    """Return the value whose canonical spelling is ``data``; ``where`` names the file in the message.

    Raises ``TemplateError`` when the bytes are not JSON, or not canonical.
    """
    try:
        value = json.loads(bytes(data).decode("ascii"), parse_constant=_refuse_constant)
        # A second spelling would give one template two ids; this also catches duplicate keys, which json drops
        # silently.
        canonical = encode(value) == data
    except (ValueError, RecursionError, TemplateError) as error:
        raise TemplateError(f"{where}: expected canonical JSON, found bytes that are not JSON ({error})") from error
    if not canonical:
        raise TemplateError(f"{where}: expected canonical JSON (sorted keys, no spaces), found another spelling of it")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
