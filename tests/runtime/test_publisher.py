"""Publishers around the host: options, secrets, what is missing, what is remembered, how they are started again."""

from __future__ import annotations

import os
import signal
import sys
import time
from textwrap import dedent

import pytest

from runtime.errors import ConfigError
from runtime.publisher import Secret
from runtime.publishing.memory import REMEMBERED, Memory
from runtime.publishing.process import check_publisher, config_crc32
from runtime.publishing.supervisor import Publishers
from runtime.registry import load_plugins
from runtime.station.config import Station

PLUGIN = """
    import time
    from edgead import Options, Publisher, hookimpl

    class ToyOptions(Options):
        depth: int = 1

    class Toy(Publisher):
        name, options_model = "toy", ToyOptions
        modules, requirement = {modules}, "edgead[toy]"

        def run(self, feed, options, context):
            context.report({{"depth": options.depth}})
            if options.depth > 1:
                raise RuntimeError("too deep")
            context.stopping.wait()

    @hookimpl
    def edgead_register_publishers(register):
        register("toy", Toy)
"""


def station(folder, publishers):
    """Return a station with these publishers, nobody at its addresses."""
    return Station.model_validate(
        {
            "schema": "edgead.station/1", "station": "s", "deliveries": "tcp://127.0.0.1:9",
            "cameras": {"top": {"product": "p"}}, "publishers": publishers, "ledger": {"path": str(folder / "ledger")},
        }
    )  # fmt: skip


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Return a writer of a plugin module with one publisher, importable here and in child processes."""

    def write(modules="()"):
        (tmp_path / "toy_plugin.py").write_text(dedent(PLUGIN.format(modules=modules)))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.delitem(sys.modules, "toy_plugin", raising=False)
        return ("toy_plugin",)

    return write


def test_hook_register_publishers(plugin):
    """A plugin registers a publisher by hook; edgead makes it, and says what there is when asked for another."""
    registry = load_plugins(plugin(), entry_points=False)
    assert registry.broken == []
    assert registry.publisher("toy").name == "toy"
    with pytest.raises(ConfigError, match="no publisher named 'other': installed are toy"):
        registry.publisher("other")


def test_a_missing_package_is_one_line_with_the_command(plugin, tmp_path):
    """A publisher whose package is not installed names it, and the pip command, before anything is opened."""
    registry = load_plugins(plugin('("no_such_module_here", "no_such.child")'), entry_points=False)
    with pytest.raises(ConfigError) as error:
        check_publisher(registry, station(tmp_path, {"toy": {}}), "toy")
    assert str(error.value).endswith("not installed here: pip install 'edgead[toy]'")
    assert "no_such_module_here, no_such.child" in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_options_are_named(plugin, tmp_path):
    """Unknown keys and wrong types of a section are refused with their place; `publisher` names another kind."""
    registry = load_plugins(plugin(), entry_points=False)
    wrong = station(tmp_path, {"toy": {"depth": "1", "colour": 2}, "second": {"publisher": "toy", "depth": 3}})
    with pytest.raises(ConfigError, match=r"publishers\.toy\.depth: .*publishers\.toy\.colour: "):
        check_publisher(registry, wrong, "toy")
    assert check_publisher(registry, wrong, "second")[1].depth == 3
    with pytest.raises(ConfigError, match=r"publishers: third:.*found toy, second"):
        check_publisher(registry, wrong, "third")


def test_secrets_come_from_environment_or_file(tmp_path, monkeypatch):
    """A secret is read from the one place it names; a place that is not there, and two places, are refused."""
    monkeypatch.setenv("EDGEAD_TEST_SECRET", "hush")
    (tmp_path / "key").write_text("from file\n")
    assert Secret(env="EDGEAD_TEST_SECRET").read(tmp_path) == "hush"
    assert Secret(file="key").read(tmp_path) == "from file"
    for wrong in ({}, {"env": "A", "file": tmp_path / "key"}, {"env": "EDGEAD_NOT_SET"}, {"file": tmp_path / "none"}):
        with pytest.raises(ConfigError, match="expected a secret"):
            Secret(**wrong).read(tmp_path)


def test_what_was_handed_over_is_known_after_a_kill(tmp_path):
    """Every id written before a kill is known, a line cut off in the middle is not, and the file stays bounded."""
    path = tmp_path / "delivered"
    memory = Memory(path)
    for number in range(REMEMBERED + 10):
        memory.add(f"run-{number}")
    memory.close()
    with path.open("ab") as file:
        file.write(b"run-half")
    again = Memory(path)
    assert f"run-{REMEMBERED + 9}" in again
    assert "run-9" not in again
    assert "run-half" not in again
    again.add("run-half-2")
    again.close()
    assert "run-half-2" in Memory(path)
    assert len(path.read_text().splitlines()) == REMEMBERED


def test_the_checksum_is_of_the_content(tmp_path):
    """Two stations of one content have one checksum, another content another."""
    one = config_crc32(station(tmp_path, {"toy": {}}))
    assert one == config_crc32(station(tmp_path, {"toy": {}}))
    assert one != config_crc32(station(tmp_path, {"toy": {"depth": 2}}))


def until(reached):
    """Wait for a condition."""
    give_up = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_killed_publisher_is_started_again(plugin, tmp_path):
    """Killed, a publisher comes back; one that raises is tried again and its reason is told; all end together."""
    made = station(tmp_path, {"toy": {}, "deep": {"publisher": "toy", "depth": 2}})
    with Publishers(made, tmp_path, plugin()) as publishers:
        until(lambda: publishers.status()["toy"]["state"] == "ready")
        assert publishers.status()["toy"]["figures"] == {"depth": 1}
        first = publishers.status()["toy"]["pid"]
        os.kill(first, signal.SIGKILL)
        until(lambda: publishers.status()["toy"]["pid"] not in (first, None))
        until(lambda: publishers.status()["toy"]["state"] == "ready")
        assert publishers.status()["toy"]["restarts"] == 1
        until(lambda: "RuntimeError: too deep" in publishers.status()["deep"]["last_error"])
        last = publishers.status()["toy"]["pid"]
    until(lambda: not os.path.exists(f"/proc/{last}"))  # noqa: PTH110 - as plain as it gets


def test_publishers_need_deliveries(tmp_path):
    """A station file with publishers and without deliveries is refused."""
    with pytest.raises(ValueError, match="publishers are fed by the deliveries"):
        Station.model_validate(
            {
                "schema": "edgead.station/1",
                "station": "s",
                "cameras": {"top": {"product": "p"}},
                "publishers": {"mqtt": {}},
            }
        )
    assert station(tmp_path, {}).publishers == {}
