"""What a worker inspects with: the engine that was built and proves itself, or eager with a reason, never neither."""

import pytest

from runtime.engines.settings import EngineSettings
from runtime.errors import EngineError, TemplateError


def test_eager_looks_at_no_cache(spot, shop):
    """An eager station creates no cache and says nothing about one."""
    chosen = shop.choose(shop.put(spot.content_of(2)), "eager")
    assert chosen.as_json() == {"backend": "eager", "precision": "fp32", "note": ""}
    assert not shop.cache.folder.exists()


@pytest.mark.parametrize("backend", ["inductor", "auto"])
def test_what_was_built_is_used(spot, shop, backend):
    """With an approved engine the eager graph is not even made, and the answers are the reference's."""
    template = shop.put(spot.content_of(2))
    shop.build(template)
    detector = spot.Spot()
    chosen = shop.choose(template, backend, detector=detector)
    assert chosen.as_json() == {"backend": "inductor", "precision": "fp32", "note": ""}
    assert detector.graphs == 0
    golden = template.golden()[0]
    assert chosen.engine.infer(golden.frame).score == pytest.approx(golden.score, rel=1e-5)
    assert chosen.proof.report.passed
    assert chosen.proof.kept is not None


def test_a_new_version_is_approved_by_its_worker(spot, shop):
    """A worker for an extended template finds the engine by its program, proves it, and notes that for the next."""
    shop.build(shop.put(spot.content_of(2)))
    template = shop.put(spot.content_of(3))
    detectors = [spot.Spot(), spot.Spot()]
    for detector in detectors:
        assert shop.choose(template, "inductor", detector=detector).backend == "inductor"
    assert [detector.graphs for detector in detectors] == [1, 0]  # the second one exports nothing
    assert shop.backend.compiled == 1


def test_auto_answers_eagerly_where_nothing_was_built(spot, shop):
    """Without an engine `auto` runs eager and tells what to do; nothing is compiled in a worker."""
    chosen = shop.choose(shop.put(spot.content_of(2)), "auto")
    assert chosen.backend == "eager"
    assert "edgead build" in chosen.note
    assert shop.backend.compiled == 0


def test_a_backend_by_name_is_that_or_nothing(spot, shop):
    """`inductor` without an engine is an error with what to do, not something slower than the station counts on."""
    with pytest.raises(EngineError, match="edgead build"):
        shop.choose(shop.put(spot.content_of(2)), "inductor")
    assert shop.backend.compiled == 0


def _flip(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_in_an_engine_is_never_run(spot, shop):
    """A damaged engine: `auto` answers eagerly and says so, `inductor` refuses; neither loads it."""
    template = shop.put(spot.content_of(2))
    (record,) = shop.build(template)
    _flip(shop.cache.folder / record.key / "model.so")
    chosen = shop.choose(template, "auto")
    assert chosen.backend == "eager"
    assert "damaged" in chosen.note
    with pytest.raises(EngineError, match="damaged"):
        shop.choose(template, "inductor")


def test_an_engine_that_answers_otherwise_is_not_used(spot, shop):
    """The golden frames are asked at every start: an engine gone wrong since is refused, or eager takes its place."""
    template = shop.put(spot.content_of(2))
    shop.build(template)
    shop.backend.wrong = 0.5
    with pytest.raises(TemplateError, match="golden frames 0, 1 of 2 failed"):
        shop.choose(template, "inductor")
    chosen = shop.choose(template, "auto")
    assert (chosen.backend, "golden frames 0, 1" in chosen.note) == ("eager", True)


def test_a_wrong_template_fails_eagerly_too(spot, shop):
    """Where eager does not give the golden answers either, nothing inspects."""
    template = shop.put(spot.content_of(2), spoil=0.5)
    with pytest.raises(TemplateError, match="failed"):
        shop.choose(template, "auto")


def test_other_threads_are_another_engine(spot, shop):
    """Code divided among one thread is not run where two are asked for."""
    template = shop.put(spot.content_of(2))
    shop.build(template)
    with pytest.raises(EngineError, match="2 threads"):
        shop.choose(template, "inductor", threads=2)


def test_what_a_worker_is_told_survives_the_link(cache):
    """The settings go into the worker's first record and come out the same."""
    settings = EngineSettings("auto", "bf16", cache.folder, 7, 4)
    assert EngineSettings.read(settings.as_json()) == settings
