"""What a station file asks of a running host: read, checked and proven, without touching anything.

Done beside the host's loop (``runtime.errands``): proving a bank reads every byte of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError, TemplateError
from runtime.lane.assignment import Assignment, assignments, lanes_of
from runtime.station.changes import Plan, plan_changes
from runtime.station.config import Station, load_station
from runtime.store import Store
from runtime.store.template import Template

Key = tuple[str, str]


@dataclass(frozen=True)
class Wanted:
    """A checked station, what each of its lanes is to inspect with, and what that changes."""

    station: Station
    assignments: dict[Key, Assignment]
    plan: Plan

    def expect_no_restart(self, path: Path) -> Wanted:
        """Return this, or raise ``ConfigError`` where something in it needs a restart: then nothing of it is done."""
        if self.plan.restart:
            raise ConfigError(
                f"{path}: {', '.join(self.plan.restart)} cannot be changed while the station runs: change it back, "
                "or restart the host"
            )
        return self


def read_wanted(path: Path, running: Station, templates: Mapping[Key, str], builtins: tuple[str, ...]) -> Wanted:
    """Read the station file and prove every template that does not run yet; ``templates``: digests that do, by lane.

    Raises ``ConfigError`` for an invalid file and ``TemplateError`` for a template that is missing or damaged.
    """
    station = load_station(path)
    store = Store(station.store)
    active = active_templates(store, station, proven=frozenset(templates.values()))
    digests = {key: template.digest for key, template in active.items()}
    plan = plan_changes(running, station, templates, digests)
    return Wanted(station, assignments(station, active, builtins), plan)


def active_templates(store: Store, station: Station, proven: frozenset[str] = frozenset()) -> dict[Key, Template]:
    """Return the active template of every lane, by camera and recipe, every byte a station reads proven.

    ``proven``: digests that need no more. Raises ``TemplateError``: a worker could only fail on a damaged one.
    """
    found: dict[Key, Template] = {}
    checked = set(proven)
    for name, recipe, camera in lanes_of(station):
        template = found[name, recipe] = store.active(camera.product, camera.detector)
        if template.digest in checked:
            continue
        if problems := store.verify(template.digest, pool=False):
            raise TemplateError(
                f"{'; '.join(map(str, problems))}; roll back with `edgead templates rollback {camera.product}`"
            )
        checked.add(template.digest)
    return found
