"""`edgead apply`, `use` and `recipe` as a user meets them, beside a host that answers as the test says."""

import pytest

import edgead
from runtime.errors import ConfigError, EngineError
from runtime.local import free_addresses
from runtime.store import Store
from runtime.testing.faulty import Faulty
from runtime.testing.nothing import Nothing
from runtime.testing.played_host import PlayedHost
from runtime.testing.station import PRODUCT, put_template

TEXT = """schema: edgead.station/1
station: line1
frames: {frames}
results: {results}
status: {status}
# the only camera
cameras:
  top:
    product: part  # what comes along
    detector: nothing
    recipes: {{b: {{product: part, detector: nothing}}}}
"""
REFUSAL = "could not load: TemplateError: golden frames 0, 3 of 6 failed (fp32)"


@pytest.fixture
def station(tmp_path, monkeypatch):
    """Return a station file whose detectors are the tests' own, with an active template of each."""
    monkeypatch.setattr(edgead, "BUILTIN_PLUGINS", ("runtime.testing.nothing", "runtime.testing.faulty"))
    store = Store.create(tmp_path / "store")
    for detector in (Nothing(), Faulty()):
        put_template(store, detector, 1.0)
    path = tmp_path / "station.yaml"
    frames, results, status = free_addresses(3)
    path.write_text(TEXT.format(frames=frames, results=results, status=status))
    return path


def edit(path, old, new):
    """Replace text in the station file."""
    path.write_text(path.read_text().replace(old, new))


def ops(host):
    """Return what the host was asked to do."""
    return [each["op"] for each in host.asked]


def test_nothing_to_change(station, run):
    """A station that runs what its file says is left alone: exit code 0, and it is said."""
    with PlayedHost(station) as host:
        done = run("apply", station)
        assert (done.code, ops(host)) == (0, ["plan"])
        assert "nothing to change" in done.err
        record = run("apply", station, "--json").last
        assert (record["state"], record["changes"]) == ("unchanged", [])


def test_apply(station, run):
    """What changes is a table that fits 80 columns, each step a line, and the outcome exit code 0."""
    edit(station, "product: part  #", "deadline_ms: 5\n    product: part  #")
    with PlayedHost(station, ("preparing", "preparing", "guarded")) as host:
        put_template(Store(station.parent / "store"), Nothing(), 2.0)
        edit(station, "deadline_ms: 5", "deadline_ms: 7")
        done = run("apply", station)
        assert (done.code, ops(host)) == (0, ["plan", "apply"])
        lines = done.out.splitlines()
        assert max(map(len, lines)) <= 80
        assert any("cameras.top.deadline_ms" in line and "host" in line for line in lines)
        assert any("cameras.top.template" in line and "swap" in line for line in lines)
        assert "inspects until it is ready" in done.err
        assert "applied; the guard watches" in done.err


def test_dry_run(station, run):
    """--dry-run prints what would change and asks the host for nothing but its plan."""
    with PlayedHost(station) as host:
        edit(station, "    recipes", "    queue: 3\n    recipes")
        before = station.read_text()
        done = run("apply", station, "--dry-run", "--json")
        assert (done.code, done.last["state"], ops(host)) == (0, "planned", ["plan"])
        assert [each["key"] for each in done.last["changes"]] == ["cameras.top.queue"]
        assert done.last["swapped"] == [["top", ""], ["top", "b"]]
        assert station.read_text() == before


def test_engines_are_built_before_the_host_is_asked(station, run, monkeypatch):
    """What is missing is built beside the running host, of which nothing but its plan was asked until then."""
    with PlayedHost(station) as host:
        edit(station, "    recipes", "    queue: 3\n    recipes")

        def prepare(path, builtins, *, beside_host):
            assert (path, builtins, beside_host, ops(host)) == (station, edgead.BUILTIN_PLUGINS, True, ["plan"])
            return "engines are built"

        monkeypatch.setattr("runtime.engines.ahead.prepare", prepare)
        assert run("apply", station, "--dry-run").code == 0
        host.asked.clear()
        done = run("apply", station)
        assert (done.code, ops(host)) == (0, ["plan", "apply"])
        assert "engines are built" in done.err


def test_an_engine_that_cannot_be_built_touches_nothing(station, run, monkeypatch):
    """Exit code 9 and the reason; the host is not asked to change, and `use` takes its choice back."""

    def prepare(*_arguments, **_options):
        raise EngineError("could not be built")

    monkeypatch.setattr("runtime.engines.ahead.prepare", prepare)
    before = station.read_text()
    with PlayedHost(station) as host:
        done = run("use", "faulty", "--station", station)
        assert (done.code, ops(host)) == (9, ["plan"])
        assert "could not be built" in done.err
        assert "is as it was" in done.err
        assert station.read_text() == before


def test_no_wait(station, run):
    """--no-wait returns as soon as the host has taken the request."""
    with PlayedHost(station, ("preparing",)):
        edit(station, "    recipes", "    queue: 3\n    recipes")
        done = run("apply", station, "--no-wait", "--json")
        assert (done.code, done.last["state"]) == (0, "accepted")
        assert "edgead status" in done.err


@pytest.mark.parametrize(("script", "state"), [(("preparing", "refused"), "refused"),
                                               (("preparing", "guarded", "rolled_back"), "rolled_back")])  # fmt: skip
def test_refused_or_taken_back(script, state, station, run):
    """A swap that is refused or taken back ends with 1 and the host's sentence."""
    with PlayedHost(station, script, why=REFUSAL):
        edit(station, "    recipes", "    queue: 3\n    recipes")
        done = run("apply", station, "--guard", "--json")
        assert (done.code, done.last["state"]) == (1, state)
        assert REFUSAL in done.last["why"][0]
        assert REFUSAL in done.err
        assert "Traceback" not in done.err


