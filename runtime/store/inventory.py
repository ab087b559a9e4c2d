"""What `edgead templates list|show` says about templates, as plain records."""

from __future__ import annotations

from typing import Any

from runtime.errors import TemplateError
from runtime.store import Store
from runtime.store.template import Template

#: What `edgead templates list` says about each template, under headings that fit 80 columns; ``error`` besides.
HEADINGS = {
    "template": "template",
    "product": "product",
    "detector": "detector",
    "active": "active",
    "references": "refs",
    "image_threshold": "threshold",
    "held_out": "held out",
}


def list_templates(store: Store, product: str | None) -> list[dict[str, Any]]:
    """Return a record for every template of the store, or of one product.

    A template whose manifest is damaged is listed with its ``error``, which is None otherwise.
    """
    records = []
    for owner, digest in store.listed(product):
        try:
            records.append(_summary(store, store.template(digest)))
        except TemplateError as error:
            records.append(dict.fromkeys(HEADINGS) | {"template": digest, "product": owner, "error": str(error)})
    return records


def describe_template(store: Store, id_or_prefix: str, *, brief: bool) -> dict[str, Any]:
    """Return everything a template's manifest says; ``brief`` leaves the long lists out and counts them."""
    template = store.template(id_or_prefix)
    manifest = template.manifest
    log = store.log(manifest.product, manifest.detector.name)
    history = [f"{e.time} {e.who}: {e.action} {e.why}".strip() for e, _ in log if e.new == template.digest]
    if brief:
        thresholds = manifest.thresholds
        return _summary(store, template) | {
            "detector_version": manifest.detector.version,
            "distribution": manifest.detector.distribution,
            "pixel_threshold": thresholds.pixel,
            "rule": thresholds.rule,
            "false_reject_bound": thresholds.bound,
            "bank_mb": round(manifest.bank.size / 1e6, 1),
            "pool_mb": round(manifest.pool.size / 1e6, 1) if manifest.pool else 0.0,
            "golden_frames": manifest.golden.count,
            "derived_from": manifest.parent,
            "settings": ", ".join(f"{key}={value}" for key, value in manifest.settings.items()),
            "history": "; ".join(history),
        }
    return {
        "template": template.digest,
        "active": _is_active(store, template),
        **manifest.model_dump(mode="json"),
        "history": history,
    }


def _summary(store: Store, template: Template) -> dict[str, Any]:
    manifest = template.manifest
    return {
        "template": template.digest,
        "product": manifest.product,
        "detector": manifest.detector.name,
        "active": _is_active(store, template),
        "references": len(manifest.references),
        "image_threshold": manifest.thresholds.image,
        "held_out": manifest.thresholds.held_out,
        "error": None,
    }


def _is_active(store: Store, template: Template) -> bool:
    try:
        active = store.active(template.manifest.product, template.manifest.detector.name)
    except TemplateError:
        return False
    return active.digest == template.digest
