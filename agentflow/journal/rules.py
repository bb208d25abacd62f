"""The checks that every store makes inside its transactions, written once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agentflow.errors import (
    Cancelling,
    DecisionRefusedError,
    DeploymentNotFoundError,
    DeploymentPausedError,
    Fenced,
    RunOwnedError,
    RunStateError,
)
from agentflow.journal.protocol.retention import Pruned
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType, is_legal
from agentflow.model.steps import ENDS, SEQUENCE_BITS, StepRow, sequence_of
from agentflow.model.waits import VERDICTS, Decision, Verdict, Wait, WaitKind


def is_undone(transactions: Iterable[StepRow]) -> bool:
    """Whether nothing of a run is left to be undone, as its rows about transactions say."""
    last = {(row.scope, row.key, row.branch, row.occurrence): row.event for row in transactions}
    return all(event in ENDS for event in last.values())


def is_over(run: Run, *, undone: bool) -> bool:
    """Whether a run that was asked to stop, and that nobody runs, has stopped: somebody may have to come back for it.

    For a transaction that is to be undone (not `undone`), and for hooks on its cancellation, if it has begun.
    """
    return undone and not (run.on_cancellation and run.started is not None)


def check_deployment(name: str, paused: int | None) -> None:
    """Refuse a new run of a deployment that is gone (None), or that takes none."""
    if paused is None:
        raise DeploymentNotFoundError(name)
    if paused:
        raise DeploymentPausedError(name)


def next_state(
    row: Sequence[Any] | None, epoch: int, state: StateType, message: str, *, over: bool
) -> tuple[StateType, str]:
    """The state and the message to store. Refuses a stale owner's change, and one that the table does not know.

    `row` = (state, epoch, message). A run that was asked to stop stays CANCELLING until it has stopped: or until it is
    `over`, as nobody owns it any more and nothing of it is to be undone.
    """
    if row is None or row[1] != epoch:
        raise Fenced("another process has taken this run over")
    before = StateType(row[0])
    if before is StateType.CANCELLING and state in (StateType.PAUSED, StateType.RUNNING):
        return (StateType.CANCELLED if over else before), row[2]
    if before.is_final or not is_legal(before, state):
        raise ValueError(f"a run cannot go from {before} to {state}")
    return state, message


def cancelled_state(state: StateType, stored: str, message: str, *, over: bool) -> tuple[StateType, str]:
    """What a run that has not ended becomes when somebody asks it to stop; who asks first counts."""
    return (
        StateType.CANCELLED if over else StateType.CANCELLING,
        stored if state is StateType.CANCELLING else message,
    )


def with_parent(parent: str, message: str) -> str:
    """Why a run is cancelled that another one has started."""
    return f"cancelled with its parent {parent}: {message}"


def check_parent(state: StateType, message: str) -> None:
    """Refuse a new run below one that was asked to stop: the request would not reach it."""
    if state in (StateType.CANCELLING, StateType.CANCELLED):
        raise Cancelling(message)


def check_reopening(run: Run | None, epoch: int, *, owned: bool) -> Run:
    """Refuse to have a run go on that has not ended, has completed, or has moved since `epoch`."""
    if run is None or run.epoch != epoch:
        message = "somebody else has had this run go on"
        raise Fenced(message)
    if run.state is StateType.COMPLETED:
        message = f"run {run.id} has completed; fork it to run it anew from a step (agentflow runs fork)"
        raise RunStateError(message)
    if not is_legal(run.state, StateType.PENDING) or not run.state.is_final:
        message = f"run {run.id} has not ended ({run.state}); resume it (agentflow runs resume)"
        raise RunStateError(message)
    if owned:  # it has ended, and its process is just giving it back
        raise RunOwnedError(run.id, run.owner or "another process")
    return run


def check_payloads(run: Run, pruned: float | None) -> None:
    """Refuse to go on with, or to copy, a run whose payloads were removed."""
    if pruned is not None:
        day = dt.datetime.fromtimestamp(pruned, dt.UTC).date()
        message = (
            f"the values of run {run.id} were removed on {day}, so nothing can go on from it; start a new run"
        )
        raise RunStateError(message)


NOTHING = b"{}"
"""The arguments of a run whose payloads were removed."""


def and_pruned(done: Pruned, sizes: Iterable[tuple[int, int]], lines: int) -> Pruned:
    """`done`, and one more run: of each part of it the number of its values and their bytes, and its lines of log."""
    counts, bytes_ = zip(*sizes, strict=True)
    return Pruned(
        done.runs + 1, done.values + sum(counts), done.size + sum(bytes_), done.lines + lines, done.last
    )


def being_run(run: Run) -> RunStateError:
    """Why a run cannot be copied: what it does next would be missing."""
    owner = run.owner or "another process"
    return RunStateError(
        f"run {run.id} is being run by {owner}; fork it once it has ended, waits or was stopped"
    )


def with_origins(known: Sequence[Origin], more: Sequence[Origin]) -> tuple[Origin, ...]:
    """Everybody who asked, each once, in the order in which they did."""
    return tuple(dict.fromkeys((*known, *more)))


def renumbered(rows: Sequence[StepRow], number: int) -> list[StepRow]:
    """Rows of one run as rows of another, at the same positions."""
    return [row._replace(id=number << SEQUENCE_BITS | sequence_of(row.id)) for row in rows]


def check_decision(wait: Wait, run: Run, decision: Decision, now: float) -> None:
    """Refuse an answer that comes twice, too late, after the run's end, or of the wrong kind."""
    if wait.decision is not None:
        message = f"{wait.id} was already decided ({wait.decision.verdict} by {wait.decision.actor or 'nobody named'})"
        raise DecisionRefusedError(message)
    if wait.consumed is not None:
        message = f"{wait.id} has been withdrawn: its run does not wait for an answer any more"
        raise DecisionRefusedError(message)
    if run.state.is_final:
        message = f"{wait.id}: its run {run.id} has already ended ({run.state})"
        raise DecisionRefusedError(message)
    if decision.verdict is Verdict.ELAPSED:
        return
    if wait.due is not None and wait.due <= now:
        message = f"{wait.id} has expired; run the flow again to be asked again"
        raise DecisionRefusedError(message)
    allowed = VERDICTS.get(wait.kind)
    if allowed is not None and decision.verdict not in allowed:
        message = f"{wait.id} is answered by {' or '.join(sorted(allowed))}, not by {decision.verdict}"
        raise DecisionRefusedError(message)
    if wait.kind is WaitKind.TIMER:
        message = f"{wait.id} waits for its time, nobody can answer it"
        raise DecisionRefusedError(message)


