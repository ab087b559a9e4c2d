"""Another implementation's view of Sparkplug B: runs in an environment of its own with the package pysparkplug.

``decode``: lines ``TOPIC HEX`` on standard input become JSON lines. ``rebirth``: prints an NCMD payload in hex.
``who``: prints where the decoder comes from, and which of our own modules could be imported here.
"""

import importlib.util
import json
import sys

import pysparkplug as spb

KINDS = {"NBIRTH": spb.NBirth, "DBIRTH": spb.DBirth, "DDATA": spb.DData, "NDATA": spb.NData, "NDEATH": spb.NDeath}


def decode(line):
    """Return a message as a record."""
    topic, payload = line.split()
    kind = topic.split("/")[2]
    message = KINDS[kind].decode(bytes.fromhex(payload))
    metrics = {
        each.name: {"value": each.value, "type": each.datatype.name, "historical": bool(each.is_historical)}
        for each in (getattr(message, "metrics", None) or [message.bd_seq_metric])
    }
    seq = getattr(message, "seq", None)
    return {"topic": topic, "kind": kind, "seq": seq, "timestamp": message.timestamp, "metrics": metrics}


if sys.argv[1] == "decode":
    for row in sys.stdin:
        print(json.dumps(decode(row)))  # noqa: T201 - its output
elif sys.argv[1] == "who":
    ours = [name for name in ("edgead", "plugins", "runtime") if importlib.util.find_spec(name) is not None]
    print(json.dumps({"decoder": spb.__file__, "prefix": sys.prefix, "ours": ours}))  # noqa: T201 - its output
else:
    now = spb.get_current_timestamp()
    wish = spb.Metric(timestamp=now, name="Node Control/Rebirth", datatype=spb.DataType.BOOLEAN, value=True)
    print(spb.NCmd(timestamp=now, metrics=(wish,)).encode(include_dtypes=True).hex())  # noqa: T201 - its output
