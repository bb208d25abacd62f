"""The journal's protocol: some twenty verbs that every store offers, written once and blocking.

Every write to a running run carries the run's epoch; a stale one is refused with `Fenced`. A write is committed, at the
level it asks for, when the verb returns. `JournalUnavailable` means that it may or may not be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import LogRow, StepRow
from agentflow.model.waits import Decision, Wait, WaitKind


class CacheRow(NamedTuple):
    """A result that later runs may use. Times are seconds since the epoch; `expires` None = never."""

    key: bytes
    value: bytes
    created: float
    expires: float | None
    run: int


class RunFilter(NamedTuple):
    """Which runs to list, newest first."""

    limit: int = 50
    states: tuple[StateType, ...] = ()
    flow: str = ""
    #: Only runs with a smaller number: the last one of the page before.
    before: int | None = None
    #: Only runs whose id ends with this.
    id_end: str = ""


class Journal(Protocol):
    """The store of record."""

    #: The installation's key (for digests and signatures); not stored in the journal itself.
    key: bytes
    #: Where it is, for people.
    url: str

    # -- runs
    def create_run(self, new: NewRun, *, state: StateType = StateType.RUNNING) -> Run:
        """Store a new run. One that is RUNNING at once belongs to this process; any other belongs to nobody."""
        ...

    def claim_run(self, run_id: str, *, take_over: bool = False) -> Run:
        """Own a run that has not ended, with a new epoch.

        Raises `RunNotFoundError`, `RunFinishedError`, `RunOwnedError` (a live process owns it; unless `take_over`).
        """
        ...

    def release_run(self, run: Run) -> None:
        """Own it no longer. Without effect where it has already been taken over."""
        ...

    def set_state(
        self,
        number: int,
        epoch: int,
        state: StateType,
        *,
        message: str = "",
        result: bytes | None = None,
        error: bytes | None = None,
        durable: bool = True,
        release: bool = False,
    ) -> None:
        """Change a run's state; `release`: and own it no longer.

        Illegal transitions are refused with ValueError, stale epochs with `Fenced`.
        """
        ...

    def add_origin(self, run_id: str, origin: Origin) -> None:
        """Remember that somebody else has asked for the run, too."""
        ...

    def request_cancel(self, run_id: str, message: str) -> Run:
        """Ask a run to stop: CANCELLED at once if nobody runs it, else CANCELLING until its owner has seen it."""
        ...

    def get_run(self, run_id: str) -> Run | None:
        """The run of that id."""
        ...

    def list_runs(self, wanted: RunFilter) -> list[Run]:
        """Runs, newest first."""
        ...

    def due_runs(self, now: float) -> list[Run]:
        """Runs that nobody owns and that can move: pending, orphaned by a crash, or waiting with their wait over."""
        ...

    def is_owned(self, run: Run) -> bool:
        """Whether a live process owns the run."""
        ...

    # -- steps
    def append(
        self,
        number: int,
        epoch: int,
        rows: Sequence[StepRow],
        *,
        durable: bool = False,
        cache: Sequence[CacheRow] = (),
        consumed: Sequence[str] = (),
    ) -> None:
        """Commit rows of a run, with cache entries and waits whose answers are taken, in one transaction.

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

    # -- waits
    def open_wait(self, epoch: int, wait: Wait) -> Wait:
        """Store a question durably; one of the same id is returned as it stands. May already be decided (events)."""
        ...

    def decide(self, wait_id: str, decision: Decision, *, now: float, allowed_digest: str = "") -> Wait:
        """Answer a wait, once. Raises `WaitNotFoundError` or `DecisionRefusedError` (decided, expired, run ended)."""
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

    # -- cache and logs
    def cached(self, key: bytes, now: float) -> CacheRow | None:
        """A result of an earlier run that has not expired."""
        ...

    def add_logs(self, rows: Sequence[LogRow]) -> None:
        """Store log lines."""
        ...

    def logs(self, number: int, after: int = 0, limit: int = 1000) -> list[tuple[int, LogRow]]:
        """A run's log lines with their ids; `after` is the last id seen."""
        ...

    # -- watching
    def version(self) -> int:
        """A number that differs after any process has committed something: a cheap hint to look again."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` (from any thread, it must not block) after waits or runs changed here; returns the undo."""
        ...

    def close(self) -> None:
        """Let go of files, locks and threads; owned runs become free."""
        ...
