"""A result as the JSON record that MQTT and webhooks carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgead import Delivered, result_values

#: Name and version of the record of a result.
RESULT_SCHEMA = "edgead.result/1"


def encode_record(schema: str, fields: Mapping[str, Any]) -> bytes:
    """Return fields as a JSON object that names its schema, UTF-8, without spaces."""
    return json.dumps({"schema": schema, **fields}, ensure_ascii=False, separators=(",", ":")).encode()


def encode_result(delivered: Delivered, *, historical: bool) -> bytes:
    """Return the record of a result: every field of docs/publishers.md. ``historical``: it is not shown live."""
    return encode_record(RESULT_SCHEMA, result_values(delivered.inspection, historical=historical))
