"""`edgead publish` and `edgead validate` on publishers: one line for what is wrong, before anything runs."""

from __future__ import annotations

import pytest

STATION = """
schema: edgead.station/1
station: line1
deliveries: tcp://127.0.0.1:5604
cameras:
  top: {{product: part}}
publishers: {publishers}
"""


@pytest.mark.parametrize(
    ("publishers", "name", "said"),
    [
        ("{}", "modbus", "expected a section `publishers: modbus:`"),
        ("{modbus: {prot: 1}}", "modbus", "publishers.modbus.prot: Extra inputs are not permitted"),
        ("{plc: {publisher: profinet}}", "plc", "no publisher named 'profinet': installed are modbus, mqtt, opcua"),
        ("{webhook: {url: ftp://x}}", "webhook", "publishers.webhook.url: "),
        ("{opcua: {}}", "opcua", "expected `users` or `anonymous: true`"),
    ],
)
def test_what_is_wrong_is_one_line(run, tmp_path, publishers, name, said):
    """A missing section, a wrong option and an unknown publisher are told in one line, exit code 2."""
    path = tmp_path / "station.yaml"
    path.write_text(STATION.format(publishers=publishers), encoding="utf-8")
    done = run("publish", name, "--station", str(path))
    assert done.code == 2, done.err
    assert said in done.err.splitlines()[-1]
