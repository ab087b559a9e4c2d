"""Moving an active ref: prove the template, log the move, then move the ref, in that order.

The log is synced first, so that a rollback always knows its way. Called by the holder of the writer lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import TemplateError
from runtime.store import integrity, reflog
from runtime.store.objects import Objects
from runtime.store.refs import Refs, read_ref
from runtime.store.template import Template


@dataclass(frozen=True)
class Activation:
    """What an activation or rollback did. ``old`` is None where nothing was active; not ``changed``: it already ran."""

    product: str
    detector: str
    old: str | None
    new: str
    changed: bool


class Switch:
    """The active refs of one store, with their logs."""

    def __init__(self, root: Path, objects: Objects, refs: Refs) -> None:
        self._root = root
        self._objects = objects
        self._refs = refs

    def log_path(self, product: str, detector: str) -> Path:
        """Return the ref log of a product and detector. Raises ``TemplateError`` for a name that is no slug."""
        active = self._refs.active_path(product, detector)
        return self._root / "log" / active.parent.name / f"{active.name}.jsonl"

    def move(self, template: Template, action: reflog.Action, who: str, why: str) -> Activation:
        """Make ``template`` the active one. On ``TemplateError`` the old one still is."""
        if problems := integrity.check_template(self._objects, template.digest):
            raise TemplateError(integrity.refusal(action, template.digest, problems))
        product, detector, new = template.manifest.product, template.manifest.detector.name, template.digest
        log_path = self.log_path(product, detector)
        ref = self._sound(product, detector)
        old = ref or self._newest(reflog.read_log(log_path), product, detector)
        if old != new:
            reflog.append(log_path, action=action, who=who, old=old, new=new, why=why)
        if ref != new:
            self._refs.activate(product, detector, new)
        return Activation(product, detector, old, new, changed=ref != new)

    def before(self, product: str, detector: str) -> str:
        """Return the template a rollback goes back to. Raises ``TemplateError`` when there is none."""
        log = reflog.read_log(self.log_path(product, detector))
        active = self._sound(product, detector) or self._newest(log, product, detector)
        stack = reflog.replay(log, active).stack
        if len(stack) < 2:  # noqa: PLR2004 -- the present one and the one before
            raise TemplateError(
                f"expected a template that was active before for {product}/{detector}, found none in the ref log; "
                "activate one by id with 'edgead templates activate'"
            )
        return stack[-2]

    def _sound(self, product: str, detector: str) -> str | None:
        """Return the active digest, None if there is none, or the ref is damaged or dangling."""
        try:
            digest = read_ref(self._refs.active_path(product, detector))
        except TemplateError:
            return None
        return digest if (product, digest) in self._refs.listed() else None

    def _newest(self, log: reflog.RefLog, product: str, detector: str) -> str | None:
        """Return what was active when the ref is no help: a damaged ref did move, a missing one never did."""
        if not log.moves or not self._refs.active_path(product, detector).exists():
            return None
        return log.moves[-1].new
