"""Write the tables of docs/publishers.md, modbus.md, mqtt.md and opcua.md from the code.

Run it from the repository after a change: ``python tests/plugins/test_publishers/make_publishers_doc.py``. A table
stands between ``<!-- table NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

from plugins.publishers.modbus import image
from plugins.publishers.modbus.publisher import ModbusOptions
from plugins.publishers.mqtt.connection import BrokerOptions, Tls
from plugins.publishers.mqtt.publisher import MqttOptions
from plugins.publishers.mqtt.sparkplug import SparkplugOptions
from plugins.publishers.opcua.publisher import OpcUaOptions
from plugins.publishers.webhook import WebhookOptions
from runtime.result_fields import RESULT_FIELDS

DOCS = Path(__file__).parents[3] / "docs"
_TABLE = re.compile(r"(<!-- table (\w+) -->\n)(?:(?!<!-- end).*\n)*(<!-- end -->)")


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace(chr(10), ' ') for cell in line)} |\n" for line in lines)


def _options(*models, less=()):
    rows = []
    for model in models:
        for name, field in model.model_fields.items():
            if not any(name in each.model_fields for each in less):
                default = "required" if field.is_required() else f"`{_default(field)}`"
                rows.append([f"`{name}`", default, field.description])
    return _table(["option", "default", "meaning"], rows)


def _default(field):
    value = field.get_default(call_default_factory=True)
    if isinstance(value, str):
        return value or "empty"
    return {None: "null", True: "true", False: "false"}.get(value, value) if not isinstance(value, dict) else "{}"


def _fields():
    rows = []
    for each in RESULT_FIELDS:
        register = each.register and f"{each.register.address} {each.register.kind}"
        register = register and register + (
            f", {each.register.divisor} {each.unit}" if each.register.divisor > 1 else ""
        )
        optional = " (may be absent)" if each.optional else ""
        kind = each.kind + (f", {each.unit}" if each.unit else "")
        rows.append(
            [f"`{each.name}`", kind, f"{each.meaning}{optional}", f"`{each.node}`", f"`{each.metric}`", register or "-"]
        )
    return _table(["field", "type, unit", "meaning", "OPC UA node", "Sparkplug metric", "Modbus register"], rows)


def _words(words):
    rows = [[word.address if word.words == 1 else f"{word.address}-{word.address + word.words - 1}", word.kind,
             f"`{word.name}`", word.meaning] for word in sorted(words, key=lambda word: word.address)]  # fmt: skip
    return _table(["register", "type", "name", "meaning"], rows)


def _bits(flags):
    source = Path(image.__file__).read_text(encoding="utf-8")
    rows = []
    for flag in flags:
        described = re.search(rf'^    {flag.name} = 1 << \d+\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL)
        rows.append([flag.bit_length() - 1, f"`{flag.name}`", " ".join(described[1].split())])
    return _table(["bit", "name", "meaning"], rows)


TABLES = {
    "publishers.md": {"fields": _fields, "webhook": lambda: _options(WebhookOptions)},
    "modbus.md": {
        "options": lambda: _options(ModbusOptions),
        "image": lambda: _words([*image.RESULT_WORDS, *image.STATION_WORDS]),
        "status": lambda: _bits(image.Status),
        "control": lambda: _words(image.CONTROL),
        "bits": lambda: _bits(image.Control),
    },
    "mqtt.md": {
        "broker": lambda: _options(BrokerOptions) + "\nOf `tls`:\n\n" + _options(Tls),
        "mqtt": lambda: _options(MqttOptions, less=[BrokerOptions]),
        "sparkplug": lambda: _options(SparkplugOptions, less=[BrokerOptions]),
    },
    "opcua.md": {"options": lambda: _options(OpcUaOptions)},
}


def document(name):
    """Return a document as its file has it, its tables written anew."""
    text = (DOCS / name).read_text(encoding="utf-8")
    return _TABLE.sub(lambda found: f"{found[1]}{TABLES[name][found[2]]()}{found[3]}", text)


if __name__ == "__main__":
    for each in TABLES:
        (DOCS / each).write_text(document(each), encoding="utf-8")
