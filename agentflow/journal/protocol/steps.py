"""Verbs of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentflow.journal.protocol.cache import CacheRow
from agentflow.model.steps import StepRow


class StepVerbs(Protocol):
    """Steps: rows appended, intents of effects, rows read back."""

    def append(
        self,
        number: int,
        epoch: int,
        rows: Sequence[StepRow],
        *,
        durable: bool = False,
        cache: Sequence[CacheRow] = (),
        consumed: Sequence[str] = (),
        released: Sequence[str] = (),
    ) -> None:
        """Commit rows of a run, cache entries, waits whose answers are taken, claims given back, in one transaction.

        `durable` rows survive power loss, others the death of the process.
        """
        ...

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        """Like `append` without options, but False at once where another writer would have to be waited for."""
        ...

    def start_effect(
        self,
        number: int,
        epoch: int,
        row: StepRow,
        *,
        wait_id: str = "",
        digest: str = "",
        again: bool = False,
    ) -> None:
        """Commit an effect's intent durably and, in the same transaction, consume the approval that allows it.

        `again` retries, under the signature that it consumed, an effect that certainly did not happen.

        Raises `DecisionRefusedError` if that approval is not an unexpired, unconsumed "approved" for exactly `digest`.
        """
        ...

    def steps(self, number: int, after: int = 0, limit: int = -1) -> list[StepRow]:
        """A run's rows in their order; `after` is the id of the last one seen."""
        ...
