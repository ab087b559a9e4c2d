"""Ready-to-run station files and detector presets: data only."""
