"""What a command makes of a host's answers: plan, refusal, every step of a swap, and a host that goes away."""

import threading
from pathlib import Path

import pytest

from runtime.client import application
from runtime.client.application import begin, follow, plan
from runtime.client.recipes import pick_recipe, recipes_of
from runtime.client.subscriber import ask_status
from runtime.errors import ConfigError, EdgeadError, StationError
from runtime.store import Store
from runtime.testing.nothing import Nothing
from runtime.testing.played_host import PlayedHost
from runtime.testing.station import PRODUCT, put_template, write_station

CAMERA = {"product": PRODUCT, "detector": "nothing"}


@pytest.fixture
def path(tmp_path):
    """Return a station file with one camera, whose template is active."""
    put_template(Store.create(tmp_path / "store"), Nothing(), 1.0)
    return write_station(tmp_path, {"top": CAMERA | {"recipes": {"a": CAMERA}}})


def edit(path: Path, old: str, new: str) -> None:
    """Replace text in a station file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def outcome(host: PlayedHost, path: Path, *, guarded: bool = False):
    """Apply and follow; return the outcome and every sentence that was told."""
    told: list[str] = []
    request = begin(host.address, path, who="me", why="because")
    return follow(host.address, request, told.append, guarded=guarded), told


def another_template(path: Path) -> str:
    """Activate another template of the station's product."""
    return put_template(Store(path.parent / "store"), Nothing(), 2.0)


def test_a_plan_changes_nothing(path):
    """The host's plan has every change with its sentence; asking for it begins nothing."""
    with PlayedHost(path) as host:
        assert plan(host.address, path)["changes"] == []
        edit(path, '"product": "part"', '"deadline_ms": 7, "product": "part"')
        # the recipe has no deadline of its own: take it out there again
        edit(path, '"a": {\n     "deadline_ms": 7, ', '"a": {\n     ')
        (change,) = plan(host.address, path)["changes"]
        assert (change["key"], change["from"], change["to"]) == ("cameras.top.deadline_ms", 1000, 7)
        assert {each["op"] for each in host.asked} == {"plan"}
        assert {each["file"] for each in host.asked} == {str(path)}


def test_keys_that_need_a_restart_are_named(path):
    """A plan with a key that only a restart brings is refused with that key's name, whatever else it holds."""
    with PlayedHost(path) as host:
        edit(path, '"station": "test"', '"station": "other"')
        with pytest.raises(ConfigError, match="station: a running host cannot change this; nothing was changed"):
            plan(host.address, path)


def test_an_invalid_file_is_the_hosts_to_refuse_too(path):
    """What the host says about a file it cannot read is the error."""
    with PlayedHost(path) as host:
        path.write_text("schema: 1\n")
        with pytest.raises(ConfigError, match=r"station.yaml:1: schema"):
            plan(host.address, path)
        with pytest.raises(EdgeadError, match=r"station.yaml:1: schema"):
            begin(host.address, path, who="me", why="")


def test_a_swap_is_followed_to_its_end(path):
    """Each step is told once; a swap whose guard still watches is done for who does not wait for the guard."""
    with PlayedHost(path, ("preparing", "preparing", "guarded", "guarded", "kept")) as host:
        new = another_template(path)
        done, told = outcome(host, path)
        assert (done.state, done.ok, done.why) == ("watched", True, ())
        assert {each["to"]["template"] for each in done.swaps} == {new}
        assert [sentence.split(": ")[0] for sentence in told] == ["camera top", "camera top recipe a"] * 2
        assert "inspects until it is ready" in told[0]
        assert "the guard watches" in told[-1]
        assert host.asked[-1] == {"op": "apply", "file": str(path), "who": "me", "why": "because"}


def test_the_guards_word_is_waited_for(path):
    """With ``guarded`` the outcome is what the guard says: kept, or taken back with the reason."""
    with PlayedHost(path, ("preparing", "guarded", "kept")) as host:
        another_template(path)
        done, told = outcome(host, path, guarded=True)
        assert (done.state, done.ok) == ("applied", True)
        assert "the guard found nothing" in told[-1]
    with PlayedHost(path, ("preparing", "guarded", "rolled_back"), why="12 of 20 parts NotOK") as host:
        another = Store(path.parent / "store")
        another.rollback(PRODUCT, "nothing", who="test")
        done, _ = outcome(host, path, guarded=True)
        assert (done.state, done.ok) == ("rolled_back", False)
        assert all("12 of 20 parts NotOK" in each for each in done.why)
        assert len(done.why) == 2


def test_a_refused_swap(path):
    """A refused swap names the camera, what was refused, what stays, and the host's reason."""
    why = "could not load: TemplateError: golden frames 0, 3 of 6 failed"
    with PlayedHost(path, ("preparing", "refused"), why=why) as host:
        new = another_template(path)
        done, _ = outcome(host, path)
        assert (done.state, done.ok) == ("refused", False)
        assert done.why[0].startswith(f"camera top: nothing 1 with template {new[:12]} refused, nothing 1 with")
        assert done.why[0].endswith(why)


def test_a_refused_request(path):
    """A request that ends before any swap begins is refused with the host's sentence, told as well."""
    with PlayedHost(path, fate="refused", why="recipe a is current") as host:
        another_template(path)
        done, told = outcome(host, path)
        assert (done.state, done.why, done.swaps) == ("refused", ("recipe a is current",), ())
        assert told == ["recipe a is current"]


def test_a_host_that_was_restarted(path):
    """Another host at the same address knows nothing of the request: said, not waited for."""
    with PlayedHost(path, ("preparing",)) as host:
        another_template(path)
        request = begin(host.address, path, who="me", why="")
        timer = threading.Timer(0.3, lambda: setattr(host, "run_id", "r2"))
        timer.start()
        with pytest.raises(StationError, match="the host was restarted"):
            follow(host.address, request, lambda _: None)
        timer.join()
        with pytest.raises(StationError, match="forgot a7"):
            follow(host.address, "a7", lambda _: None)


def test_a_host_that_goes_away(path, monkeypatch):
    """A host that falls silent while it is followed is given up; one that is not there is not waited for."""
    monkeypatch.setattr(application, "SILENCE_S", 0.0)
    monkeypatch.setattr(application, "ask_status", lambda address: ask_status(address, 0.2))
    with PlayedHost(path, ("preparing",)) as host:
        another_template(path)
        request = begin(host.address, path, who="me", why="")
    with pytest.raises(StationError, match="went away"):
        follow(host.address, request, lambda _: None)
    with pytest.raises(StationError, match="no station answers"):
        plan(host.address, path)


def test_recipes(path):
    """Recipes are listed with what they run and which is current; picking one names the cameras that have it."""
    with PlayedHost(path) as host:
        before = recipes_of(ask_status(host.address))
        assert [(each["recipe"], each["current"]) for each in before] == [("-", True), ("a", False)]
        assert {each["detector"] for each in before} == {"nothing"}
        assert pick_recipe(host.address, "a", None) == ["top"]
        assert [each["current"] for each in recipes_of(ask_status(host.address))] == [False, True]
        assert recipes_of({"cameras": {"top": {"product": "part"}}}) == []
