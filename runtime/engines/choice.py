"""What a worker inspects with: the approved engine where the station file asks for one, else the eager graph.

A worker never compiles. For a template that was not approved yet, such as a new version of a running one, it exports
the program: where an engine for it is in the cache, the golden frames decide at once. A swap builds nothing. Where
several frames are to be answered at once, that has to prove itself, too, and to pay; else they go one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from runtime.detector import Detector, TemplateContent
from runtime.engines.approvals import approval, approval_name, read_approval, write_approval
from runtime.engines.backends import load
from runtime.engines.cache import EngineCache, Entry
from runtime.engines.company import bring_together, prove
from runtime.engines.engine import Engine
from runtime.engines.parity import GoldenReport
from runtime.engines.selftest import SelfTest, self_test
from runtime.engines.settings import EngineSettings
from runtime.engines.shapes import Shape, shapes_of
from runtime.engines.target import Target
from runtime.errors import EngineError, TemplateError
from runtime.store.template import Template

log = logging.getLogger("edgead.worker")


@dataclass(frozen=True)
class Chosen:
    """An engine that has answered every golden frame. ``note``: why it is not the compiled one, "" if it is as asked.

    ``backend`` and ``precision``: what runs. ``apart``: why frames go one by one where several at once were asked for.
    """

    engine: Engine
    proof: SelfTest
    backend: str
    precision: str
    note: str = ""
    apart: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what the worker tells the host."""
        note = "; ".join(filter(None, (self.note, self.apart)))
        return {"backend": self.backend, "precision": self.precision, "note": note}


def choose(
    detector: Detector,
    template: Template,
    wish: EngineSettings,
    device: str,
    threads: int,
    *,
    priority: str | None = None,
) -> Chosen:
    """Return the engine for a template, proven on its golden frames. ``priority`` as ``Engine`` takes it.

    Raises ``EngineError`` or ``TemplateError`` when the backend asked for cannot answer (``auto``: when eager cannot).
    """
    chosen = _for_one(detector, template, wish, device, threads, priority=priority)
    if wish.batch == 1:
        return chosen
    try:
        apart = _bring_together(chosen, template, wish, threads)
    except EngineError as error:
        apart = str(error)
    if apart:
        apart = f"frames go one by one: {apart}"
        log.warning("%s", apart)
    return replace(chosen, apart=apart)


def _for_one(
    detector: Detector, template: Template, wish: EngineSettings, device: str, threads: int, *, priority: str | None
) -> Chosen:
    """Return the engine for one frame at a time; see ``choose``."""
    content = template.content()
    note = ""
    if wish.is_compiled:
        target = wish.target(device, threads)
        try:
            return _compiled(detector, template, content, target, wish.cache(), priority=priority)
        except (EngineError, TemplateError) as error:
            if wish.backend != "auto":
                raise
            note = str(error)
            log.warning("inspecting eagerly, which is slower: %s", note)
    engine = Engine(detector, content, device=device, threads=threads, priority=priority)
    return Chosen(engine, self_test(engine, template), "eager", "fp32", note)


def _compiled(
    detector: Detector,
    template: Template,
    content: TemplateContent,
    target: Target,
    cache: EngineCache,
    *,
    priority: str | None,
) -> Chosen:
    shapes = shapes_of(template.golden())
    if not shapes:
        raise EngineError(f"template {template.digest[:12]}: expected golden frames to prove an engine, found none")
    search = _Search(detector, template, content, target, cache)
    found = {shape: search.find(shape) for shape in shapes}
    programs = {shape: load(each.entry, target) for shape, each in found.items()}
    engine = Engine(
        detector, content, device=target.device, threads=target.threads, programs=programs, priority=priority
    )
    proof = self_test(engine, template, target.precision)
    _approve(cache, found, proof.report, template)
    return Chosen(engine, proof, target.backend, target.precision)


def _bring_together(chosen: Chosen, template: Template, wish: EngineSettings, threads: int) -> str:
    """Let the engine answer several frames at once where that is proven and pays; return why not, or "".

    Raises ``EngineError`` where there is nothing to do it with, or a program fails.
    """
    engine, golden, cache = chosen.engine, template.golden(), wish.cache()
    shapes, found = shapes_of(golden), dict[Shape, _Found]()
    if not shapes:
        raise EngineError(f"template {template.digest[:12]}: expected golden frames to prove it, found none")
    if chosen.backend == "eager":
        programs = {shape: engine.program(shape) for shape in shapes}  # the graph takes any number of frames
    else:
        target = replace(wish, backend=chosen.backend).target(str(engine.device), threads)
        search = _Search(engine.detector, template, engine.content, target, cache, wish.batch)
        found = {shape: search.find(shape) for shape in shapes}
        programs = {shape: load(each.entry, target) for shape, each in found.items()}
    threshold = template.manifest.thresholds.image
    report = prove(engine, programs, wish.batch, golden, threshold=threshold, precision=chosen.precision)
    refused = "" if report.passed else f"{wish.batch} frames at once: {report.sentence()}"
    _approve(cache, found, report, template, refused)
    return refused or bring_together(engine, programs, wish.batch, golden)


@dataclass(frozen=True)
class _Found:
    """An engine in the cache; ``fresh``: the name to approve it by, "" where it is approved."""

    entry: Entry
    fresh: str


@dataclass(frozen=True)
class _Search:
    """A template's engines for ``batch`` frames at once, approved or not, in a cache."""

    detector: Detector
    template: Template
    content: TemplateContent
    target: Target
    cache: EngineCache
    batch: int = 1

    def find(self, shape: Shape) -> _Found:
        """Return the engine for frames of one shape; ``EngineError`` where there is none to use."""
        name = approval_name(self.detector, self.template.digest, shape, self.target, self.batch)
        approved = read_approval(self.cache, name)
        if approved and approved.get("refused"):
            raise EngineError(str(approved["refused"]))
        key = str(approved["key"]) if approved else self._exported_key(shape)
        entry = self.cache.find(key)
        if entry is None:
            frames = "frames" if self.batch == 1 else f"{self.batch} frames at once,"
            raise EngineError(
                f"template {self.template.digest[:12]}: expected a {self.target.backend} engine in "
                f"{self.target.precision} for {frames} of {' x '.join(map(str, shape))} and {self.target.threads} "
                f"threads in {self.cache.folder}, found none: build it with `edgead build STATION`"
            )
        return _Found(entry, "" if approved else name)

    def _exported_key(self, shape: Shape) -> str:
        from runtime.engines.entries import program_key  # with torch.export, which takes a second to import

        return program_key(self.detector, self.content, shape, self.target, self.batch)[0]


def _approve(
    cache: EngineCache, found: Mapping[Shape, _Found], report: GoldenReport, template: Template, refused: str = ""
) -> None:
    """Write down what the golden frames said of engines nobody had asked them about."""
    for each in found.values():
        if each.fresh:
            with suppress(EngineError):  # a cache on a read-only file system: exported again next time
                record = approval(each.entry.key, report.as_json(), template.digest, refused)
                write_approval(cache, each.fresh, record)
