"""The front door: the public names for plugin authors, and the ``edgead`` command that wires the rooms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

    from calibration.synthetic.defects import DEFECT_RECIPES as DEFECT_RECIPES
    from calibration.synthetic.defects import DefectRecipe as DefectRecipe
    from calibration.synthetic.defects import PlantedDefect as PlantedDefect
    from calibration.synthetic.defects import SyntheticDefects as SyntheticDefects
    from calibration.synthetic.unseen import UNSEEN_KINDS as UNSEEN_KINDS
    from calibration.synthetic.unseen import draw_unseen as draw_unseen
    from runtime.checkpoint import Checkpoint as Checkpoint
    from runtime.client.triggers import TriggerClient as TriggerClient
    from runtime.delivery.client import Delivered as Delivered
    from runtime.delivery.client import subscribe as subscribe
    from runtime.detector import Detector as Detector
    from runtime.detector import DetectorContext as DetectorContext
    from runtime.detector import DetectorResult as DetectorResult
    from runtime.detector import MaskedFrame as MaskedFrame
    from runtime.detector import TemplateContent as TemplateContent
    from runtime.errors import ConfigError as ConfigError
    from runtime.errors import EdgeadError as EdgeadError
    from runtime.errors import PluginError as PluginError
    from runtime.errors import StationError as StationError
    from runtime.errors import TemplateError as TemplateError
    from runtime.errors import WeightsError as WeightsError
    from runtime.errors import WireError as WireError
    from runtime.evaluation_protocol import CategoryPlan as CategoryPlan
    from runtime.evaluation_protocol import EvaluationProtocol as EvaluationProtocol
    from runtime.evaluation_protocol import PublishedFigures as PublishedFigures
    from runtime.frame import Frame as Frame
    from runtime.hookspecs import hookimpl as hookimpl
    from runtime.inspection import ErrorWord as ErrorWord
    from runtime.inspection import Inspection as Inspection
    from runtime.inspection import Verdict as Verdict
    from runtime.publisher import Feed as Feed
    from runtime.publisher import Options as Options
    from runtime.publisher import Publisher as Publisher
    from runtime.publisher import PublisherContext as PublisherContext
    from runtime.publisher import Pulse as Pulse
    from runtime.publisher import Secret as Secret
    from runtime.result_fields import RESULT_FIELDS as RESULT_FIELDS
    from runtime.result_fields import ResultField as ResultField
    from runtime.result_fields import result_values as result_values
    from runtime.store.template import Template as Template
    from runtime.weights import WeightFile as WeightFile
    from runtime.weights import digest_of, locate
    from runtime.wire.messages import Receipt as Receipt

    digest_of_weights = digest_of
    locate_weights = locate

__version__ = "0.1.0"

#: Public name -> "module:attribute". Resolved on first use (PEP 562): ``import edgead`` costs milliseconds, and
#: the host and the command line never pay for numpy, pydantic or torch they do not use.
_PUBLIC = {
    "CategoryPlan": "runtime.evaluation_protocol:CategoryPlan",
    "Checkpoint": "runtime.checkpoint:Checkpoint",
    "ConfigError": "runtime.errors:ConfigError",
    "Delivered": "runtime.delivery.client:Delivered",
    "DEFECT_RECIPES": "calibration.synthetic.defects:DEFECT_RECIPES",
    "DefectRecipe": "calibration.synthetic.defects:DefectRecipe",
    "Detector": "runtime.detector:Detector",
    "DetectorContext": "runtime.detector:DetectorContext",
    "DetectorResult": "runtime.detector:DetectorResult",
    "EdgeadError": "runtime.errors:EdgeadError",
    "ErrorWord": "runtime.inspection:ErrorWord",
    "EvaluationProtocol": "runtime.evaluation_protocol:EvaluationProtocol",
    "Feed": "runtime.publisher:Feed",
    "Frame": "runtime.frame:Frame",
    "Inspection": "runtime.inspection:Inspection",
    "MaskedFrame": "runtime.detector:MaskedFrame",
    "Options": "runtime.publisher:Options",
    "PlantedDefect": "calibration.synthetic.defects:PlantedDefect",
    "PluginError": "runtime.errors:PluginError",
    "PublishedFigures": "runtime.evaluation_protocol:PublishedFigures",
    "Publisher": "runtime.publisher:Publisher",
    "PublisherContext": "runtime.publisher:PublisherContext",
    "Pulse": "runtime.publisher:Pulse",
    "RESULT_FIELDS": "runtime.result_fields:RESULT_FIELDS",
    "Receipt": "runtime.wire.messages:Receipt",
    "ResultField": "runtime.result_fields:ResultField",
    "Secret": "runtime.publisher:Secret",
    "StationError": "runtime.errors:StationError",
    "SyntheticDefects": "calibration.synthetic.defects:SyntheticDefects",
    "Template": "runtime.store.template:Template",
    "TemplateContent": "runtime.detector:TemplateContent",
    "TemplateError": "runtime.errors:TemplateError",
    "TriggerClient": "runtime.client.triggers:TriggerClient",
    "UNSEEN_KINDS": "calibration.synthetic.unseen:UNSEEN_KINDS",
    "Verdict": "runtime.inspection:Verdict",
    "WeightFile": "runtime.weights:WeightFile",
    "WeightsError": "runtime.errors:WeightsError",
    "WireError": "runtime.errors:WireError",
    "digest_of_weights": "runtime.weights:digest_of",
    "draw_unseen": "calibration.synthetic.unseen:draw_unseen",
    "hookimpl": "runtime.hookspecs:hookimpl",
    "locate_weights": "runtime.weights:locate",
    "result_values": "runtime.result_fields:result_values",
    "subscribe": "runtime.delivery.client:subscribe",
}

__all__ = ["BUILTIN_PLUGINS", "__version__", *sorted(_PUBLIC)]  # noqa: PLE0604 - strings, built from the table

#: The plugins edgead ships, by module. The runtime learns them from here and knows none by name.
BUILTIN_PLUGINS = ("plugins.hetmm", "plugins.cpr", "plugins.prn", "plugins.mspba", "plugins.publishers")


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _PUBLIC[name].split(":")
    except KeyError:
        raise AttributeError(f"module 'edgead' has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), attribute)


# --- the command line ---------------------------------------------------------------------------------------------


def command_line() -> typer.Typer:
    """Return the ``edgead`` command: every command of the rooms, in the order of ``--help``."""
    import typer

    from calibration import commands as learning
    from calibration.commands_build import build
    from calibration.commands_defects import app as defects
    from calibration.commands_evaluate import evaluate
    from calibration.commands_plugins import app as plugins
    from runtime.commands import ledger, machine, publish, sim, station, swap, templates, trigger, weights

    app = typer.Typer(
        name="edgead",
        help="Visual anomaly detection beside the line: calibrate on good parts, run a station, watch its verdicts.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        # What ``runtime.commands.options.plugins_of`` loads.
        context_settings={"obj": BUILTIN_PLUGINS},
    )
    app.callback()(machine.common)
    for command in (
        learning.demo, station.init, station.validate, learning.calibrate, learning.extend, evaluate,
        build, station.run, publish.publish, station.camera, trigger.trigger, station.watch, station.status,
        swap.apply, swap.use, swap.recipe, ledger.replay, machine.doctor, machine.bench,
    ):  # fmt: skip
        app.command()(command)
    app.add_typer(plugins, name="plugins")
    app.add_typer(defects, name="defects")
    app.add_typer(templates.app, name="templates")
    app.add_typer(weights.app, name="weights")
    app.add_typer(ledger.app, name="ledger")
    app.add_typer(sim.app, name="sim")
    return app


def main() -> None:
    """Run the command line. What goes wrong is one line on stderr and an exit code: see ``docs/commands.md``."""
    from functools import partial

    import typer

    from runtime.process_defaults import set_process_defaults
    from runtime.shell import run_command

    set_process_defaults()
    # typer may carry its own copy of click, so "wrong usage" has no name of its own to import.
    run_command(partial(command_line(), standalone_mode=False, prog_name="edgead"), typer.BadParameter.__bases__[0])


if __name__ == "__main__":
    main()
