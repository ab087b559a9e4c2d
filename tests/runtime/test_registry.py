"""Plugins: what registers, what is broken, what collides; and that one bad plugin costs nobody else anything."""

import sys
from textwrap import dedent

import pytest

from edgead import BUILTIN_PLUGINS
from runtime.errors import ConfigError, PluginError
from runtime.registry import load_plugins
from runtime.weights import WeightFile

DETECTOR = """
    from typing import ClassVar
    from pydantic import BaseModel, ConfigDict
    from edgead import Detector, WeightFile, hookimpl

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

    class Toy(Detector):
        name, version, settings_model = "toy", "3", Settings
        def calibrate(self, references, settings, context): raise NotImplementedError
        def graph(self, content, frame_shape): raise NotImplementedError
        def bank(self, content): raise NotImplementedError
"""
REGISTERS = (
    DETECTOR
    + """
    @hookimpl
    def edgead_register_detectors(register):
        register("toy", Toy)
"""
)
WEIGHT = 'WeightFile(name="w", filename="w.pth", url="https://example.org/w", sha256="{}", licence="MIT")'


def weights(digest):
    """Return a plugin that registers one weight file with this digest."""
    return (
        DETECTOR
        + f"""
    @hookimpl
    def edgead_register_weights(register):
        register({WEIGHT.format(digest * 64)})
"""
    )


def protocol(name="toy-paper", maker="EvaluationProtocol"):
    """Return a plugin that registers one evaluation protocol for hetmm."""
    return f"""
    from edgead import {maker}, hookimpl

    @hookimpl
    def edgead_register_protocols(register):
        register({maker}(name={name!r}, detector="hetmm", source="a paper", published={{}}, plan=None))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one plugin module, as an installer would leave it."""
    names = []

    def install_plugin(name, source):
        folder = tmp_path / name
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}.py").write_text(dedent(source), encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[edgead]\nplug = {name}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        names.append(name)

    yield install_plugin
    for name in names:
        sys.modules.pop(name, None)


def load():
    """Load the built-in plugins and the installed ones."""
    return load_plugins(BUILTIN_PLUGINS)


def broken():
    """Return the errors of the plugins that could not be loaded; hetmm must have been."""
    registry = load()
    assert "hetmm" in registry.detectors
    return {each.distribution: each.error for each in registry.broken}


def test_the_builtin_plugins_load():
    """A fresh installation knows hetmm and its backbones' weights, and nothing is broken."""
    registry = load()
    assert registry.broken == []
    assert registry.detectors["hetmm"].distribution == "edgead (built in)"
    assert "efficientnet_lite0" in registry.weights
    assert registry.detector("hetmm").name == "hetmm"


def test_hook_register_detectors(install):
    """An installed distribution registers a detector by hook; edgead knows where it came from and makes it."""
    install("toys", REGISTERS)
    registry = load()
    assert registry.broken == []
    assert registry.detectors["toy"].distribution == "toys 1.0"
    assert registry.detector("toy").version == "3"
    assert registry.describe("toy") == {
        "name": "toy", "distribution": "toys 1.0", "plugin": "plug", "version": "3", "settings": []
    }  # fmt: skip


def test_hook_register_weights(install):
    """An installed distribution makes a weight file known by hook."""
    install("heavy", weights("0"))
    found = load().weights["w"]
    assert isinstance(found, WeightFile)
    assert (found.filename, found.sha256) == ("w.pth", "0" * 64)


def test_hook_register_protocols(install):
    """An installed distribution makes an evaluation protocol known by hook, beside the built-in one."""
    install("paper", protocol())
    registry = load()
    assert registry.broken == []
    assert registry.protocols.keys() >= {"hetmm-paper", "toy-paper"}
    assert registry.protocol("toy-paper").detector == "hetmm"
    with pytest.raises(ConfigError, match=r"named 'other': installed are cpr-.*, hetmm-paper, toy-paper"):
        registry.protocol("other")


def test_two_protocols_of_one_name_stop(install):
    """Two protocols of one name stop start-up, naming both distributions: figures must not depend on load order."""
    install("paper", protocol("hetmm-paper"))
    with pytest.raises(PluginError, match=r"paper 1\.0 registers protocol 'hetmm-paper', already taken by edgead"):
        load()


def test_hooks_without_arguments_are_called(install):
    """A hook that takes none of the arguments is called all the same, as pluggy allows."""
    install(
        "mute", DETECTOR + "\n    calls = []\n    @hookimpl\n    def edgead_register_detectors(): calls.append(1)\n"
    )
    assert load().broken == []
    assert sys.modules["mute"].calls == [1]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('no\\n  licence')", "RuntimeError: no licence"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def :", "SyntaxError"),
        (REGISTERS.replace("edgead_register_detectors", "edgead_register_detector"), "unknown hook"),
        (REGISTERS.replace("(register):", "(registry):"), "Argument(s) {'registry'} are declared"),
        (REGISTERS.replace('register("toy", Toy)', "raise ValueError"), "ValueError: no message"),
        (REGISTERS.replace('"toy", Toy)', '"Toy 1", Toy)'), "ValueError: expected a detector name"),
        (REGISTERS.replace('"toy", Toy)', '"toy", None)'), "TypeError: expected a factory"),
        (weights("0").replace("WeightFile(", "dict("), "AttributeError"),
        (weights("not hex"), "sha256"),
        (protocol("Toy Paper"), "ValueError: expected a protocol name"),
        (
            protocol().replace("register(Evaluation", "register(None or not Evaluation"),
            "TypeError: expected an edgead.Ev",
        ),
    ],
)
def test_a_broken_plugin_is_listed_and_costs_nobody_else(install, source, words):
    """Whatever is wrong with one plugin stands beside its name in one line, and every other plugin works."""
    install("bad", source)
    install("toys", REGISTERS)
    errors = broken()
    assert errors.keys() == {"bad 1.0"}
    assert words in errors["bad 1.0"]
    assert "\n" not in errors["bad 1.0"]
    assert load().detectors["toy"].distribution == "toys 1.0"


