"""Verbs of waits and events."""

from __future__ import annotations

from typing import Protocol

from agentflow.model.waits import Decision, Wait, WaitKind


class WaitVerbs(Protocol):
    """Waits and events: questions opened, answered, listed."""

    def open_wait(self, epoch: int, wait: Wait) -> Wait:
        """Store a question durably; one of the same id is returned as it stands. May already be decided (events)."""
        ...

    def decide(self, wait_id: str, decision: Decision, *, now: float, allowed_digest: str = "") -> Wait:
        """Answer a wait, once. Raises `WaitNotFoundError` or `DecisionRefusedError` (decided, expired, run ended)."""
        ...

    def withdraw_wait(self, epoch: int, wait: Wait) -> None:
        """Nobody waits for an answer any more: an open question is closed until the run asks it again."""
        ...

    def get_wait(self, wait_id: str) -> Wait | None:
        """The wait of that id."""
        ...

    def list_waits(
        self,
        *,
        number: int | None = None,
        open_only: bool = True,
        kinds: frozenset[WaitKind] = frozenset(),
        limit: int = 200,
    ) -> list[Wait]:
        """Waits, of one run or all; the open ones (undecided, in a run that has not ended) oldest first."""
        ...

    def unread_answers(self, number: int) -> list[Wait]:
        """A run's waits that are decided and not yet taken by the run."""
        ...

    def send_event(self, run_id: str, name: str, payload: bytes, now: float) -> str | None:
        """Deliver an event to a run: to the first wait for it (whose id is returned), else kept for the next one."""
        ...
