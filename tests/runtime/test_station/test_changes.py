"""The plan of a change: whole, in order, and with the effect that each key has."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from runtime.lane.assignment import assignments
from runtime.station.changes import EFFECTS, Change, Effect, effect_of, lanes_of, plan_changes
from runtime.station.config import Station

A, B, C = "a" * 64, "b" * 64, "c" * 64


def station(**keys: Any) -> Station:
    """Return a station with one camera, keys of it replaced where given."""
    values = {"schema": "edgead.station/1", "station": "line1", "cameras": {"top": {"product": "part"}}}
    return Station.model_validate(values | keys)


def camera(**keys: Any) -> dict[str, Any]:
    """Return a camera of product ``part``, keys replaced where given."""
    return {"product": "part", **keys}


def plan(wanted: Station, running: Station | None = None, active: dict | None = None):
    """Return the plan from ``running`` (the plain station) to ``wanted``, template ``A`` unless told otherwise."""
    before = running or station()
    digests = dict.fromkeys(lanes_of(before), A)
    return plan_changes(before, wanted, digests, dict.fromkeys(lanes_of(wanted), A) | (active or {}))


def keys_of(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every key a model has, "*" for a name of the integrator's choosing."""
    found = []
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        inner = _models_in(field.annotation)
        found += [key for each, named in inner for key in keys_of(each, (*here, "*") if named else here)] or [here]
    return found


def _models_in(annotation: Any, named: bool = False) -> list[tuple[type[BaseModel], bool]]:
    """Return the models an annotation holds, and whether they stand under a name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, named)]
    named = named or getattr(annotation, "__origin__", None) is dict
    return [pair for each in getattr(annotation, "__args__", ()) for pair in _models_in(each, named)]


@pytest.mark.parametrize("path", keys_of(Station), ids=".".join)
def test_no_key_is_forgotten(path):
    """Every key a station file can hold has an effect that somebody decided: add a new one to EFFECTS."""
    prefixes = {".".join(path[:length]) for length in range(1, len(path) + 1)}
    assert prefixes & EFFECTS.keys(), f"{'.'.join(path)} is not in runtime.station.changes.EFFECTS"


def test_an_unlisted_key_needs_a_restart():
    """A key nobody decided about asks for a restart, which is always right."""
    assert effect_of(("worker", "nosuch")) is Effect.RESTART
    assert effect_of(("cameras", "top", "nosuch", "deeper")) is Effect.RESTART


def test_nothing_to_do():
    """A station is no change of itself; the plan is false."""
    whole = station(cameras={"top": camera(), "side": camera(exposure=None)})
    same = plan(whole, whole)
    assert not same
    assert (same.changes, same.swapped, same.restart) == ((), (), ())


@pytest.mark.parametrize(
    ("keys", "effect", "swapped"),
    [
        ({"deadline_ms": 5}, Effect.HOST, ()),
        ({"product": "other"}, Effect.SWAP, (("top", ""),)),
        ({"detector": "other"}, Effect.SWAP, (("top", ""),)),
        ({"queue": 3}, Effect.SWAP, (("top", ""),)),
        ({"repeat_limit": None}, Effect.SWAP, (("top", ""),)),
        ({"exposure": {"contrast": 3}}, Effect.SWAP, (("top", ""),)),
        ({"exposure": None}, Effect.SWAP, (("top", ""),)),
    ],
)
def test_a_camera_key(keys, effect, swapped):
    """A camera's key is one change of that camera, and gives a worker a successor only where it must."""
    (key,) = keys
    made = plan(station(cameras={"top": camera(**keys)}))
    (change,) = made.changes
    assert (change.camera, change.recipe, change.effect) == ("top", "", effect)
    assert change.path[:3] == ("cameras", "top", key)
    assert (made.swapped, made.added, made.removed, made.restart) == (swapped, (), (), ())


def test_the_smallest_key_is_named():
    """One limit of the exposure check is one change with its own key, not the whole check."""
    (change,) = plan(station(cameras={"top": camera(exposure={"contrast": 3})})).changes
    assert change.sentence == (
        "cameras.top.exposure.contrast: 8 -> 3; a new worker is loaded beside the running one and takes over when it "
        "has proven itself"
    )


@pytest.mark.parametrize(
    ("keys", "restart"),
    [
        ({"station": "line2"}, ("station",)),
        ({"store": "elsewhere"}, ("store",)),
        ({"max_frame_bytes": 100}, ("max_frame_bytes",)),
        ({"frames": "tcp://*:1", "status": "tcp://*:2"}, ("frames", "status")),
        ({"deliveries": "tcp://*:3"}, ("deliveries",)),
        ({"ledger": None}, ("ledger",)),
        ({"ledger": {"evidence": {"ok_every": 1}}}, ("ledger.evidence.ok_every",)),
    ],
)
def test_keys_that_need_a_restart(keys, restart):
    """What is bound or opened once is named as needing a restart."""
    made = plan(station(**keys))
    assert made.restart == restart
    assert "needs a restart" in made.changes[0].sentence


