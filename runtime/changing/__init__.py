"""Changing a running station without a gap: swaps, recipes, the guard, and which lane is on duty."""
