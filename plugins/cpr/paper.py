"""The evaluation of CPR's paper (specification, 7.7 and section 10): per category, 320 x 320, the detector's own map.

What is chosen per category is one thing: whether it is an object (foreground on) or a texture (off).
"""

from __future__ import annotations

import numpy as np

from edgead import CategoryPlan, EvaluationProtocol, PublishedFigures
from plugins.cpr.settings import SCORE_PIXELS

#: The categories without foreground branch, by data set.
TEXTURES = {
    "mvtec-ad": frozenset({"carpet", "grid", "leather", "tile", "wood"}),
    "mvtec-3d": frozenset(),
    "btad": frozenset({"02"}),
}

# Pixel AP / PRO / pixel AUROC in per cent (tables I, III and IV of the paper); the last row is the mean.
_MVTEC_AD = """
carpet 81.2 97.6 98.9 | grid 64.0 97.6 99.5 | leather 78.5 99.6 99.8 | tile 94.1 98.1 99.2 | wood 80.8 97.7 97.4
bottle 92.6 98.1 99.4 | cable 84.4 95.2 99.3 | capsule 60.4 96.3 99.3 | hazelnut 88.7 97.6 99.6
metal_nut 93.5 97.5 99.3 | pill 91.5 98.7 99.5 | screw 71.0 98.7 99.7 | toothbrush 84.1 98.0 99.7
transistor 86.7 97.1 98.0 | zipper 88.8 98.6 99.6
mean 82.7 97.8 99.2
"""
_MVTEC_3D = """
bagel 83.3 99.5 99.8 | cable_gland 61.5 98.5 99.6 | carrot 37.5 96.8 99.0 | cookie 59.8 94.6 98.3
dowel 58.6 98.5 99.7 | foam 52.7 90.8 97.3
peach 65.0 98.6 99.7 | potato 28.4 95.0 98.6 | rope 74.8 98.3 99.7 | tire 55.8 98.6 99.7
mean 57.8 96.9 99.1
"""
_BTAD = "01 72.4 88.4 98.5 | 02 81.6 68.6 97.0 | 03 57.0 98.2 99.7 | mean 70.3 85.1 98.4"

_STEPS = (
    "the published figures come from full training (40 000 steps an object, 500 a texture) with photographs of textures"
)
_PRO = "published PRO integrates to 30 % false positives over 8-connected regions, as here"
_BLUR = "the maps are blurred as in the released code; the paper does not mention it"


def _table(printed: str, image_auroc: float | None) -> PublishedFigures:
    rows = {}
    for cell in printed.replace("\n", "|").split("|"):
        if cell.strip():
            name, *numbers = cell.split()
            ap, pro, auroc = (round(float(number) / 100, 4) for number in numbers)
            rows[name] = PublishedFigures(pixel_ap=ap, pro=pro, pixel_auroc=auroc)
    mean = rows.pop("mean")
    return PublishedFigures(
        image_auroc=image_auroc,
        pixel_ap=mean.pixel_ap,
        pro=mean.pro,
        pixel_auroc=mean.pixel_auroc,
        categories=rows,
        remarks=(_STEPS,),
    )


def image_score(anomaly_map: np.ndarray) -> float:
    """Return the mean of the 512 largest pixels of a map, float32 [H, W]; the paper's sum ranks images alike."""
    pixels = np.sort(anomaly_map, axis=None)
    return float(pixels[-min(SCORE_PIXELS, pixels.size) :].mean())


def _as_it_is(anomaly_map: np.ndarray) -> np.ndarray:
    return anomaly_map


def _plan(preset: str, settings: dict[str, object], dataset: str, category: str) -> CategoryPlan:
    texture = category in TEXTURES.get(dataset, frozenset())
    return CategoryPlan(
        preset=preset,
        settings={**settings, "kind": "texture" if texture else "object", "foreground": "off" if texture else "on"},
        image_score=image_score,
        pixel_map=_as_it_is,
        pro_map=_as_it_is,
        post_processing={"image": f"mean of the {SCORE_PIXELS} largest", "pixel": "none", "pro": "none"},
        is_published=dataset in TEXTURES,
    )


def _protocol(
    detector: str, settings: dict[str, object], published: dict[str, PublishedFigures], *remarks: str
) -> EvaluationProtocol:
    return EvaluationProtocol(
        name=f"{detector}-paper",
        detector=detector,
        source="Li et al., Target before Shooting: Cascade Patch Retrieval, IEEE TIP 33, 2024, arXiv 2308.06748",
        published=published,
        plan=lambda dataset, category: _plan(detector, settings, dataset, category),
        remarks=(*remarks, _PRO, _BLUR),
    )


def _means(image_auroc: float, pixel_auroc: float, pro: float, pixel_ap: float) -> dict[str, PublishedFigures]:
    figures = PublishedFigures(
        image_auroc=image_auroc, pixel_auroc=pixel_auroc, pro=pro, pixel_ap=pixel_ap, remarks=(_STEPS,)
    )
    return {"mvtec-ad": figures}


#: Settings of the paper; the fast forms' figures are known as means over MVTec AD only (table VIII).
PROTOCOLS = (
    _protocol(
        "cpr",
        {"train": "full"},
        {"mvtec-ad": _table(_MVTEC_AD, 0.997), "mvtec-3d": _table(_MVTEC_3D, None), "btad": _table(_BTAD, None)},
    ),
    _protocol("cpr-fast", {"train": "full"}, _means(0.997, 0.992, 0.977, 0.823)),
    _protocol(
        "cpr-faster",
        {"train": "full", "backbone": "efficientnet_b0", "nearest": 10, "raw_share": 0.0},
        _means(0.994, 0.990, 0.973, 0.806),
        "the paper does not say which EfficientNet it used; B0 is the released code's",
    ),
)
