"""Whoever claims runs and executes them. Not here: when a run should start, and how one is asked for."""
