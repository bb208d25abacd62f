"""Payloads of runs that ended long ago are removed in every store; what happened, and who allowed it, is kept."""

from __future__ import annotations

import pytest

from agentflow.errors import RunStateError
from agentflow.journal.protocol import Journal, Pruned
from agentflow.model.lives import Fork
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.steps import LogRow
from agentflow.model.waits import Assurance, Channel, Decision, Verdict
from tests.fundamentals.lives import Clock
from tests.journal.test_journals import new_run, row, wait


def ended_run(journal: Journal, state: StateType = StateType.COMPLETED) -> Run:
    """A run with two values, an approval, a line of log and an event, that has ended."""
    run = journal.create_run(new_run())
    asked = journal.open_wait(run.epoch, wait(run, name=f"for {run.number}"))
    allowed = Decision(Verdict.APPROVED, None, "fine", "ann", Channel.TERMINAL, Assurance.LOW)
    journal.decide(asked.id, allowed, now=1000.0, allowed_digest="d")
    effect = row(run, 2, value=b'"paid"')._replace(effect=1, detail=b'{"arguments":{"amount":3}}')
    journal.append(run.number, run.epoch, [row(run, 1, value=b"12345"), effect])
    journal.add_logs([LogRow(run.number, 1000.0, 20, "f", "s", "a secret")])
    journal.send_event(run.id, "bell", b'"ring"', 1000.0)
    error = b'{"type":"E"}' if state is StateType.FAILED else None
    journal.set_state(run.number, run.epoch, state, result=b"7", error=error, release=True)
    return run


def test_payloads_go_and_what_happened_stays(journal: Journal, clock: Clock) -> None:
    """Arguments, result, values, events and log are gone; steps, decisions and executed arguments are not."""
    run = ended_run(journal)
    assert journal.prune_runs(1000.0) == Pruned()
    clock.now = 2000.0
    expected = Pruned(runs=1, values=4, size=5 + 6 + 2 + 1, lines=1)
    assert journal.prune_runs(1500.0, dry_run=True) == expected
    assert (journal.pruned_at(run.number), journal.steps(run.number)[0].value) == (None, b"12345")
    assert journal.prune_runs(1500.0) == expected
    assert journal.pruned_at(run.number) == 2000.0
    found = journal.get_run(run.id)
    assert found is not None
    assert (found.state, found.parameters, found.result, found.ended) == (
        StateType.COMPLETED, b"{}", None, 1000.0,
    )  # fmt: skip
    steps = journal.steps(run.number)
    assert [(step.name, step.event, step.value) for step in steps] == [("step", "completed", None)] * 2
    assert steps[1].detail == b'{"arguments":{"amount":3}}'
    [asked] = journal.list_waits(number=run.number, open_only=False)
    assert asked.decision is not None
    assert (asked.decision.actor, asked.question) != ("", None)
    assert journal.logs(run.number) == []
    assert journal.prune_runs(1500.0) == Pruned()


def test_only_what_has_ended_long_enough_ago_is_touched(journal: Journal, clock: Clock) -> None:
    """Neither what runs or waits, nor what ended later; oldest first, some at a time."""
    old = [ended_run(journal) for _ in range(5)]
    running = journal.create_run(new_run())
    journal.append(running.number, running.epoch, [row(running, 1)])
    clock.now = 2000.0
    late = ended_run(journal)
    first = journal.prune_runs(1500.0, limit=3)
    assert (first.runs, first.last) == (3, old[2].number)
    second = journal.prune_runs(1500.0, after=first.last, limit=3)
    assert (second.runs, second.last) == (2, 0)
    assert [journal.pruned_at(run.number) for run in (*old, running, late)] == [2000.0] * 5 + [None] * 2
    assert len(journal.logs(late.number)) == 1
    assert journal.steps(running.number)[0].value == b"1"


def test_nothing_goes_on_from_a_run_without_its_values(journal: Journal, clock: Clock) -> None:
    """It is neither retried nor copied, and the error says why."""
    run = ended_run(journal, StateType.FAILED)
    clock.now = 2000.0
    journal.prune_runs(1500.0)
    with pytest.raises(RunStateError, match="were removed on 1970-01-01"):
        journal.reopen_run(run.number, run.epoch)
    with pytest.raises(RunStateError, match="were removed on"):
        journal.fork_run(new_run(), Fork(run.id, "00", "step", 0, changed=False, happened=b"[]"), [], [])
