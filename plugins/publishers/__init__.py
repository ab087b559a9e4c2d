"""The publishers we ship, written as a stranger would: Modbus TCP, MQTT with Sparkplug B, OPC UA, webhooks.

Each is an extra of the package (``pip install 'edgead[modbus]'``) and runs alone or with the others.
"""

from __future__ import annotations

from collections.abc import Callable

from edgead import Publisher, hookimpl


@hookimpl
def edgead_register_publishers(register: Callable[[str, Callable[[], Publisher]], None]) -> None:
    """Register them; their protocol libraries are imported when they run."""
    register("modbus", _modbus)
    register("mqtt", _mqtt)
    register("opcua", _opcua)
    register("sparkplug", _sparkplug)
    register("webhook", _webhook)


def _modbus() -> Publisher:
    from plugins.publishers.modbus.publisher import Modbus

    return Modbus()


def _mqtt() -> Publisher:
    from plugins.publishers.mqtt.publisher import Mqtt

    return Mqtt()


def _sparkplug() -> Publisher:
    from plugins.publishers.mqtt.sparkplug import Sparkplug

    return Sparkplug()


def _webhook() -> Publisher:
    from plugins.publishers.webhook import Webhook

    return Webhook()


def _opcua() -> Publisher:
    from plugins.publishers.opcua.publisher import OpcUa

    return OpcUa()
