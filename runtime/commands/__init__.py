"""The commands of the runtime, one file per subject. Only the front door imports them; only they know typer."""
