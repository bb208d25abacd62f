"""Verbs of results across runs: entries, what their keys were made of, and the locks that keep equal calls apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from agentflow.model.steps import LogRow

#: Seconds for which an expired entry stays, so that a miss can say that there was one.
KEPT_EXPIRED = 3600.0
#: How many entries, expired for longer than that, are removed whenever one is stored.
PRUNED_AT_ONCE = 8


class CacheRow(NamedTuple):
    """A result that later runs may use. Times are seconds since the epoch; `expires` None = never."""

    key: bytes
    value: bytes
    created: float
    expires: float | None
    run: int
    run_id: str = ""
    #: The task's identity across runs, and its name for people.
    task: str = ""
    name: str = ""
    #: JSON: what the key was made of, part -> digest.
    parts: bytes = b"{}"
    #: 1: good within its run only, and gone with the run's end.
    private: int = 0

    def is_good(self, now: float) -> bool:
        """Whether it may be used; at the very moment of its expiry, not any more."""
        return self.expires is None or self.expires > now


class CacheEntry(NamedTuple):
    """What is known of a cached result without reading it. `size`: of the stored value, in bytes."""

    key: bytes
    size: int
    created: float
    expires: float | None
    run: int
    run_id: str
    task: str
    name: str
    parts: bytes
    private: int


class CacheFilter(NamedTuple):
    """Which entries to list (newest first) or to clear. `limit` is of listings; clearing knows none."""

    #: Only of the task with that identity.
    task: str = ""
    #: Only of tasks with that name.
    name: str = ""
    #: Only what has expired by then.
    expired_by: float | None = None
    limit: int = 50


class CacheLock(NamedTuple):
    """The right of one call to compute a key. It is worth as much as the claim of its run: no owner, no lock."""

    key: bytes
    run: int
    epoch: int
    #: The step that computes, whatever attempt it is in.
    step: bytes
    #: The innermost key that is computed around that step; empty = none.
    above: bytes = b""


class CacheVerbs(Protocol):
    """Results that later runs may use; lines of logs."""

    def cached(self, key: bytes) -> CacheRow | None:
        """The result stored under that key, be it expired or not."""
        ...

    def cache_entries(self, wanted: CacheFilter) -> list[CacheEntry]:
        """Entries, newest first."""
        ...

    def clear_cache(self, wanted: CacheFilter) -> int:
        """Remove entries; returns how many there were."""
        ...

    def lock_key(self, lock: CacheLock, around: Sequence[bytes] = ()) -> CacheLock | None:
        """Take the right to compute a key if no live run has it; returns the lock that holds now: this one or another.

        `around`: the keys computed around that step, innermost first. None: whoever holds the key waits, directly or
        not, for one of those, so that waiting for it would never end. Raises `Fenced` for a stale owner.
        """
        ...

    def unlock_key(self, lock: CacheLock) -> None:
        """Give the right back, or stop waiting for it. Without effect where it is another's."""
        ...

    def key_holder(self, key: bytes) -> CacheLock | None:
        """The lock by which a live run computes the key."""
        ...

    def add_logs(self, rows: Sequence[LogRow]) -> None:
        """Store log lines."""
        ...

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        """A run's log lines with their ids; `after` is the last id seen."""
        ...