def test_what_needs_a_restart_is_refused(station, run):
    """A key that needs a restart ends with 2 and its name; the host is asked for nothing."""
    with PlayedHost(station) as host:
        edit(station, "station: line1", "station: line2\nmax_frame_bytes: 1000")
        done = run("apply", station)
        assert (done.code, ops(host)) == (2, ["plan"])
        assert "station, max_frame_bytes: a running host cannot change this" in done.err


@pytest.mark.parametrize(("old", "new", "word"), [
    ("    detector: nothing\n", "    detector: nothing\n    shutter: 3\n", "shutter: unknown key"),
    ("    detector: nothing\n", "    detector: nosuch\n", "nosuch"),
    ("product: part  #", "product: other  #", "other"),
])  # fmt: skip
def test_an_invalid_file_is_refused(old, new, word, station, run):
    """A file with a fault, a detector nobody brings or a product without a template ends with 2, nothing touched."""
    with PlayedHost(station) as host:
        edit(station, old, new)
        done = run("apply", station)
        assert (done.code, "apply" in ops(host)) == (2, False)
        assert word in done.err


def test_no_host(station, run):
    """Without a host apply and recipe end with 7 and a hint."""
    for command in (("apply", station), ("recipe", "--station", station)):
        done = run(*command)
        assert done.code == 7
        assert "edgead run" in done.err


# --- use ----------------------------------------------------------------------------------------------------------


def test_use_a_detector(station, run):
    """`use DETECTOR` writes the detector into the file, every comment kept, and applies it."""
    before = station.read_text()
    with PlayedHost(station) as host:
        done = run("use", "faulty", "--station", station, "--json")
        assert (done.code, done.last["state"], ops(host)) == (0, "applied", ["plan", "apply"])
    assert station.read_text() == before.replace("    detector: nothing", "    detector: faulty")


def test_a_refused_detector_is_taken_back(station, run):
    """A detector the host refuses leaves the station file as it was, and ends with 1 and the host's sentence."""
    before = station.read_text()
    with PlayedHost(station, ("preparing", "refused"), why=REFUSAL):
        done = run("use", "faulty", "--station", station)
    assert done.code == 1
    assert REFUSAL in done.err
    assert "is as it was" in done.err
    assert station.read_text() == before


def test_an_edit_that_cannot_be_applied_is_taken_back(station, run):
    """Another edit in the file that needs a restart refuses the detector too, which is taken back; the other stays."""
    with PlayedHost(station):
        edit(station, "station: line1", "station: line2")
        before = station.read_text()
        done = run("use", "faulty", "--station", station)
    assert done.code == 2
    assert "a running host cannot change this" in done.err
    assert station.read_text() == before


def test_use_a_template(station, run):
    """`use TEMPLATE` activates it in the store and applies; refused, the one before is active again."""
    store = Store(station.parent / "store")
    old = store.active(PRODUCT, "nothing").digest
    new = put_template(store, Nothing(), 2.0)
    store.activate(old, who="test")
    with PlayedHost(station, ("preparing", "refused"), why=REFUSAL):
        done = run("use", new[:12], "--station", station, "--who", "me")
        assert done.code == 1
        assert f"template {old[:12]} is active again" in done.err
        assert store.active(PRODUCT, "nothing").digest == old
    with PlayedHost(station) as host:
        done = run("use", new[:12], "--station", station, "--who", "me", "--json")
        assert (done.code, done.last["state"], ops(host)) == (0, "applied", ["plan", "apply"])
        assert {each["to"]["template"] for each in done.last["swaps"]} == {new}
    assert store.active(PRODUCT, "nothing").digest == new


def test_use_without_a_host(station, run):
    """Without a host the change is made, and it is said that it takes effect at the next start."""
    done = run("use", "faulty", "--station", station, "--json")
    assert (done.code, done.last["state"], done.last["changed"]) == (0, "next_start", True)
    assert "takes effect when the station starts" in done.err
    assert "    detector: faulty" in station.read_text()


def test_use_what_could_not_run(station, run, tmp_path):
    """A detector without an active template of the product is refused before anything is edited."""
    Store.create(tmp_path / "empty")
    edit(station, "station: line1", f"station: line1\nstore: {tmp_path / 'empty'}")
    before = station.read_text()
    done = run("use", "faulty", "--station", station)
    assert done.code == 4
    assert "edgead calibrate" in done.err
    assert station.read_text() == before
    assert run("use", "nosuch", "--station", station).code == ConfigError.exit_code


# --- recipe ---------------------------------------------------------------------------------------------------------


def test_recipe(station, run):
    """`recipe` lists them within 80 columns, picks one for the cameras that have it, and goes back with --own."""
    with PlayedHost(station) as host:
        listed = run("recipe", "--station", station)
        assert listed.code == 0
        assert max(map(len, listed.out.splitlines())) <= 80
        done = run("recipe", "b", "--station", station, "--json")
        assert [(each["recipe"], each["current"]) for each in done.last] == [("-", False), ("b", True)]
        done = run("recipe", "--own", "--station", station, "--json")
        assert [each["current"] for each in done.last] == [True, False]
        assert host.asked[-1] == {"op": "recipe", "camera": None, "recipe": ""}


def test_status_shows_recipes_and_swaps(station, run):
    """`status` has a table of recipes and one of swaps, with the reason of a refused one, within 80 columns."""
    with PlayedHost(station, ("preparing", "refused"), why=REFUSAL):
        edit(station, "    recipes", "    queue: 3\n    recipes")
        run("apply", station)
        done = run("status", "--station", station)
    assert max(map(len, done.out.splitlines())) <= 80
    assert "recipes" in done.out
    assert "swaps" in done.out
    assert f"s2 refused: {REFUSAL}" in done.err
