"""Trials of a whole station on this machine, in processes of its own; what runs a line never imports this package."""
