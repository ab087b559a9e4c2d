"""The front door: the public names for plugin authors, and the ``edgead`` command that wires the rooms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.detector import Detector as Detector
    from runtime.detector import DetectorContext as DetectorContext
    from runtime.detector import DetectorResult as DetectorResult
    from runtime.detector import TemplateContent as TemplateContent
    from runtime.errors import ConfigError as ConfigError
    from runtime.errors import EdgeadError as EdgeadError
    from runtime.errors import PluginError as PluginError
    from runtime.errors import TemplateError as TemplateError
    from runtime.errors import WeightsError as WeightsError
    from runtime.errors import WireError as WireError
    from runtime.frame import Frame as Frame
    from runtime.hookspecs import hookimpl as hookimpl
    from runtime.inspection import ErrorWord as ErrorWord
    from runtime.inspection import Inspection as Inspection
    from runtime.inspection import Verdict as Verdict
    from runtime.template import Template as Template
    from runtime.weights import WeightFile as WeightFile
    from runtime.weights import digest_of, locate

    digest_of_weights = digest_of
    locate_weights = locate

__version__ = "0.1.0"

#: Public name -> "module:attribute". Resolved on first use (PEP 562): ``import edgead`` costs milliseconds, and
#: the host and the command line never pay for numpy, pydantic or torch they do not use.
_PUBLIC = {
    "ConfigError": "runtime.errors:ConfigError",
    "Detector": "runtime.detector:Detector",
    "DetectorContext": "runtime.detector:DetectorContext",
    "DetectorResult": "runtime.detector:DetectorResult",
    "EdgeadError": "runtime.errors:EdgeadError",
    "ErrorWord": "runtime.inspection:ErrorWord",
    "Frame": "runtime.frame:Frame",
    "Inspection": "runtime.inspection:Inspection",
    "PluginError": "runtime.errors:PluginError",
    "Template": "runtime.template:Template",
    "TemplateContent": "runtime.detector:TemplateContent",
    "TemplateError": "runtime.errors:TemplateError",
    "Verdict": "runtime.inspection:Verdict",
    "WeightFile": "runtime.weights:WeightFile",
    "WeightsError": "runtime.errors:WeightsError",
    "WireError": "runtime.errors:WireError",
    "digest_of_weights": "runtime.weights:digest_of",
    "hookimpl": "runtime.hookspecs:hookimpl",
    "locate_weights": "runtime.weights:locate",
}

__all__ = ["BUILTIN_PLUGINS", "__version__", *sorted(_PUBLIC)]  # noqa: PLE0604 - strings, built from the table

#: The plugins edgead ships, by module. The runtime learns them from here and knows none by name.
BUILTIN_PLUGINS = ("plugins.hetmm",)


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _PUBLIC[name].split(":")
    except KeyError:
        raise AttributeError(f"module 'edgead' has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), attribute)
