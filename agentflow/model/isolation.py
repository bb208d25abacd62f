"""What concurrent calls see of each other's results. Only the noun: what it means is said where it is used."""

from __future__ import annotations

from enum import StrEnum


class IsolationLevel(StrEnum):
    """How far calls with the same key are kept apart (Prefect's names)."""

    READ_COMMITTED = "READ_COMMITTED"
    """A call takes what has been committed before it; two at the same time both run."""
    SERIALIZABLE = "SERIALIZABLE"
    """One at a time: the second waits for the first and takes its result."""
