"""The station file: reading, checking and editing it, and what a change of it would change in a running station."""
