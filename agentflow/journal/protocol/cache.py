"""Verbs of results across runs, and of logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from agentflow.model.steps import LogRow


class CacheRow(NamedTuple):
    """A result that later runs may use. Times are seconds since the epoch; `expires` None = never."""

    key: bytes
    value: bytes
    created: float
    expires: float | None
    run: int


class CacheVerbs(Protocol):
    """Results that later runs may use; lines of logs."""

    def cached(self, key: bytes, now: float) -> CacheRow | None:
        """A result of an earlier run that has not expired."""
        ...

    def add_logs(self, rows: Sequence[LogRow]) -> None:
        """Store log lines."""
        ...

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        """A run's log lines with their ids; `after` is the last id seen."""
        ...
