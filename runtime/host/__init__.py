"""The host's one loop: frames and triggers in, inspections, receipts and records out."""