def test_worker_and_publish_keys():
    """What every worker is told gives each a successor; what the host alone holds gives none."""
    two = {"top": camera(), "side": camera()}
    before = station(cameras=two)
    loud = plan(station(cameras=two, worker={"threads": 2}, publish={"preview": True}), before)
    assert loud.swapped == (("top", ""), ("side", ""))
    quiet = plan(station(cameras=two, worker={"hang_s": 3, "self_test_s": 0, "restart_budget": 1}), before)
    assert quiet.swapped == ()
    assert {change.effect for change in quiet.changes} == {Effect.HOST}


def test_cameras_come_and_go():
    """A new camera and one that is gone are one change each, whatever keys they have."""
    made = plan(station(cameras={"side": camera(), "back": camera(queue=2)}))
    assert (made.added, made.removed) == ((("side", ""), ("back", "")), (("top", ""),))
    assert [(change.key, change.effect) for change in made.changes] == [
        ("cameras.side", Effect.ADD),
        ("cameras.back", Effect.ADD),
        ("cameras.top", Effect.REMOVE),
    ]
    assert "cameras.top is removed" in made.changes[-1].sentence


def test_another_active_template():
    """A template activated in the store swaps its lane though the file is the same, with both ids in the sentence."""
    made = plan(station(), active={("top", ""): B})
    (change,) = made.changes
    assert (change.is_template, change.before, change.after) == (True, A, B)
    assert made.swapped == (("top", ""),)
    assert change.sentence.startswith("cameras.top.template: aaaaaaaaaaaa -> bbbbbbbbbbbb; ")


def test_as_json_is_whole():
    """The JSON of a plan has every change with its sentence, the keys that need a restart and the lanes."""
    made = plan(station(station="line2", cameras={"top": camera(deadline_ms=5)}))
    record = made.as_json()
    assert [(each["key"], each["from"], each["to"], each["effect"]) for each in record["changes"]] == [
        ("station", "line1", "line2", "restart"),
        ("cameras.top.deadline_ms", 1000, 5, "host"),
    ]
    assert [each["camera"] for each in record["changes"]] == [None, "top"]
    assert record["restart"] == ["station"]
    assert record["swapped"] == record["added"] == record["removed"] == []


# --- recipes ------------------------------------------------------------------------------------------------------


def recipe(product: str) -> dict[str, str]:
    """Return a recipe."""
    return {"product": product, "detector": "hetmm"}


def test_recipes_have_lanes_of_their_own():
    """A recipe that comes, goes or changes touches its own lane; a setting of the camera touches them all."""
    before = station(cameras={"top": camera(recipes={"x": recipe("px"), "y": recipe("py")})})
    assert list(lanes_of(before)) == [("top", ""), ("top", "x"), ("top", "y")]
    made = plan(station(cameras={"top": camera(recipes={"x": recipe("other"), "z": recipe("pz")})}), before)
    assert (made.swapped, made.added, made.removed) == ((("top", "x"),), (("top", "z"),), (("top", "y"),))
    assert [(change.key, change.recipe) for change in made.changes] == [
        ("cameras.top.recipes.x.product", "x"),
        ("cameras.top.recipes.z", "z"),
        ("cameras.top.recipes.y", "y"),
    ]
    shared = plan(station(cameras={"top": camera(queue=2, recipes={"x": recipe("px"), "y": recipe("py")})}), before)
    assert shared.swapped == tuple(lanes_of(before))


def test_a_recipes_template():
    """Another active template of a recipe's product swaps that recipe's lane only, even one called template."""
    same = station(cameras={"top": camera(recipes={"template": recipe("px")})})
    made = plan(same, same, {("top", "template"): C})
    assert [change.key for change in made.changes] == ["cameras.top.recipes.template.template"]
    assert made.swapped == (("top", "template"),)
    gone = plan(station(), same)
    assert not gone.changes[0].is_template


