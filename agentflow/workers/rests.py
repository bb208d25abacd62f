"""Runs whose lives get nowhere (an answer that nobody asks for any more, a full disk), left alone for a while."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

#: Seconds before the third life in a row that got nowhere, and at the most.
_SHORTEST, _LONGEST = 0.5, 60.0


class _Rest(NamedTuple):
    """How many lives of a run in a row got nowhere, and until when it is left alone."""

    lives: int = 0
    until: float = 0.0


class Rests:
    """Of the runs of a worker, by id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rests: dict[str, _Rest] = {}

    def holds(self, run_id: str) -> bool:
        """Whether the run is left alone now."""
        return bool(self._rests) and self._clock() < self._rests.get(run_id, _Rest()).until

    def leave(self, run_id: str) -> None:
        """Leave the run alone for as long as this process lives: nothing could change until then."""
        self._rests[run_id] = _Rest(0, inf)

    def note(self, run_id: str, *, moved: bool) -> None:
        """A life of the run is over; `moved`: it got somewhere."""
        if self._rests.get(run_id, _Rest()).until == inf:
            return
        if moved:
            self._rests.pop(run_id, None)
            return
        lives = self._rests.get(run_id, _Rest()).lives + 1
        pause = 0.0 if lives == 1 else min(_LONGEST, _SHORTEST * 2.0 ** (lives - 2))
        self._rests[run_id] = _Rest(lives, self._clock() + pause)
