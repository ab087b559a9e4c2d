"""What a plugin may tell edgead, and when it is asked. This file imports nothing of edgead at run time.

A plugin is a module (or object) named by an entry point in group ``edgead``. It registers factories by hook; the work
itself is method calls on the objects the factories make, so one broken plugin cannot silence the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.detector import Detector
    from runtime.evaluation_protocol import EvaluationProtocol
    from runtime.publisher import Publisher
    from runtime.weights import WeightFile

hookspec = pluggy.HookspecMarker("edgead")
hookimpl = pluggy.HookimplMarker("edgead")

#: The entry point group an installed distribution declares its plugin module in.
ENTRY_POINT_GROUP = "edgead"


@hookspec
def edgead_register_detectors(register: Callable[[str, Callable[[], Detector]], None]) -> None:
    """Call ``register(name, factory)`` once for each detector the plugin brings.

    Called once per process that loads plugins (commands, detector workers; never the host). ``factory`` is called when
    the detector is wanted and must be cheap: heavy imports belong inside the detector's methods. A name that is already
    taken stops start-up with both distributions named. Raising marks this plugin as broken and leaves the others alone.
    """


@hookspec
def edgead_register_weights(register: Callable[[WeightFile], None]) -> None:
    """Call ``register(weight_file)`` once for each weight file the plugin's detectors may ask for.

    Called with the detectors' hook; makes the file known to ``edgead weights list|add|fetch``. The same record
    registered twice is one entry; two different records of one name stop start-up. Raising marks this plugin as broken.
    """


@hookspec
def edgead_register_protocols(register: Callable[[EvaluationProtocol], None]) -> None:
    """Call ``register(protocol)`` once for each published evaluation protocol the plugin brings.

    Called with the detectors' hook; makes the protocol known to ``edgead evaluate --protocol``. Its detector may come
    from another plugin. A name that is already taken stops start-up with both distributions named. Raising marks this
    plugin as broken.
    """


@hookspec
def edgead_register_publishers(register: Callable[[str, Callable[[], Publisher]], None]) -> None:
    """Call ``register(name, factory)`` once for each publisher the plugin brings.

    Called once per process that loads plugins (commands, publishers' processes, detector workers; never the host).
    ``factory`` is called when the publisher is wanted and must be cheap: protocol libraries are imported inside
    ``Publisher.run``. A name that is already taken stops start-up with both distributions named. Raising marks this
    plugin as broken and leaves the others alone.
    """
