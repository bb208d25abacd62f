"""Times for which the runs wait that have left memory here: a worker looks when one comes, not only once in a while."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable

#: Seconds that it waits at the least: where a clock stands still, a time that is near never comes.
_SHORTEST = 0.01


class Times:
    """Of a worker. Other workers, and one that has just begun, find the same runs when they look next."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._coming: list[float] = []

    def note(self, times: Iterable[float | None]) -> None:
        """Runs wait for these; None = for no time."""
        with self._lock:
            for time in times:
                if time is not None:
                    heapq.heappush(self._coming, time)

    def until_next(self, longest: float) -> float:
        """Seconds until the next of them, at most `longest`. Those that are over are forgotten."""
        if not self._coming:
            return longest
        now = self._clock()
        with self._lock:
            while self._coming and self._coming[0] <= now:
                heapq.heappop(self._coming)
            return min(longest, max(_SHORTEST, self._coming[0] - now)) if self._coming else longest