def test_a_plugin_that_fails_half_way_leaves_nothing(install):
    """A plugin that raises after its first registration registers nothing: half a plugin is no plugin."""
    install("half", REGISTERS + "        raise RuntimeError('half-way')\n")
    registry = load()
    assert "toy" not in registry.detectors
    assert [each.error for each in registry.broken] == ["RuntimeError: half-way"]


def test_two_distributions_with_one_name_stop(install):
    """Two detectors of one name stop start-up, naming both distributions: no station may run the other one."""
    install("alpha", REGISTERS)
    install("beta", REGISTERS)
    with pytest.raises(PluginError, match=r"beta 1\.0 registers detector 'toy', already taken by plug \(alpha 1\.0\)"):
        load()


def test_a_stranger_cannot_take_a_builtin_name(install):
    """A distribution that registers hetmm stops start-up, naming itself and the built-in one."""
    install("usurper", REGISTERS.replace('"toy", Toy)', '"hetmm", Toy)'))
    with pytest.raises(PluginError, match=r"usurper 1\.0 .*'hetmm', already taken by .*edgead \(built in\)"):
        load()


def test_a_name_registered_twice_by_one_plugin_stops(install):
    """A plugin that registers one name twice stops start-up too."""
    install("twice", REGISTERS + '        register("toy", Toy)\n')
    with pytest.raises(PluginError, match="already taken by itself"):
        load()


def test_weights_may_be_registered_twice_only_if_equal(install):
    """The same weight record from two distributions is one entry; another digest under its name stops start-up."""
    install("one", weights("0"))
    install("same", weights("0"))
    assert load().weights["w"].sha256 == "0" * 64
    install("tampered", weights("1"))
    with pytest.raises(PluginError, match=r"tampered 1\.0 registers weights 'w', already taken by (one|same) 1\.0"):
        load()


def test_weights_contradicting_themselves_stop(install):
    """One plugin with two records of one weight name stops start-up: the second does not silently win."""
    install("both", weights("0") + f"        register({WEIGHT.format('1' * 64)})\n")
    with pytest.raises(PluginError, match="already taken by itself"):
        load()


def test_an_unknown_detector_lists_what_there_is_and_what_is_broken(install):
    """A station file that names a detector nobody brings is told what there is, and which plugin failed to load."""
    install("bad", "raise RuntimeError('no licence')")
    words = r"no detector named 'toy': installed are cpr.*, hetmm, .*; .*\(bad 1\.0\).*no licence"
    with pytest.raises(ConfigError, match=words):
        load().detector("toy")


@pytest.mark.parametrize(
    ("replace", "by", "words"),
    [
        ('"toy", Toy)', '"toy", lambda: 1 / 0)', "making detector 'toy' raised ZeroDivisionError"),
        ('"toy", Toy)', '"toy", dict)', "expected a subclass of edgead.Detector"),
        ('"toy", Toy)', '"other", Toy)', "registered as 'other', but the detector calls itself 'toy'"),
        ("def bank", "def tank", "making detector 'toy' raised TypeError"),
        ("name, version, settings_model =", "name, revision, settings_model =", "has no attribute 'version'"),
        ('extra="forbid"', 'extra="ignore"', "extra='forbid'"),
        ('"3", Settings', '"3", dict', "expected a pydantic model"),
        ('"3", Settings', "3, Settings", "1 to 512 bytes as version of detector 'toy', found '3' (int)"),
        ('"3", Settings', '"", Settings', "1 to 512 bytes as version of detector 'toy', found ''"),
        ('"3", Settings', '"\u00e9" * 257, Settings', "1 to 512 bytes as version"),
        ('"3", Settings', '"\\ud800", Settings', "1 to 512 bytes as version"),
    ],
)
def test_a_detector_that_is_none_is_the_plugins_fault(install, replace, by, words):
    """A factory that raises, or makes what breaks the contract, is refused with the plugin's name; others work."""
    install("odd", REGISTERS.replace(replace, by))
    registry = load()
    [name] = registry.detectors.keys() - {"hetmm", "cpr", "cpr-fast", "cpr-faster", "prn", "mspba"}
    with pytest.raises(PluginError) as refusal:
        registry.detector(name)
    assert refusal.value.plugin == "plug"
    assert words in str(refusal.value)
    assert words in registry.describe(name)["error"]
    assert registry.detector("hetmm").name == "hetmm"
