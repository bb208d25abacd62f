"""The journal's protocol: the verbs that every store offers, written once and blocking, a module for each noun.

Every write to a running run carries the run's epoch; a stale one is refused with `Fenced`. A write is committed, at the
level it asks for, when the verb returns. `JournalUnavailable` means that it may or may not be stored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from agentflow.journal.protocol.cache import CacheEntry, CacheFilter, CacheLock, CacheRow, CacheVerbs
from agentflow.journal.protocol.deployments import DeploymentFilter, DeploymentVerbs
from agentflow.journal.protocol.history import HistoryVerbs
from agentflow.journal.protocol.limits import LimitVerbs
from agentflow.journal.protocol.retention import Pruned, RetentionVerbs
from agentflow.journal.protocol.runs import EndsRunsTogether, RunClaim, RunEnd, RunFilter, RunVerbs
from agentflow.journal.protocol.steps import StepVerbs
from agentflow.journal.protocol.waits import WaitVerbs


class Journal(
    RunVerbs,
    HistoryVerbs,
    StepVerbs,
    WaitVerbs,
    LimitVerbs,
    DeploymentVerbs,
    CacheVerbs,
    RetentionVerbs,
    Protocol,
):
    """The store of record."""

    #: The installation's key (for digests and signatures); not stored in the journal itself.
    key: bytes
    #: Where it is, for people.
    url: str
    #: The same for other processes that are to open it (``AGENTFLOW_DATABASE_URL``); may hold a password.
    address: str

    @property
    def identity(self) -> str:
        """Tells it from every other journal, also where they share a store of large values; empty for one in memory."""
        ...

    @property
    def beside(self) -> Path | None:
        """The folder for its large values unless the settings name another place; None = they stay in their rows."""
        ...

    def version(self) -> int:
        """A number that differs after any process has committed something: a cheap hint to look again."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` (from any thread, it must not block) after waits, runs or limits changed; gives the undo."""
        ...

    def hears(self) -> bool:
        """Whether `subscribe` tells, as things stand, soon of what other processes do, too. No more than a hint."""
        ...

    def close(self) -> None:
        """Let go of files, locks and threads; owned runs become free."""
        ...


__all__ = [
    "CacheEntry",
    "CacheFilter",
    "CacheLock",
    "CacheRow",
    "DeploymentFilter",
    "EndsRunsTogether",
    "Journal",
    "Pruned",
    "RunClaim",
    "RunEnd",
    "RunFilter",
]
