"""Offline: references in, template with thresholds and report out; datasets, metrics, evaluation, the demo."""
