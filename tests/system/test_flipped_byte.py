"""One flipped bit in anything a verdict rests on is named and refused, and a running station goes on without it."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.detector import DetectorContext
from runtime.engines.cache import EngineCache
from runtime.errors import EngineError, LedgerError, TemplateError
from runtime.host.loop import Host
from runtime.inspection import Verdict
from runtime.ledger import Reader, check, evidence
from runtime.local import edgead_command
from runtime.station.config import load_station
from runtime.store import Store
from runtime.store.manifest import DetectorIdentity, Thresholds
from runtime.store.template import GoldenFrame
from runtime.testing.faulty import Faulty, right_answer
from runtime.testing.station import PRODUCT, local_station, write_station

pytestmark = pytest.mark.system
FAULTY = ("runtime.testing.faulty",)
#: Of one byte of a file: how far along it lies, and which of its bits.
SPOTS = {"where": st.floats(0, 1, exclude_max=True), "bit": st.integers(0, 7)}
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PARTS = ("manifest", "bank", "golden")


@contextmanager
def flipped(path, where, bit):
    """Have one bit of a file flipped for the block; ``where``: 0 its first byte, almost 1 its last."""
    sound = path.read_bytes()
    mode = path.stat().st_mode
    damaged = bytearray(sound)
    damaged[int(where * len(sound))] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(sound)
        path.chmod(mode)


def put(store, number):
    """Store a template of the detector the stations here run, with a golden frame, and return its id."""
    frame = np.random.default_rng(number).integers(0, 200, (32, 48, 3), dtype=np.uint8)
    content = Faulty().calibrate([], Faulty.settings_model(), DetectorContext())
    return store.put_template(
        product=PRODUCT,
        detector=DetectorIdentity(name="faulty", version="1", distribution="edgead"),
        settings=content.settings,
        bank=content.tensors,
        capacity=content.capacity,
        valid=content.valid,
        map_shape=content.map_shape,
        thresholds=Thresholds(image=0.5, pixel=None, rule="fixed", target=None, bound=None, held_out=0),
        golden=[GoldenFrame(frame, *right_answer(frame))],
        who="test",
    ).digest


def file_of(store, digest, part):
    """Return the file of a part of a template."""
    manifest = store.template(digest).manifest
    named = {"manifest": digest, "bank": manifest.bank.object, "golden": manifest.golden.object}
    return store._objects.path(named[part])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a station file, its store, and two templates of it, the second one active."""
    folder = tmp_path_factory.mktemp("station")
    store = Store.create(folder / "store")
    good, bad = put(store, 1), put(store, 2)
    store.activate(good, who="test")
    store.activate(bad, who="test")
    camera = {"product": PRODUCT, "detector": "faulty", "exposure": None, "repeat_limit": None}
    return write_station(folder, {"top": camera}, max_frame_bytes=1024 * 1024), store, good, bad


@pytest.mark.parametrize("part", PARTS)
@given(**SPOTS)
@SETTINGS
def test_a_flipped_bit_of_a_template(prepared, part, where, bit):
    """Wherever it lies, the store names the template and its file, refuses to activate it, and no host starts on it."""
    station, store, good, bad = prepared
    path = file_of(store, bad, part)
    hit = {bad, good} if path == file_of(store, good, part) else {bad}  # a bank that both have is one object
    with flipped(path, where, bit):
        (problem,) = store.verify()
        assert (problem.path, set(problem.templates)) == (str(path.relative_to(store.root)), hit)
        with pytest.raises(TemplateError):
            store.activate(bad, who="test")
        with pytest.raises(TemplateError, match="expected"):
            Host(load_station(station), FAULTY)
    assert store.verify() == []
    assert store.active(PRODUCT, "faulty").digest == bad


@given(**SPOTS)
@SETTINGS
def test_a_flipped_bit_of_evidence(tmp_path_factory, where, bit):
    """Wherever it lies, in frame, map or header, the check names the file and reading refuses it."""
    folder = tmp_path_factory.mktemp("record")
    kept = evidence.write(folder, 1, Verdict.NOT_OK, {"header": b"h" * 90, "frame": bytes(1536), "map": bytes(288)})
    path = evidence.path_of(folder, 1)
    with flipped(path, where, bit):
        assert str(path) in evidence.damage(folder, kept)
        with pytest.raises(LedgerError, match="was changed"):
            evidence.read(folder, kept)
    assert evidence.damage(folder, kept) == ""


@given(**SPOTS)
@SETTINGS
def test_a_flipped_bit_of_a_compiled_engine(tmp_path_factory, where, bit):
    """Wherever it lies, the engine is not loaded, and the error names its file."""
    cache = EngineCache(tmp_path_factory.mktemp("engines"), 1 << 30)
    cache.folder.chmod(0o700)
    key = "a" * 64
    with cache.builder(key) as building:
        (building / "model.so").write_bytes(np.random.default_rng(0).bytes(3000))
        entry = cache.publish(key, building, {"made": "for a test"})
    with flipped(entry.folder / "model.so", where, bit), pytest.raises(EngineError, match=r"model\.so"):
        cache.find(key)
    assert cache.find(key) is not None


def test_a_station_goes_on_while_everything_it_stands_on_is_damaged(prepared, picture):
    """With both templates and its evidence damaged it answers as before, and the damage is reported."""
    path, store, good, bad = prepared
    with local_station(path, FAULTY) as running, running.camera() as camera:
        assert camera.answer(picture(1)).verdict is Verdict.OK
        assert camera.answer(np.full((20, 20), 220, np.uint8)).verdict is Verdict.NOT_OK
        settings_of = load_station(path).ledger
        running.wait(lambda status: status["ledger"]["evidence_bytes"] > 0)
        kept = evidence.path_of(settings_of.evidence_folder, 2)
        files = {file_of(store, digest, part) for digest in (good, bad) for part in PARTS} | {kept}
        with ExitStack() as stack:
            for number, file in enumerate(sorted(files)):
                stack.enter_context(flipped(file, 0.5, number % 8))
            for number in range(2, 30):
                camera.send(picture(number * 8))
                receipt = camera.receipt()
                score = right_answer(picture(number * 8))[1]
                assert receipt.verdict is (Verdict.NOT_OK if score > 0.5 else Verdict.OK)
            assert running.status()["cameras"]["top"]["worker"] == "ready"
            command = edgead_command("templates", "activate", good, "--store", str(store.root))
            refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert (refused.returncode, good[:12] in refused.stderr) == (TemplateError.exit_code, True)
            assert camera.answer(picture(3)).verdict is Verdict.OK
            problems = check(settings_of.file, folder=settings_of.evidence_folder)
            assert [(each.kind, str(kept) in each.what) for each in problems] == [("evidence", True)]
            with Reader(settings_of.file) as reader, pytest.raises(LedgerError, match="was changed"):
                evidence.read(settings_of.evidence_folder, reader.evidence(2))
