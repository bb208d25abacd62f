"""Lives, ended runs that go on and copies of runs, in every store."""

from __future__ import annotations

import pytest

from agentflow.errors import Fenced, RunNotFoundError, RunOwnedError, UsageError
from agentflow.journal.protocol import Journal
from agentflow.model.lives import Fork, LifeEnd
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from tests.journal.test_journals import journal, new_run, row

__all__ = ["journal"]


def test_each_claim_begins_a_life_and_says_where(journal: Journal) -> None:
    """It knows by whom, with what code, and from which row on it may have written."""
    run = journal.create_run(new_run())
    journal.append(run.number, run.epoch, [row(run, 1), row(run, 2)])
    journal.set_state(run.number, run.epoch, StateType.PAUSED, release=True, account=b"{}")
    journal.claim_run(run.id, fingerprint="other", origin=Origin.MODEL)
    first, second = journal.lives(run.number)
    assert (first.number, first.origin, first.fingerprint, first.first) == (1, "person", "fp", 1)
    assert (first.end, first.account, first.ended is not None) == (LifeEnd.SUSPENDED, b"{}", True)
    assert (second.number, second.origin, second.fingerprint, second.first) == (2, "model", "other", 3)
    assert (second.end, second.ended, second.owner) == (LifeEnd.RUNNING, None, run.owner)


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (StateType.COMPLETED, LifeEnd.COMPLETED),
        (StateType.FAILED, LifeEnd.FAILED),
        (StateType.CANCELLED, LifeEnd.CANCELLED),
        (StateType.CRASHED, LifeEnd.CRASHED),
    ],
)
def test_an_end_of_the_run_ends_the_life(journal: Journal, state: StateType, end: LifeEnd) -> None:
    """With its message; later changes of the journal leave it as it is."""
    run = journal.create_run(new_run())
    journal.set_state(run.number, run.epoch, state, message="so", release=True)
    journal.release_run(run)
    [life] = journal.lives(run.number)
    assert (life.end, life.message) == (end, "so")


def test_a_pending_run_has_not_lived(journal: Journal) -> None:
    """Its first life begins with the first claim."""
    run = journal.create_run(new_run(), state=StateType.PENDING)
    assert journal.lives(run.number) == []
    journal.claim_run(run.id)
    assert [life.number for life in journal.lives(run.number)] == [1]


def test_a_pause_in_memory_ends_no_life(journal: Journal) -> None:
    """Only who leaves memory has ended."""
    run = journal.create_run(new_run())
    journal.set_state(run.number, run.epoch, StateType.PAUSED)
    assert journal.lives(run.number)[0].end is LifeEnd.RUNNING


def test_lives_that_said_nothing_are_told_apart(journal: Journal) -> None:
    """Given back, taken away from a live owner."""
    run = journal.create_run(new_run())
    journal.release_run(run)
    taken = journal.claim_run(run.id)
    journal.claim_run(run.id, take_over=True)
    journal.release_run(taken)  # too late to say anything
    ends = [life.end for life in journal.lives(run.number)]
    assert ends == [LifeEnd.INTERRUPTED, LifeEnd.TAKEN_OVER, LifeEnd.RUNNING]


@pytest.mark.parametrize("state", [StateType.FAILED, StateType.CANCELLED, StateType.CRASHED])
def test_an_ended_run_is_reopened_for_whoever_claims_it(journal: Journal, state: StateType) -> None:
    """Its end is taken back, rows and origin are added, and the next life begins after them."""
    run = journal.create_run(new_run())
    journal.append(run.number, run.epoch, [row(run, 1)])
    journal.set_state(run.number, run.epoch, state, error=b"{}", message="so", release=True)
    reopened = journal.reopen_run(run.number, run.epoch, [row(run, 2, "attempt")], origin=Origin.MODEL)
    assert reopened == journal.get_run(run.id)
    assert (reopened.state, reopened.message, reopened.ended, reopened.error) == (
        StateType.PENDING,
        "",
        None,
        None,
    )
    assert reopened.origins == (Origin.PERSON, Origin.MODEL)
    assert [item.event for item in journal.steps(run.number)] == ["completed", "attempt"]
    assert [found.id for found in journal.due_runs(9.0)] == [run.id]
    assert journal.claim_run(run.id).state is StateType.RUNNING
    assert journal.lives(run.number)[-1].first == 3


def test_reopening_is_refused_where_it_makes_no_sense(journal: Journal) -> None:
    """A completed run, a live one, one that has moved, and one whose process is just giving it back."""
    done = journal.create_run(new_run())
    journal.set_state(done.number, done.epoch, StateType.COMPLETED, release=True)
    with pytest.raises(UsageError, match="has completed"):
        journal.reopen_run(done.number, done.epoch)
    alive = journal.create_run(new_run())
    with pytest.raises(UsageError, match="has not ended"):
        journal.reopen_run(alive.number, alive.epoch)
    journal.set_state(alive.number, alive.epoch, StateType.FAILED)
    with pytest.raises(RunOwnedError):
        journal.reopen_run(alive.number, alive.epoch)
    journal.release_run(alive)
    with pytest.raises(Fenced):
        journal.reopen_run(alive.number, alive.epoch - 1)
    with pytest.raises(Fenced):
        journal.reopen_run(99, 1)
    journal.reopen_run(alive.number, alive.epoch)
    with pytest.raises(UsageError):
        journal.reopen_run(alive.number, alive.epoch)


def test_no_other_verb_moves_an_ended_run(journal: Journal) -> None:
    """Although the table of states knows the way back."""
    run = journal.create_run(new_run())
    journal.set_state(run.number, run.epoch, StateType.FAILED)
    with pytest.raises(ValueError, match="cannot go from FAILED"):
        journal.set_state(run.number, run.epoch, StateType.PENDING)


def test_a_copy_begins_with_rows_of_the_other_run(journal: Journal) -> None:
    """At the same positions, with everybody who asked for either, and it knows where it comes from."""
    source = journal.create_run(new_run(origin=Origin.MODEL))
    rows = [row(source, 1), row(source, 4)]
    journal.append(source.number, source.epoch, rows)
    fork = Fork(source.id, "00ff", "step", 4, changed=True, happened=b"[]")
    new = new_run()
    with pytest.raises(UsageError, match="is being run"):
        journal.fork_run(new, fork, rows, source.origins)
    journal.release_run(source)
    run = journal.fork_run(new, fork, rows, source.origins)
    assert run == journal.get_run(new.id)
    assert (run.state, run.origins) == (StateType.PENDING, (Origin.PERSON, Origin.MODEL))
    assert journal.fork_of(run.number) == fork
    assert journal.fork_of(source.number) is None
    assert [item.id - (run.number << 32) for item in journal.steps(run.number)] == [1, 4]
    assert [item._replace(id=0) for item in journal.steps(run.number)] == [
        item._replace(id=0) for item in journal.steps(source.number)
    ]
    journal.claim_run(run.id)
    assert journal.lives(run.number)[0].first == 5
    with pytest.raises(RunNotFoundError):
        journal.fork_run(new_run(), Fork("nobody", "", "", 0, changed=False, happened=b"[]"), [], ())
