"""The memory store, shared by processes that die and freeze: ownership by leases, buried as on PostgreSQL.

A `Node` is one process's journal. Its verbs are atomic; before and after each one the world may end for its process.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from agentflow.errors import Fenced
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import (
    CacheVerbs,
    HistoryVerbs,
    LimitVerbs,
    RetentionVerbs,
    RunVerbs,
    StepVerbs,
    WaitVerbs,
)
from agentflow.model.lives import Life
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow

KEY = b"k" * 32
#: What is one for all nodes.
_TABLES = (
    "_runs", "_numbers", "_steps", "_lives", "_forks", "_pruned", "_waits", "_events", "_cache", "_expiring",
    "_locks", "_logs", "accounts", "slots",
)  # fmt: skip
_VERBS = [
    name
    for part in (RunVerbs, HistoryVerbs, StepVerbs, WaitVerbs, LimitVerbs, CacheVerbs, RetentionVerbs)
    for name in vars(part)
    if not name.startswith("_")
] + ["version"]
#: Verbs that change nothing: to die before or after one is the same.
READS = frozenset(
    {
        "version", "get_run", "list_runs", "due_runs", "is_owned", "lives", "forked", "fork_of", "steps", "get_wait",
        "list_waits", "unread_answers", "list_limits", "list_slots", "free_slots", "cached", "cache_entries",
        "key_holder", "logs", "pruned_at",
    }
)  # fmt: skip


class Store:
    """The tables, and who holds what until when."""

    def __init__(self, clock: Callable[[], float], lease: float) -> None:
        self.clock, self.lease = clock, lease
        self.tables = MemoryJournal(KEY, clock=clock)
        tables = vars(self.tables)
        #: What is stored, for those who judge.
        self.runs: dict[int, Run] = tables["_runs"]
        self.lives: dict[int, list[Life]] = tables["_lives"]
        self.rows: dict[int, list[StepRow]] = tables["_steps"]
        self.version = 0
        #: When the lease of each keeper runs out.
        self.keepers: dict[int, float] = {}
        #: The keeper that owns a run.
        self.owners: dict[int, int] = {}
        self.numbers = itertools.count(1)

    def bury(self) -> None:
        """Those whose lease has run out own nothing any more."""
        now = self.clock()
        for keeper in [keeper for keeper, expires in self.keepers.items() if expires < now]:
            del self.keepers[keeper]
            for run in [run for run, owner in self.owners.items() if owner == keeper]:
                del self.owners[run]

    def is_live(self, number: int) -> bool:
        """Whether a keeper that is not buried owns the run."""
        self.bury()
        return number in self.owners


class Holdings:
    """Who owns what, as one process sees it: in the place of the memory store's set."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.keeper = 0

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._store.is_live(number)

    def __iter__(self) -> Iterator[int]:
        return iter(self._store.owners)

    def add(self, number: int) -> None:
        store = self._store
        store.bury()
        if self.keeper not in store.keepers:
            self.keeper = next(store.numbers)
            self.renew(new=True)
        store.owners[number] = self.keeper

    def renew(self, *, new: bool = False) -> None:
        """Begin the lease anew, unless it was buried meanwhile."""
        if new or self.keeper in self._store.keepers:
            self._store.keepers[self.keeper] = self._store.clock() + self._store.lease

    def discard(self, number: int) -> None:
        if self.owns(number):
            del self._store.owners[number]

    def clear(self) -> None:
        for number in [run for run, keeper in self._store.owners.items() if keeper == self.keeper]:
            del self._store.owners[number]

    def owns(self, number: int) -> bool:
        """Whether this process owns it, as far as the store knows."""
        return self.keeper in self._store.keepers and self._store.owners.get(number) == self.keeper


class Fate(Protocol):
    """What may happen to a process at a verb."""

    def before(self, node: Node, verb: str) -> None:
        """The verb has not begun."""
        ...

    def after(self, node: Node, verb: str, given: tuple[Any, ...]) -> None:
        """It is committed, and the process does not know yet."""
        ...

    def returned(self, node: Node, verb: str) -> None:
        """The process may go on."""
        ...


class Node(MemoryJournal):
    """The journal as one process has it open."""

    def __init__(self, store: Store, name: str, fate: Fate) -> None:
        super().__init__(KEY, clock=store.clock)
        self.store, self._owner, self._fate = store, name, fate
        for table in _TABLES:
            setattr(self, table, getattr(store.tables, table))
        self.holdings = Holdings(store)
        self._owned: Any = self.holdings
        #: How deep in verbs that use verbs.
        self._depth = 0

    def hears(self) -> bool:
        return False

    def version(self) -> int:
        return self.store.version

    def _notify(self) -> None:
        for callback in tuple(self._listeners):
            callback()

    # -- what a stale owner is refused
    def _check_epoch(self, number: int, epoch: int) -> None:
        super()._check_epoch(number, epoch)
        if not self.holdings.owns(number):
            raise Fenced("another process has taken this run over")

    def set_state(self, number: int, epoch: int, state: StateType, **options: Any) -> None:
        self._check_epoch(number, epoch)
        super().set_state(number, epoch, state, **options)

    def release_run(self, run: Run) -> None:
        if self.holdings.owns(run.number):
            super().release_run(run)

    def called(self, name: str, plain: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A verb, at the mercy of fate."""
        if self._depth:
            return plain(self, *args, **options)
        self._fate.before(self, name)
        self._depth = 1
        try:
            if name not in READS:
                self.store.version += 1
            result = plain(self, *args, **options)
        finally:
            self._depth = 0
        self._fate.after(self, name, args)
        self._fate.returned(self, name)
        return result


def _wrap(name: str) -> None:
    plain = getattr(Node, name)

    @functools.wraps(plain)
    def verb(self: Node, *args: Any, **options: Any) -> Any:
        return self.called(name, plain, *args, **options)

    setattr(Node, name, verb)


for _name in _VERBS:
    _wrap(_name)
