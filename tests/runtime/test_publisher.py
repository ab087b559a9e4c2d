"""Publishers around the host: options, secrets, what is missing, what is remembered, how they are started again."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from textwrap import dedent

import pytest

from runtime.errors import ConfigError
from runtime.publisher import Secret
from runtime.publishing.checksum import config_crc32
from runtime.publishing.memory import REMEMBERED, Memory
from runtime.publishing.process import check_publisher
from runtime.publishing.supervisor import Publishers
from runtime.registry import load_plugins
from runtime.station.config import Station

PLUGIN = """
    import time
    from edgead import Options, Publisher, hookimpl

    class ToyOptions(Options):
        depth: int = 1
        checksum: bool = False

    class Toy(Publisher):
        name, options_model = "toy", ToyOptions
        modules, requirement = {modules}, "edgead[toy]"

        def run(self, feed, options, context):
            context.report({{"depth": options.depth}})
            if options.depth > 1:
                raise RuntimeError("too deep")
            while not context.stopping.wait(0.05 if options.checksum else None):
                context.report({{"checksum": context.config_crc32}})

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


def test_an_applied_file_touches_the_changed_publisher_alone(plugin, tmp_path):
    """Added, changed and removed publishers are started, restarted and ended; another keeps its process."""
    builtins = plugin()
    with Publishers(station(tmp_path, {"toy": {}}), tmp_path, builtins) as publishers:

        def ready(*names):
            until(lambda: {name: each["state"] for name, each in publishers.status().items()}
                  == dict.fromkeys(names, "ready"))  # fmt: skip
            return {name: each["pid"] for name, each in publishers.status().items()}

        first = ready("toy")
        publishers.apply(station(tmp_path, {"toy": {}, "second": {"publisher": "toy"}}))
        second = ready("toy", "second")
        assert second["toy"] == first["toy"]
        publishers.apply(station(tmp_path, {"toy": {"depth": 0}, "second": {"publisher": "toy"}}))
        until(lambda: publishers.status()["toy"]["figures"] == {"depth": 0})
        third = ready("toy", "second")
        assert third["second"] == second["second"]
        assert third["toy"] != first["toy"]
        assert publishers.status()["toy"]["restarts"] == 0, "asked for, not a failure"
        publishers.apply(station(tmp_path, {}))
        until(lambda: publishers.status() == {})
        publishers.apply(station(tmp_path, {"toy": {}}))
        ready("toy")
    assert not any(os.path.exists(f"/proc/{pid}") for pid in {*second.values(), *third.values()})  # noqa: PTH110


def test_a_changed_setting_reaches_a_publisher_by_its_checksum(plugin, tmp_path):
    """A setting that is no publisher's business changes the checksum it shows, and its process stays."""
    before = station(tmp_path, {"toy": {"checksum": True}})
    after = before.model_copy(update={"parts_per_min": 60.0})
    with Publishers(before, tmp_path, plugin()) as publishers:
        until(lambda: publishers.status()["toy"]["figures"] == {"checksum": config_crc32(before)})
        pid = publishers.status()["toy"]["pid"]
        publishers.apply(after)
        until(lambda: publishers.status()["toy"]["figures"] == {"checksum": config_crc32(after)})
        assert publishers.status()["toy"]["pid"] == pid
    assert config_crc32(before) != config_crc32(after)


def test_a_station_file_of_any_size_reaches_a_publisher(plugin, tmp_path):
    """A publisher starts with a station file larger than one packet to its process."""
    long = {f"r{number}": {"publisher": "toy", "note": "x" * 900} for number in range(100)}
    big = station(tmp_path, {"toy": {}, "note": long})
    assert len(big.model_dump_json()) > 64 * 1024
    with Publishers(big, tmp_path, plugin()) as publishers:
        until(lambda: publishers.status()["toy"]["state"] == "ready")


def test_a_host_with_many_descriptors_keeps_its_publishers(plugin, tmp_path):
    """Publishers are heard and started again where a host has more than 1024 descriptors open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, 4096)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} descriptors, the limit here is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Publishers(station(tmp_path, {"toy": {}}), tmp_path, plugin()) as publishers:
            until(lambda: publishers.status()["toy"]["state"] == "ready")
            os.kill(publishers.status()["toy"]["pid"], signal.SIGKILL)
            until(lambda: publishers.status()["toy"]["restarts"] == 1)
            until(lambda: publishers.status()["toy"]["state"] == "ready")
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
