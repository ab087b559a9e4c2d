"""A published evaluation protocol as data: how the authors of a method set, post-processed and scored it.

A plugin registers one with ``edgead_register_protocols``; ``edgead evaluate DIR --protocol NAME`` runs it over a whole
benchmark data set and shows the published figures beside the measured ones. What a station runs is never decided here:
a protocol may post-process image score, pixel map and PRO map differently, a template has one map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class CategoryPlan:
    """How a protocol evaluates one category of a data set.

    The three rules take the detector's anomaly map, float32 [H, W], higher = more anomalous, and leave it as it is.
    """

    preset: str
    """Preset the settings start from, as ``--preset`` takes it."""
    settings: Mapping[str, Any]
    """Settings over the preset's, JSON values; those the user sets go over both."""
    image_score: Callable[[np.ndarray], float]
    """Map to image score."""
    pixel_map: Callable[[np.ndarray], np.ndarray]
    """Map to the map, of the same shape, whose pixel AUROC and AP are measured."""
    pro_map: Callable[[np.ndarray], np.ndarray]
    """Map to the map, of the same shape, whose PRO is measured."""
    post_processing: Mapping[str, str]
    """The three rules in words, by "image", "pixel" and "pro": shown with the figures."""
    is_published: bool
    """Whether settings and rules are the authors' own for this category; else the figures say that they are ours."""


@dataclass(frozen=True, kw_only=True)
class PublishedFigures:
    """What the authors report for one data set, the mean over its categories, 0..1; None: not reported."""

    image_auroc: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    pro: float | None = None
    categories: Mapping[str, PublishedFigures] = field(default_factory=dict)
    """The same of single categories, where reported."""
    remarks: tuple[str, ...] = ()
    """Sentences the reader needs to compare: which variant, what was tuned on what."""


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """A published evaluation protocol of one detector."""

    name: str
    """What ``--protocol`` takes: 1 to 64 of a-z 0-9 _ . -"""
    detector: str
    """The detector it is about."""
    source: str
    """Where it was published."""
    published: Mapping[str, PublishedFigures]
    """The data sets it covers, by their names in ``calibration.layouts`` ("mvtec-ad", "visa", ...)."""
    plan: Callable[[str, str], CategoryPlan]
    """(data set, category) to how that category is evaluated."""
    remarks: tuple[str, ...] = ()
    """Sentences shown with every figure of this protocol."""
