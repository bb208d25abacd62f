"""Nouns: frozen values without I/O - runs, steps, waits, decisions, states, ids. No behaviour of the engine, no SQL."""
