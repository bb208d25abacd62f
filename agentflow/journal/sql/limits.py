"""Rows of limits and slots of SQL stores to values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentflow.journal.slots import Account
from agentflow.model.limits import ConcurrencyLimitStrategy, Limit, Slot


def limit_values(limit: Limit, now: float) -> tuple[Any, ...]:
    """The parameters of ``put_limit``."""
    return (
        limit.name, limit.limit, int(limit.active), limit.slot_decay_per_second, limit.collision_strategy.value,
        int(limit.declared), now,
    )  # fmt: skip


def account_from(row: Sequence[Any]) -> Account:
    """A row of table ``concurrency_limit``."""
    return Account(limit_from(row), row[6], row[7])


def limit_from(row: Sequence[Any]) -> Limit:
    """The limit of a row of table ``concurrency_limit``."""
    return Limit(row[0], row[1], bool(row[2]), row[3], ConcurrencyLimitStrategy(row[4]), bool(row[5]))


def slot_from(row: Sequence[Any]) -> Slot:
    """A row of table ``slot``."""
    return Slot(*row[:14], spends=bool(row[14]))
