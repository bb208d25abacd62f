"""Whoever claims runs and executes them. Not here: when a run should start (schedules, events), how one is asked for."""
