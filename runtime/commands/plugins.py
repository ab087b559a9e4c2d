"""``edgead plugins``: what is installed, and where it came from. Checking one of them takes calibration."""

from __future__ import annotations

import typer

from runtime.commands.options import Json, plugins_of


def plugins(context: typer.Context, as_json: Json = False) -> None:
    """List detectors and publishers with the package each came from, and plugins that could not be loaded."""
    from runtime.terminal import print_json, show

    if context.invoked_subcommand is not None:
        return
    registry = plugins_of(context)
    detectors = [registry.describe(name) for name in sorted(registry.detectors)]
    publishers = [registry.describe_publisher(name) for name in sorted(registry.publishers)]
    broken = [{"plugin": b.plugin, "distribution": b.distribution, "error": b.error} for b in registry.broken]
    if as_json:
        print_json({"detectors": detectors, "publishers": publishers, "broken": broken})
        return
    show(detectors, False, ("name", "version", "distribution", "plugin"), "detectors")
    show(publishers, False, ("name", "distribution", "needs"), "publishers")
    broken += [each | {"plugin": each["name"]} for each in (*detectors, *publishers) if "error" in each]
    if broken:
        show(broken, False, ("plugin", "distribution", "error"), "broken")
