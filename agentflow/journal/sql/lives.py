"""Rows of lives in SQL stores: a first life has none until there is more to say than its run's row does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agentflow.journal.rows import EPOCH, first_life, life_from, run_from
from agentflow.model.lives import Life, LifeEnd

Change = Callable[[str, Sequence[Any]], int]
"""Executes the statement of that name with its parameters, and gives how many rows it changed."""


def lives_of(rows: Sequence[Sequence[Any]], run: Callable[[], Sequence[Any] | None]) -> list[Life]:
    """All lives: those of `rows`, and the first one, if only the run's row tells of it."""
    lives = [life_from(row) for row in rows]
    if not lives or lives[0].number > 1:
        row = run()
        if row is not None and row[EPOCH]:
            lives.insert(0, first_life(run_from(row)))
    return lives


def end_life(
    change: Change,
    number: int,
    epoch: int,
    owner: str,
    now: float,
    end: LifeEnd,
    message: str = "",
    account: bytes | None = None,
) -> None:
    """A first life gets its row at its end, and none if it completed its run: the run's row says all of it then."""
    changed = change("end_life", (now, end.value, message, account, number, epoch))
    if epoch == 1 and not changed and (end is not LifeEnd.COMPLETED or account is not None):
        change("keep_first_life", (number, owner, now, end.value, message, account))
