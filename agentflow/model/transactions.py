"""Transactions: when they commit, and what has become of one. Only nouns: what they do is said where it is done."""

from __future__ import annotations

from enum import StrEnum


class CommitMode(StrEnum):
    """When a transaction commits (Prefect's names)."""

    LAZY = "LAZY"
    """With the transaction around it; the outermost one at the end of its block."""
    EAGER = "EAGER"
    """At the end of its own block, whatever becomes of the transaction around it."""
    OFF = "OFF"
    """Not by itself: without a call of `commit()` (of its own or by the transaction around it) it is rolled back."""


class TransactionState(StrEnum):
    """What has become of a transaction (Prefect's names)."""

    PENDING = "PENDING"
    """Its block has not been entered."""
    ACTIVE = "ACTIVE"
    """Its block runs."""
    STAGED = "STAGED"
    """Its block has ended well; it commits with the transaction around it."""
    COMMITTED = "COMMITTED"
    """It holds; commit hooks see this state."""
    ROLLED_BACK = "ROLLED_BACK"
    """It is undone; rollback hooks see this state."""
