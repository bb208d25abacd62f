"""Verbs of retention: payloads of runs that ended long ago are removed, what happened is kept."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Pruned(NamedTuple):
    """What was removed, or would be."""

    runs: int = 0
    #: Values of steps, arguments and results.
    values: int = 0
    #: Their bytes.
    size: int = 0
    #: Lines of logs.
    lines: int = 0
    #: The number of the last run that was looked at; 0 = there are no more.
    last: int = 0


class RetentionVerbs(Protocol):
    """Payloads removed."""

    def prune_runs(
        self, ended_before: float, *, after: int = 0, limit: int = 100, dry_run: bool = False
    ) -> Pruned:
        """Remove the payloads of runs that ended before a time (seconds since the epoch), in one transaction.

        Payloads are a run's arguments, result and error, the values and failures of its steps, events that were sent
        to it, and its log. The run stays, with its steps, its lives, its waits and their decisions, and with what its
        side effects were executed with. At most `limit` runs, oldest first, whose number is greater than `after`.
        """
        ...

    def pruned_at(self, number: int) -> float | None:
        """When the payloads of a run were removed; None = they are there."""
        ...