# --- any two stations -----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["top", "side", "back"])
CAMERAS = st.fixed_dictionaries(
    {"product": st.sampled_from(["part", "other"])},
    optional={
        "detector": st.sampled_from(["hetmm", "cpr"]),
        "deadline_ms": st.integers(1, 5),
        "queue": st.integers(1, 3),
        "repeat_limit": st.none() | st.integers(2, 3),
        "exposure": st.none() | st.fixed_dictionaries({}, optional={"contrast": st.integers(0, 2)}),
        "recipes": st.dictionaries(st.sampled_from(["x", "y", "template"]), st.just(recipe("px")), max_size=2),
    },
)
STATIONS = st.fixed_dictionaries(
    {"cameras": st.dictionaries(NAMES, CAMERAS, min_size=1, max_size=3)},
    optional={
        "station": st.sampled_from(["line1", "line2"]),
        "max_frame_bytes": st.integers(1, 2),
        "worker": st.fixed_dictionaries(
            {}, optional={"threads": st.sampled_from([0, 100, 101]), "hang_s": st.integers(1, 2)}
        ),
        "publish": st.fixed_dictionaries({}, optional={"preview": st.booleans()}),
        "ledger": st.none() | st.fixed_dictionaries({}, optional={"most_mb": st.integers(1, 2)}),
    },
).map(lambda keys: station(**keys))


def done(running: Station, changes: tuple[Change, ...]) -> Station:
    """Return the station that the changes to a station file make of another."""
    tree = copy.deepcopy(running.model_dump(mode="json", by_alias=True))
    for change in changes:
        if change.is_template:
            continue
        *parents, last = change.path
        place = tree
        for key in parents:
            place = place[key]
        if change.effect is Effect.REMOVE:
            del place[last]
        else:
            place[last] = change.after
    return Station.model_validate(tree)


@settings(deadline=None)  # a shared machine is no judge
@given(running=STATIONS, wanted=STATIONS, data=st.data())
def test_the_plan_is_whole(running, wanted, data):
    """Doing a plan's changes to any station gives the wanted one, and every lane it has or had is accounted for."""
    digests = st.sampled_from([A, B])
    before = {lane: data.draw(digests) for lane in lanes_of(running)}
    active = {lane: data.draw(digests) for lane in lanes_of(wanted)}
    made = plan_changes(running, wanted, before, active)
    assert done(running, made.changes) == wanted
    assert made == plan_changes(running, wanted, before, active)
    assert bool(made) is (running != wanted or any(before[lane] != active[lane] for lane in before))
    old, new = set(lanes_of(running)), set(lanes_of(wanted))
    assert set(made.added) == new - old
    assert set(made.removed) == old - new
    assert set(made.swapped) <= old & new
    moved = {
        lane for lane in old & new if before[lane] != active[lane] or lanes_of(running)[lane] != lanes_of(wanted)[lane]
    }
    assert moved <= set(made.swapped)
    for change in made.changes:
        assert "\n" not in change.sentence


def test_the_order_of_the_table_does_not_matter():
    """No key is listed so that a longer and a shorter entry disagree about it."""
    for key in EFFECTS:
        parts = key.split(".")
        shorter = [".".join(parts[:length]) for length in range(1, len(parts))]
        assert not EFFECTS.keys() & set(shorter), f"{key} and {shorter} overlap"


def _template(product: str, detector: str) -> Any:
    """Return what an assignment reads of a template."""
    return SimpleNamespace(digest=f"{product}/{detector}", manifest=SimpleNamespace(map_shape=(4, 4)))


@settings(deadline=None)  # a shared machine is no judge
@given(running=STATIONS, wanted=STATIONS)
def test_the_plan_is_what_the_host_does(running, wanted):
    """A lane is planned to be swapped exactly if its worker would be told something else at its start."""
    if running.max_frame_bytes != wanted.max_frame_bytes:
        wanted = wanted.model_copy(update={"max_frame_bytes": running.max_frame_bytes})  # refused as a whole: a restart
    found = []
    for each in (running, wanted):
        templates = {lane: _template(*work) for lane, work in lanes_of(each).items()}
        digests = {lane: template.digest for lane, template in templates.items()}
        setups = {lane: made.setup for lane, made in assignments(each, templates, ()).items()}
        found.append((digests, setups))
    (before, old), (after, new) = found
    made = plan_changes(running, wanted, before, after)
    assert set(made.swapped) == {lane for lane in old.keys() & new.keys() if old[lane] != new[lane]}


def test_the_page_names_every_key():
    """docs/changing.md names the keys of each effect in that effect's row."""
    page = (Path(__file__).parents[3] / "docs" / "changing.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    in_words = {"schema", "frames", "results", "status", "deliveries", "recipes"}  # the format; "addresses"; "a recipe"
    for key, effect in EFFECTS.items():
        name = key.replace(".*", "").split(".")[-1]
        grouped = key.startswith("worker.") and effect is Effect.HOST  # "times and budgets"
        named = "publish" if key.startswith("publish.") else name.removesuffix("_mb")
        assert grouped or name in in_words or f"`{named}`" in rows[effect.value], f"{key}: {effect}"