def check_consumption(
    wait: Wait | None, wait_id: str, number: int, digest: str, now: float, *, again: bool
) -> None:
    """Refuse to start an effect on a signature that is missing, spent, expired, or for another run or arguments.

    `again`: the same effect is tried once more after it certainly did not happen, under the signature it has consumed.
    """
    problem = ""
    if wait is None or wait.decision is None:
        problem = "is not approved"
    elif wait.run != number:
        problem = "was given for another run"
    elif wait.decision.verdict not in (Verdict.APPROVED, Verdict.RUN_AGAIN):
        problem = f"was decided as {wait.decision.verdict}"
    elif (wait.consumed is not None) is not again:
        problem = "was not used yet" if again else "was already used"
    elif wait.due is not None and wait.due <= now:
        problem = "has expired"
    elif wait.allowed_digest != digest:
        problem = "was given for other arguments"
    if problem:
        message = f"approval {wait_id} {problem}"
        raise DecisionRefusedError(message)


def leads_back(key: bytes, around: Sequence[bytes], inner: Callable[[bytes], Iterable[bytes]]) -> bool:
    """Whether the computation of `key` waits, through any number of others, for one of the keys `around`.

    `inner`: the keys that are computed, or waited for, inside the computation of a key.
    """
    seen, queue = {key}, [key]
    while queue:
        for other in inner(queue.pop()):
            if other in around:
                return True
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return False
