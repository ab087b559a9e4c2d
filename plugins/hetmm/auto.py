"""Choosing windows, mixing shares and layer weights from good frames alone (specification, section 9.2: AUTO).

Every probe is matched against all sheets but its own. One band of the largest window contains every smaller one, so all
window sizes cost one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from plugins.hetmm.leaving import without
from plugins.hetmm.settings import HetmmSettings, table_row
from plugins.matching import MutualMatch, backward_of, forward_of, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

#: Largest half-widths tried, finest layer first (the windows of D0).
MAX_HALF = (6, 4, 3)
#: Fewer references than this say too little: the default table is used.
FEWEST_REFERENCES = 8
#: Probes are spread evenly over the references; more would not change a 10 % rule.
MOST_PROBES = 40
#: A window that lowers the residual of good frames by less than this share is not worth having.
_NO_GAIN = 0.02
_FORWARD_LEFT, _BACKWARD_LEFT = 0.10, 0.50


@dataclass(frozen=True)
class Residuals:
    """How far good frames are from each other: mean over probes of the 99.5 percentile of the distance.

    ``ahead`` and ``back``: forward and backward distance, one value per half-width 0, 1, .. in feature pixels.
    """

    ahead: list[float]
    back: list[float]


def choose(
    settings: HetmmSettings, sheets: list[Tensor], progress: Callable[[int, int, str], None]
) -> tuple[HetmmSettings, dict[str, Any]]:
    """Return settings with every name resolved, and what was measured (a JSON object).

    ``sheets``: per layer float32 [N, C, H, W] unit vectors. What is chosen rests on what was given: shares on the
    windows in use, weights on windows and shares in use.
    """
    values: dict[str, Any] = {"layers": settings.layer_names}
    for name in ("windows", "alpha", "weight"):
        given = getattr(settings, name)
        values[name] = table_row(settings, name) if isinstance(given, str) else given
    wanted = [name for name in ("windows", "alpha", "weight") if getattr(settings, name) == "auto"]
    measured: dict[str, Any] = {}
    if wanted and sheets[0].shape[0] >= FEWEST_REFERENCES:
        residuals, mixed = _measure(sheets, progress)
        if "windows" in wanted:
            values["windows"] = tuple(window_of(layer) for layer in residuals)
        if "alpha" in wanted:
            values["alpha"] = tuple(map(alpha_of, residuals, values["windows"]))
        if "weight" in wanted:
            levels = [level(*mix) for level, *mix in zip(mixed, values["windows"], values["alpha"], strict=True)]
            values["weight"] = weights_of(levels)
        measured = {"residual_forward": [r.ahead for r in residuals], "residual_backward": [r.back for r in residuals]}
    elif wanted:
        measured = {"auto": f"fewer than {FEWEST_REFERENCES} references: the defaults are used for {', '.join(wanted)}"}
    return settings.model_copy(update=values), measured


def window_of(residuals: Residuals) -> tuple[int, int]:
    """Choose the [forward, backward] window sides from the residuals (section 9.2 items 2 and 3)."""
    ahead = max(1, _smallest(residuals.ahead, _FORWARD_LEFT))
    # Deliberately small: a large backward window hides missing parts.
    back = min(_smallest(residuals.back, _BACKWARD_LEFT), max(1, ahead // 2))
    return 2 * ahead + 1, 2 * back + 1


def _smallest(residual: list[float], left: float) -> int:
    gain = residual[0] - residual[-1]
    if gain < _NO_GAIN * residual[0]:
        return 0
    return next(half for half, value in enumerate(residual) if value - residual[-1] <= left * gain)


def alpha_of(residuals: Residuals, window: tuple[int, int]) -> float:
    """Give the quieter direction the larger share, within 0.3..0.7 (section 9.2 item 4)."""
    widest = len(residuals.ahead) - 1  # a window given by hand may be larger than any tried
    ahead = 1 / (residuals.ahead[min(window[0] // 2, widest)] + 1e-6)
    back = 1 / (residuals.back[min(window[1] // 2, widest)] + 1e-6)
    return float(np.clip(ahead / (ahead + back), 0.3, 0.7))


def weights_of(levels: list[float]) -> tuple[float, ...]:
    """Weigh layers against the first one's level, within 0.3..1 (section 9.2 item 5)."""
    return (1.0, *(float(np.clip(levels[0] / max(level, 1e-6), 0.3, 1.0)) for level in levels[1:]))


def _measure(
    sheets: list[Tensor], progress: Callable[[int, int, str], None]
) -> tuple[list[Residuals], list[Callable[[tuple[int, int], float], float]]]:
    """Match the probes; return per layer the residuals, and the level of the mixed map for a window and alpha."""
    count = sheets[0].shape[0]
    probes = np.unique(np.linspace(0, count - 1, min(count, MOST_PROBES)).round().astype(int))
    residuals, mixed = [], []
    for layer, each in enumerate(sheets):
        half = MAX_HALF[min(layer, len(MAX_HALF) - 1)]
        match = MutualMatch(each.shape[2], each.shape[3], half, half)
        tiles = pack(each)
        ahead, back = [], []
        for done, probe in enumerate(probes):
            with without(tiles, int(probe)) as rest:
                band = match.band(each[probe : probe + 1], rest)
            ahead.append(torch.cat([1 - forward_of(band, d).clamp_min(-1) for d in range(half + 1)]))
            back.append(torch.cat([1 - backward_of(band, d).clamp_min(-1) for d in range(half + 1)]))
            progress(layer * len(probes) + done + 1, len(sheets) * len(probes), "choosing windows")
        maps_ahead, maps_back = torch.stack(ahead), torch.stack(back)  # [probes, half + 1, H, W]
        residuals.append(Residuals(_levels(maps_ahead), _levels(maps_back)))
        mixed.append(_mixed_level(maps_ahead, maps_back))
    return residuals, mixed


def _levels(maps: Tensor) -> list[float]:
    return [float(torch.quantile(maps[:, half].flatten(1), 0.995, dim=1).mean()) for half in range(maps.shape[1])]


def _mixed_level(ahead: Tensor, back: Tensor) -> Callable[[tuple[int, int], float], float]:
    def level(window: tuple[int, int], alpha: float) -> float:
        widest = ahead.shape[1] - 1
        on = [float(side > 0) for side in window]  # a direction that is off leaves everything to the other
        share = alpha if all(on) else on[0]
        maps = share * ahead[:, min(window[0] // 2, widest)] + (1 - share) * back[:, min(window[1] // 2, widest)]
        return float(torch.quantile(maps.flatten(1), 0.995, dim=1).mean())

    return level
