"""What all verbs of the memory journal share: the tables, the lock, the listeners."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agentflow.errors import Fenced, RunNotFoundError
from agentflow.journal.protocol import CacheLock, CacheRow
from agentflow.journal.protocol.cache import KEPT_EXPIRED, PRUNED_AT_ONCE
from agentflow.journal.slots import Account
from agentflow.model.deployments import Deployment
from agentflow.model.limits import Slot
from agentflow.model.lives import Fork, Life, LifeEnd
from agentflow.model.runs import Run
from agentflow.model.steps import LogRow, StepRow, sequence_of
from agentflow.model.waits import EventRow, Wait


class MemoryBase:
    """The tables."""

    def __init__(self, key: bytes | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.key = key or os.urandom(32)
        self._clock = clock
        self.url = self.address = "memory:"
        self.identity, self.beside = "", None
        self._owner = f"memory:{os.getpid()}"
        self._lock = threading.RLock()
        self._runs: dict[int, Run] = {}
        self._numbers: dict[str, int] = {}
        self._owned: set[int] = set()
        self._steps: dict[int, list[StepRow]] = {}
        self._lives: dict[int, list[Life]] = {}
        self._forks: dict[int, Fork] = {}
        #: When the payloads of runs were removed.
        self._pruned: dict[int, float] = {}
        self._waits: dict[str, Wait] = {}
        self._events: list[EventRow] = []
        self._cache: dict[bytes, CacheRow] = {}
        #: When entries expire, soonest first.
        self._expiring: list[tuple[float, bytes]] = []
        #: By key, run and step: the lock, and whether it is held (else waited for).
        self._locks: dict[tuple[bytes, int, bytes], tuple[CacheLock, bool]] = {}
        self._logs: list[LogRow] = []
        self._deployments: dict[str, Deployment] = {}
        self.accounts: dict[str, Account] = {}
        #: Of limits, by claim, then by limit.
        self.slots: dict[str, dict[str, Slot]] = {}
        self._version = 0
        self._listeners: list[Callable[[], None]] = []

    def version(self) -> int:
        return self._version

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def hears(self) -> bool:
        return False

    def close(self) -> None:
        self._owned.clear()

    def _notify(self) -> None:
        self._version += 1
        for callback in tuple(self._listeners):
            callback()

    def _need_run(self, run_id: str) -> Run:
        run = self._run(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return run

    def _check_epoch(self, number: int, epoch: int) -> None:
        run: Any = self._runs.get(number)
        if run is None or run.epoch != epoch:
            message = "another process has taken this run over"
            raise Fenced(message)

    def is_alive(self, number: int, epoch: int) -> bool | None:
        """Whether a run is owned at that epoch; nothing is known of holders of slots that are no runs (0)."""
        if not number:
            return None
        run = self._runs.get(number)
        return number in self._owned and run is not None and run.epoch == epoch

    def _run(self, run_id: str) -> Run | None:
        with self._lock:
            number = self._numbers.get(run_id)
            return None if number is None else self._runs[number]

    def _begin_life(self, run: Run, fingerprint: str, origin: str, began: float) -> None:
        steps = self._steps[run.number]
        first = sequence_of(steps[-1].id) + 1 if steps else 1
        life = Life(run.number, run.epoch, began, run.owner, origin, fingerprint, first)
        self._lives.setdefault(run.number, []).append(life)

    def _end_life(
        self, number: int, epoch: int, end: LifeEnd, message: str = "", account: bytes | None = None
    ) -> None:
        lives = self._lives.get(number, [])
        if lives and lives[-1].number == epoch and lives[-1].end is LifeEnd.RUNNING:
            lives[-1] = replace(lives[-1], ended=self._clock(), end=end, message=message, account=account)

    def _consume(self, wait_id: str) -> None:
        wait = self._waits.get(wait_id)
        if wait is not None and wait.consumed is None:
            self._waits[wait_id] = replace(wait, consumed=self._clock())

    def _put_cache(self, entries: Sequence[CacheRow]) -> None:
        """Store entries, and remove a few that expired long ago."""
        for entry in entries:
            self._drop_entry(entry.key)
            self._cache[entry.key] = entry
            if entry.expires is not None:
                insort(self._expiring, (entry.expires, entry.key))
        if entries:
            limit = max(entry.created for entry in entries) - KEPT_EXPIRED
            for expires, key in self._expiring[:PRUNED_AT_ONCE]:
                if expires <= limit:
                    self._drop_entry(key)

    def _drop_entry(self, key: bytes) -> None:
        entry = self._cache.pop(key, None)
        if entry is not None and entry.expires is not None:
            del self._expiring[bisect_left(self._expiring, (entry.expires, key))]

    def _forget_run(self, number: int) -> None:
        """A run has ended: what it alone could use, and the locks that it held."""
        for entry in [row for row in self._cache.values() if row.run == number and row.private]:
            self._drop_entry(entry.key)
        self._drop_locks(lambda lock, _: lock.run == number)

    def _drop_locks(self, is_over: Callable[[CacheLock, bool], bool]) -> None:
        for spot in [spot for spot, (lock, held) in self._locks.items() if is_over(lock, held)]:
            del self._locks[spot]
