"""A station holds no more after many inspections than after few, and a station that does is found."""

from __future__ import annotations

import pytest

from runtime.errors import StationError
from runtime.sim import soak as room
from runtime.sim.soak import Sample, growth, soak
from runtime.testing.station import host_command

pytestmark = pytest.mark.system

LEAK = """
from runtime.ledger.writer import Ledger
take = Ledger.inspect
held = []
def inspect(self, trigger, inspection):
    held.append(bytearray(4096))
    return take(self, trigger, inspection)
Ledger.inspect = inspect
"""


def quiet(_done, _total, _what):
    """Show no progress."""


def samples(**changing):
    """Return samples a thousand inspections apart; each figure of ``changing`` is one value a sample."""
    flat = dict.fromkeys(Sample.__dataclass_fields__, 30.0)
    count = len(next(iter(changing.values())))
    for index in range(count):
        yield Sample(**flat | {"inspections": index * 1000} | {name: changing[name][index] for name in changing})


def test_the_slope_is_that_of_the_line():
    """A figure that grows by 1 in a thousand inspections grows by 1000 in a million; one that jumps by nothing."""
    found = growth(list(samples(host_mib=[50 + index for index in range(10)], worker_mib=[7, 8] * 5)))
    assert found["host_mib"] == {"measured": 9.0, "per_million": 1000.0}
    assert abs(found["worker_mib"]["measured"]) < 0.5
    assert found["host_files"] == {"measured": 0.0, "per_million": 0.0}


def test_too_short_a_soak_says_nothing():
    """A handful of samples gives no slope, but an error that asks for more."""
    with pytest.raises(StationError, match="soak for longer"):
        growth(list(samples(host_mib=[1, 2, 3, 4])))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_soaked_station_is_flat(tmp_path, monkeypatch):
    """Memory, files and sizes stay within their limits over 20,000 inspections, and every result was delivered."""
    monkeypatch.setattr(room, "EVERY_S", 0.25)
    record = soak(20_000, tmp_path, quiet)
    assert record["wrong"] == []
    assert record["inspections"] == record["delivered"] == 20_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_leaking_station_is_found(tmp_path, monkeypatch):
    """A host that keeps four kilobytes of each inspection fails, and only for the memory of the host."""

    def leaking_host(path, plugins):
        command = host_command(path, plugins)
        at = command.index("-c") + 1
        return [*command[:at], LEAK + command[at], *command[at + 1 :]]

    monkeypatch.setattr(room, "EVERY_S", 0.25)
    record = soak(12_000, tmp_path, quiet, start_host=leaking_host)
    assert [sentence.split(":")[0] for sentence in record["wrong"]] == ["host_mib"]
    assert 2500 < record["growth"]["host_mib"]["per_million"] < 6000
