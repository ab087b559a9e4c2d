"""Which weight file a template was made with, and whether this machine has the same one."""

from __future__ import annotations

from collections.abc import Mapping

from edgead import TemplateError, digest_of_weights
from plugins.backbones.registry import backbone_of


def weights_of(backbone: str) -> dict[str, str]:
    """Return the weight file of a backbone as a template names it: name -> sha256 of the file here."""
    weights = backbone_of(backbone).weights
    return {weights.name: digest_of_weights(weights)}


def check_weights(detector: str, backbone: str, made_with: Mapping[str, str]) -> None:
    """Refuse to compare features of one network with a bank made by another; raises ``TemplateError``.

    ``made_with``: the template's ``weights``.
    """
    for name, found in weights_of(backbone).items():
        if made_with.get(name) != found:
            raise TemplateError(
                f"{detector}: the template was made with {name} weights {made_with.get(name)}, "
                f"this machine has {found}: calibrate again here"
            )
