"""What a worker inspects with: the approved engine where the station file asks for one, else the eager graph.

A worker never compiles. For a template that was not approved yet, such as a new version of a running one, it exports
the program: where an engine for it is in the cache, the golden frames decide at once. A swap builds nothing.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runtime.detector import Detector, TemplateContent
from runtime.engines.approvals import approval_name, read_approval, write_approval
from runtime.engines.backends import load
from runtime.engines.cache import EngineCache
from runtime.engines.engine import Engine
from runtime.engines.program import Program
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

    ``backend`` and ``precision``: what runs.
    """

    engine: Engine
    proof: SelfTest
    backend: str
    precision: str
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what the worker tells the host."""
        return {"backend": self.backend, "precision": self.precision, "note": self.note}


def choose(detector: Detector, template: Template, wish: EngineSettings, device: str, threads: int) -> Chosen:
    """Return the engine for a template, proven on its golden frames.

    Raises ``EngineError`` or ``TemplateError`` when the backend asked for cannot answer (``auto``: when eager cannot).
    """
    content = template.content()
    note = ""
    if wish.is_compiled:
        target = wish.target(device, threads)
        try:
            return _compiled(detector, template, content, target, wish.cache())
        except (EngineError, TemplateError) as error:
            if wish.backend != "auto":
                raise
            note = str(error)
            log.warning("inspecting eagerly, which is slower: %s", note)
    engine = Engine(detector, content, device=device, threads=threads)
    return Chosen(engine, self_test(engine, template), "eager", "fp32", note)


def _compiled(
    detector: Detector, template: Template, content: TemplateContent, target: Target, cache: EngineCache
) -> Chosen:
    shapes = shapes_of(template.golden())
    if not shapes:
        raise EngineError(f"template {template.digest[:12]}: expected golden frames to prove an engine, found none")
    names = {shape: approval_name(detector, template.digest, shape, target) for shape in shapes}
    keys: dict[Shape, str] = {}
    programs: dict[Shape, Program] = {}
    fresh = []
    for shape in shapes:
        approved = read_approval(cache, names[shape])
        keys[shape] = str(approved["key"]) if approved else _exported_key(detector, content, shape, target)
        entry = cache.find(keys[shape])
        if entry is None:
            raise EngineError(
                f"template {template.digest[:12]}: expected a {target.backend} engine in {target.precision} for frames "
                f"of {' x '.join(map(str, shape))} and {target.threads} threads in {cache.folder}, found none: build "
                "it with `edgead build STATION`"
            )
        programs[shape] = load(entry, target)
        if approved is None:
            fresh.append(shape)
    engine = Engine(detector, content, device=target.device, threads=target.threads, programs=programs)
    proof = self_test(engine, template, target.precision)
    for shape in fresh:
        with suppress(EngineError):  # a cache on a read-only file system: exported again next time
            write_approval(cache, names[shape], {"key": keys[shape], "parity": proof.report.as_json()})
    return Chosen(engine, proof, target.backend, target.precision)


def _exported_key(detector: Detector, content: TemplateContent, shape: Shape, target: Target) -> str:
    from runtime.engines.build import program_key  # with torch.export, which takes a second to import

    return program_key(detector, content, shape, target)[0]
