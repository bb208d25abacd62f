"""Rows of lives in SQL stores: a first life has none until there is more to say than its run's row does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from agentflow.journal.rows import EPOCH, first_life, life_from, run_from
from agentflow.model.lives import Life, LifeEnd

Execute = Callable[[str, Sequence[Sequence[Any]]], object]
"""Executes the statement of that name, once with each of the parameters."""


def lives_of(rows: Sequence[Sequence[Any]], run: Callable[[], Sequence[Any] | None]) -> list[Life]:
    """All lives: those of `rows`, and the first one, if only the run's row tells of it."""
    lives = [life_from(row) for row in rows]
    if not lives or lives[0].number > 1:
        row = run()
        if row is not None and row[EPOCH]:
            lives.insert(0, first_life(run_from(row)))
    return lives


class EndOfLife(NamedTuple):
    """A life of a run, and how it ended."""

    run: int
    number: int
    owner: str
    ended: float
    end: LifeEnd
    message: str = ""
    account: bytes | None = None


def end_lives(execute: Execute, lives: Sequence[EndOfLife]) -> None:
    """A first life gets its row at its end, and none if it completed its run: the run's row says all of it then."""
    said = [(life.ended, life.end.value, life.message, life.account, life.run, life.number) for life in lives]
    execute("end_life", said)
    first = [
        (life.run, life.owner, life.ended, life.end.value, life.message, life.account)
        for life in lives
        if life.number == 1 and (life.end is not LifeEnd.COMPLETED or life.account is not None)
    ]
    if first:
        execute("keep_first_life", first)
