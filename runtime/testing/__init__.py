"""Simulators shipped for demonstrations and for other people's tests; the rest of runtime never imports them."""
