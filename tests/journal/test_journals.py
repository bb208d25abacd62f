"""One behaviour, every store: what a journal promises, tried on each of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentflow.errors import (
    Cancelling,
    DecisionRefusedError,
    Fenced,
    RunFinishedError,
    RunNotFoundError,
    RunOwnedError,
    WaitNotFoundError,
)
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.ids import new_id
from agentflow.model.lives import LifeEnd
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import LogRow, StepRow
from agentflow.model.waits import Channel, Decision, Verdict, Wait, WaitKind
from tests.journal.stores import KEY, STORES, open_store


@pytest.fixture(params=STORES)
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    """Each store, empty."""
    made = open_store(request, tmp_path)
    yield made
    made.close()


def new_run(flow: str = "flow", origin: Origin = Origin.PERSON) -> NewRun:
    """A run to be."""
    return NewRun(new_id(), flow, "file.py:flow", b"{}", "fp", origin, 1.0, tags=("a", "b"))


def row(run: Run, sequence: int, event: str = "completed", value: bytes = b"1") -> StepRow:
    """A row of a run."""
    return StepRow(
        (run.number << 32) + sequence, event, "task", "step", b"", b"k%d" % sequence, b"", 0, 0, 0, 0, sequence,
        1.0, 2.0, value, None,
    )  # fmt: skip


def wait(
    run: Run, name: str = "refund", kind: WaitKind = WaitKind.APPROVAL, due: float | None = None
) -> Wait:
    """A question of a run."""
    return Wait(
        id=f"{kind}-{name}", run=run.number, run_id=run.id, flow=run.flow, step="00", kind=kind, name=name,
        question={"message": "?"}, schema={}, digest="d", policy="p", opened=5.0, due=due,
    )  # fmt: skip


def approved(reason: str = "") -> Decision:
    """A signature."""
    return Decision(Verdict.APPROVED, None, reason, "ann", Channel.WEB)


def after_death(journal: Journal) -> Journal:
    """The journal, opened by another process after the one that had it open is gone."""
    if journal.address.startswith("http"):
        pytest.skip("who dies there is known by the server's journal, which is one of the others")
    journal.close()
    if journal.url == "memory:":
        return journal
    if journal.address.startswith("postgresql"):
        return PostgresJournal(journal.address, KEY)
    return SqliteJournal(Path(journal.address.removeprefix("sqlite:///")), KEY)


def test_a_run_whose_process_died_while_it_was_said_to_wait_is_due(journal: Journal) -> None:
    """Another branch of it may have moved since: whoever claims it finds out. One that was given back is not due."""
    runs = [journal.create_run(new_run()) for _ in range(2)]
    for run, leaves in zip(runs, (False, True), strict=True):
        journal.open_wait(run.epoch, wait(run, name=run.id))
        journal.set_state(run.number, run.epoch, StateType.PAUSED, release=leaves)
    assert journal.due_runs(9.0) == []
    heir = after_death(journal)
    assert [due.id for due in heir.due_runs(9.0)] == [runs[0].id]
    heir.claim_run(runs[0].id)
    first, second = heir.lives(runs[0].number)
    assert (first.end, first.message, second.end) == (LifeEnd.CRASHED, "while it waited", LifeEnd.RUNNING)
    heir.close()


def test_a_new_run_is_read_back_as_it_was_stored(journal: Journal) -> None:
    """What is created is found, field by field."""
    run = journal.create_run(new_run())
    assert run.state is StateType.RUNNING
    assert run.epoch == 1
    assert run.tags == ("a", "b")
    assert journal.get_run(run.id) == run
    assert journal.get_run("nobody") is None


def test_a_pending_run_belongs_to_nobody_until_it_is_claimed(journal: Journal) -> None:
    """Only the claim starts it, and only one claim succeeds."""
    run = journal.create_run(new_run(), state=StateType.PENDING)
    assert not journal.is_owned(run)
    assert [due.id for due in journal.due_runs(9.0)] == [run.id]
    claimed = journal.claim_run(run.id)
    assert claimed.state is StateType.RUNNING
    assert claimed.epoch == 1
    with pytest.raises(RunOwnedError, match="--take-over"):
        journal.claim_run(run.id)
    assert journal.due_runs(9.0) == []


def test_runs_of_some_flows_can_be_left_out_of_those_that_are_due(journal: Journal) -> None:
    """By the names of their flows; the others come in the order in which they were made."""
    made = [
        journal.create_run(replace(new_run(), id=f"run-{flow}-{number}", flow=flow), state=StateType.PENDING)
        for number in range(2)
        for flow in ("a", "b", "it's")
    ]
    assert [due.id for due in journal.due_runs(9.0)] == [run.id for run in made]
    assert [due.flow for due in journal.due_runs(9.0, without={"a", "it's"})] == ["b", "b"]
    assert journal.due_runs(9.0, without=["a", "b", "it's"]) == []


def test_a_pending_run_may_belong_to_whoever_made_it(journal: Journal) -> None:
    """It has not started, and nobody else can take it meanwhile."""
    run = journal.create_run(new_run(), state=StateType.PENDING, owned=True)
    assert journal.get_run(run.id) == run
    assert (run.state, run.epoch, run.started) == (StateType.PENDING, 1, None)
    assert journal.is_owned(run)
    assert journal.due_runs(9.0) == []
    with pytest.raises(RunOwnedError):
        journal.claim_run(run.id)
    assert [life.number for life in journal.lives(run.number)] == [1]
    journal.set_state(run.number, run.epoch, StateType.RUNNING)
    journal.release_run(run)
    assert [due.id for due in journal.due_runs(9.0)] == [run.id]


def test_a_run_that_fails_before_it_has_run_began_when_it_ended(journal: Journal) -> None:
    """One that has run keeps its beginning; one that is cancelled before has none."""
    for state in (StateType.FAILED, StateType.CANCELLED):
        run = journal.create_run(new_run(), state=StateType.PENDING, owned=True)
        journal.set_state(run.number, run.epoch, state, release=True)
        ended = journal.get_run(run.id)
        assert ended is not None
        assert ended.ended is not None
        assert ended.started == (ended.ended if state is StateType.FAILED else None)
    run = journal.create_run(new_run())
    journal.set_state(run.number, run.epoch, StateType.FAILED, release=True)
    ran = journal.get_run(run.id)
    assert ran is not None
    assert ran.started == run.started != ran.ended


def test_claims_of_unknown_and_finished_runs_are_refused(journal: Journal) -> None:
    """Each refusal says which of the two it is."""
    with pytest.raises(RunNotFoundError, match="no run 'x'"):
        journal.claim_run("x")
    run = journal.create_run(new_run())
    journal.set_state(run.number, run.epoch, StateType.COMPLETED, result=b"1")
    with pytest.raises(RunFinishedError, match="COMPLETED"):
        journal.claim_run(run.id)


def test_what_is_due_can_be_read_in_pages(journal: Journal) -> None:
    """Oldest first, from a number on, so many at most; what is owned counts for nothing."""
    runs = [journal.create_run(new_run(), state=StateType.PENDING) for _ in range(450)]
    numbers = [run.number for run in runs]
    assert [run.number for run in journal.due_runs(0.0)] == numbers
    assert [run.number for run in journal.due_runs(0.0, limit=3)] == numbers[:3]
    assert [run.number for run in journal.due_runs(0.0, after=numbers[440])] == numbers[441:]
    for run in runs[:300]:
        journal.claim_run(run.id)
    assert [run.number for run in journal.due_runs(0.0, limit=2)] == numbers[300:302]
    assert journal.due_runs(0.0, after=numbers[-1], limit=3) == []


def test_a_take_over_fences_the_owner_before(journal: Journal) -> None:
    """Every write of the stale owner is refused, and changes nothing."""
    old = journal.create_run(new_run())
    new = journal.claim_run(old.id, take_over=True)
    assert new.epoch == old.epoch + 1
    attempts: list[Callable[[], object]] = [
        lambda: journal.append(old.number, old.epoch, [row(old, 1)]),
        lambda: journal.append(old.number, old.epoch, [row(old, 1), row(old, 2)], durable=True),
        lambda: journal.try_append(old.number, old.epoch, [row(old, 1)]),
        lambda: journal.try_append(old.number, old.epoch, [row(old, 1), row(old, 2)]),
        lambda: journal.start_effect(old.number, old.epoch, row(old, 1, "intent")),
        lambda: journal.open_wait(old.epoch, wait(old)),
        lambda: journal.set_state(old.number, old.epoch, StateType.COMPLETED),
    ]
    for attempt in attempts:
        with pytest.raises(Fenced):
            attempt()
    assert journal.steps(old.number) == []
    assert journal.list_waits() == []
    journal.append(new.number, new.epoch, [row(new, 1)])
    assert len(journal.steps(new.number)) == 1


def test_a_released_run_can_be_claimed_again(journal: Journal) -> None:
    """Release frees the run without ending it; a crash is counted only where nobody said goodbye."""
    run = journal.create_run(new_run())
    journal.release_run(run)
    assert not journal.is_owned(run)
    again = journal.claim_run(run.id)
    assert again.crashes == 0
    assert again.epoch == 2


def test_illegal_transitions_are_refused(journal: Journal) -> None:
    """A finished run stays finished."""
    run = journal.create_run(new_run())
    journal.set_state(run.number, run.epoch, StateType.FAILED, error=b"{}")
    with pytest.raises(ValueError, match="cannot go from FAILED"):
        journal.set_state(run.number, run.epoch, StateType.COMPLETED)
    found = journal.get_run(run.id)
    assert found is not None
    assert (found.state, found.error) == (StateType.FAILED, b"{}")
    assert found.ended is not None


def test_rows_come_back_in_order_and_after_a_cursor(journal: Journal) -> None:
    """A run's rows are one ordered range, never another run's."""
    first, second = journal.create_run(new_run()), journal.create_run(new_run())
    for sequence in range(1, 6):
        journal.append(first.number, first.epoch, [row(first, sequence)])
        assert journal.try_append(second.number, second.epoch, [row(second, sequence)])
    rows = journal.steps(first.number)
    assert rows == [row(first, sequence) for sequence in range(1, 6)]
    assert journal.steps(first.number, after=rows[2].id) == rows[3:]
    assert journal.steps(first.number, after=rows[0].id, limit=2) == rows[1:3]


def test_a_wait_is_decided_once(journal: Journal) -> None:
    """The second answer is refused and says who was first."""
    run = journal.create_run(new_run())
    opened = journal.open_wait(run.epoch, wait(run))
    assert journal.open_wait(run.epoch, wait(run)) == opened
    decided = journal.decide(opened.id, approved("fine"), now=6.0, allowed_digest="d")
    assert decided.decision == approved("fine")
    assert decided.decided == 6.0
    with pytest.raises(DecisionRefusedError, match="already decided"):
        journal.decide(opened.id, Decision(Verdict.DENIED), now=7.0)
    with pytest.raises(WaitNotFoundError):
        journal.decide("nothing", approved(), now=7.0)
    assert journal.list_waits() == []
    assert [found.id for found in journal.list_waits(open_only=False)] == [opened.id]
    assert [found.id for found in journal.unread_answers(run.number)] == [opened.id]


def test_decisions_of_the_wrong_kind_too_late_or_after_the_end_are_refused(journal: Journal) -> None:
    """Nothing is stored for them."""
    run = journal.create_run(new_run())
    approval = journal.open_wait(run.epoch, wait(run, due=10.0))
    with pytest.raises(DecisionRefusedError, match="answered by approved or denied"):
        journal.decide(approval.id, Decision(Verdict.RUN_AGAIN), now=6.0)
    with pytest.raises(DecisionRefusedError, match="expired"):
        journal.decide(approval.id, approved(), now=10.0)
    timer = journal.open_wait(run.epoch, wait(run, "timer", WaitKind.TIMER))
    with pytest.raises(DecisionRefusedError, match="its time"):
        journal.decide(timer.id, Decision(Verdict.ANSWERED), now=6.0)
    journal.set_state(run.number, run.epoch, StateType.CANCELLED)
    with pytest.raises(DecisionRefusedError, match="already ended"):
        journal.decide(approval.id, approved(), now=6.0)
    found = journal.get_wait(approval.id)
    assert found is not None
    assert found.is_open


def test_a_signature_starts_exactly_one_effect_with_exactly_its_arguments(journal: Journal) -> None:
    """Unsigned, denied, for other arguments, spent: each is refused and no intent is stored."""
    run = journal.create_run(new_run())
    signed = journal.open_wait(run.epoch, wait(run))

    def start(sequence: int, digest: str = "d", *, again: bool = False) -> None:
        intent = row(run, sequence, "intent")
        journal.start_effect(run.number, run.epoch, intent, wait_id=signed.id, digest=digest, again=again)

    with pytest.raises(DecisionRefusedError, match="not approved"):
        start(1)
    journal.decide(signed.id, approved(), now=6.0, allowed_digest="d")
    with pytest.raises(DecisionRefusedError, match="other arguments"):
        start(1, "x")
    start(1)
    with pytest.raises(DecisionRefusedError, match="already used"):
        start(2)
    assert len(journal.steps(run.number)) == 1
    start(3, again=True)
    assert journal.unread_answers(run.number) == []
    denied = journal.open_wait(run.epoch, wait(run, "other"))
    journal.decide(denied.id, Decision(Verdict.DENIED), now=6.0)
    with pytest.raises(DecisionRefusedError, match="denied"):
        journal.start_effect(run.number, run.epoch, row(run, 4, "intent"), wait_id=denied.id, digest="d")


def test_a_withdrawn_question_cannot_be_answered_until_it_is_asked_again(journal: Journal) -> None:
    """What nobody waits for is not listed, refuses answers and takes no event; asked again, it is open as before."""
    run = journal.create_run(new_run())
    asked = journal.open_wait(1, wait(run))
    event = journal.open_wait(1, wait(run, "paid", WaitKind.EVENT))
    for question in (asked, event):
        journal.withdraw_wait(1, question)
    assert journal.list_waits() == []
    found = journal.get_wait(asked.id)
    assert found is not None
    assert not found.is_open
    with pytest.raises(DecisionRefusedError, match="withdrawn"):
        journal.decide(asked.id, approved(), now=6.0)
    assert journal.send_event(run.id, "paid", b"1", 7.0) is None
    with pytest.raises(Fenced):
        journal.withdraw_wait(9, asked)
    assert journal.open_wait(1, wait(run)).is_open
    assert [question.id for question in journal.list_waits()] == [asked.id]
    assert journal.decide(asked.id, approved(), now=8.0).decided == 8.0
    journal.withdraw_wait(1, asked)
    assert [answer.id for answer in journal.unread_answers(run.number)] == [asked.id]


def test_events_reach_the_first_wait_before_or_after_it_opens(journal: Journal) -> None:
    """An event sent early is kept; one sent late goes to the oldest wait; each is taken once."""
    run = journal.create_run(new_run())
    assert journal.send_event(run.id, "paid", b'{"n":1}', 2.0) is None
    early = journal.open_wait(run.epoch, wait(run, "paid", WaitKind.EVENT))
    assert early.decision is not None
    assert early.decision.answer == {"n": 1}
    other = journal.open_wait(run.epoch, wait(run, "shipped", WaitKind.EVENT))
    assert other.is_open
    assert journal.send_event(run.id, "shipped", b"2", 3.0) == other.id
    assert journal.send_event(run.id, "shipped", b"3", 3.0) is None
    found = journal.get_wait(other.id)
    assert found is not None
    assert found.decision is not None
    assert found.decision.answer == 2


def test_a_waiting_run_is_due_only_when_its_wait_is_over(journal: Journal) -> None:
    """Open: not due. Decided, or its time come: due. Taken: not due again."""
    run = journal.create_run(new_run())
    opened = journal.open_wait(run.epoch, wait(run, due=50.0))
    journal.set_state(run.number, run.epoch, StateType.PAUSED)
    journal.release_run(run)
    assert journal.due_runs(49.0) == []
    assert [due.id for due in journal.due_runs(50.0)] == [run.id]
    journal.decide(opened.id, approved(), now=6.0)
    assert [due.id for due in journal.due_runs(7.0)] == [run.id]
    again = journal.claim_run(run.id)
    journal.append(again.number, again.epoch, [row(again, 1)], consumed=[opened.id])
    journal.set_state(again.number, again.epoch, StateType.PAUSED)
    journal.release_run(again)
    assert journal.due_runs(99.0) == []


def test_cancelling_ends_what_nobody_runs_and_asks_what_somebody_runs(journal: Journal) -> None:
    """A pending run is cancelled at once, a running one is asked to stop, a finished one refuses."""
    pending = journal.create_run(new_run(), state=StateType.PENDING)
    assert journal.request_cancel(pending.id, "no").state is StateType.CANCELLED
    running = journal.create_run(new_run())
    assert journal.request_cancel(running.id, "no").state is StateType.CANCELLING
    journal.set_state(running.number, running.epoch, StateType.PAUSED)
    found = journal.get_run(running.id)
    assert found is not None
    assert found.state is StateType.CANCELLING
    journal.set_state(running.number, running.epoch, StateType.CANCELLED)
    with pytest.raises(RunFinishedError):
        journal.request_cancel(running.id, "no")


def test_hooks_on_its_cancellation_keep_a_run_that_has_begun(journal: Journal) -> None:
    """Where nobody runs it, it is CANCELLING and due until whoever takes it up lets it end."""
    new = replace(new_run(), on_cancellation=True)
    pending = journal.create_run(replace(new, id=new_id()), state=StateType.PENDING)
    assert journal.request_cancel(pending.id, "no").state is StateType.CANCELLED
    run = journal.create_run(new)
    assert run.on_cancellation
    assert journal.get_run(run.id) == run
    journal.set_state(run.number, run.epoch, StateType.PAUSED, release=True)
    assert journal.due_runs(99.0) == []
    assert journal.request_cancel(run.id, "no").state is StateType.CANCELLING
    assert journal.request_cancel(run.id, "again").message == "no"
    assert [due.id for due in journal.due_runs(99.0)] == [run.id]
    taken = journal.claim_run(run.id)
    journal.release_run(taken)  # it could not run them
    assert state_of(journal, run) == (StateType.CANCELLING, "no")
    taken = journal.claim_run(run.id)
    journal.set_state(taken.number, taken.epoch, StateType.RUNNING, release=True)
    assert state_of(journal, run) == (StateType.CANCELLED, "no")
    assert journal.due_runs(99.0) == []


def state_of(journal: Journal, run: Run) -> tuple[StateType, str]:
    """A run's state and message, as stored."""
    found = journal.get_run(run.id)
    assert found is not None
    return found.state, found.message


def test_cancelling_reaches_everything_that_a_run_has_started(journal: Journal) -> None:
    """Children and theirs, also below one that has ended; each says with whom it was cancelled, strangers go on."""
    top = journal.create_run(new_run())
    ended = journal.create_run(replace(new_run(), parent=top.id))
    below = journal.create_run(replace(new_run(), parent=ended.id), state=StateType.PENDING)
    beside = journal.create_run(replace(new_run(), parent=top.id))
    stranger = journal.create_run(new_run())
    journal.set_state(ended.number, ended.epoch, StateType.COMPLETED)
    journal.request_cancel(top.id, "enough")
    assert state_of(journal, top) == (StateType.CANCELLING, "enough")
    assert state_of(journal, ended)[0] is StateType.COMPLETED
    with_top = f"cancelled with its parent {top.id}: enough"
    assert state_of(journal, below) == (StateType.CANCELLED, with_top)
    assert state_of(journal, beside) == (StateType.CANCELLING, with_top)
    assert state_of(journal, stranger)[0] is StateType.RUNNING
    assert journal.list_runs(RunFilter(parent=top.id))[0].id == beside.id
    assert [run.id for run in journal.list_runs(RunFilter(parent=ended.id))] == [below.id]


def test_nothing_is_started_below_a_run_that_is_to_stop(journal: Journal) -> None:
    """The request would not reach it: while the parent stops, and after it has."""
    top = journal.create_run(new_run())
    journal.request_cancel(top.id, "enough")
    with pytest.raises(Cancelling, match="enough"):
        journal.create_run(replace(new_run(), parent=top.id))
    journal.set_state(top.number, top.epoch, StateType.CANCELLED, message="enough")
    with pytest.raises(Cancelling, match="enough"):
        journal.create_run(replace(new_run(), parent=top.id))
    assert len(journal.list_runs(RunFilter())) == 1


@pytest.mark.parametrize("how", ["released", "leaves memory"])
def test_a_run_that_its_owner_lets_go_while_it_is_to_stop_has_stopped(journal: Journal, how: str) -> None:
    """Nobody is left who could see the request; it ends for the reason of the first one who asked."""
    run = journal.create_run(new_run())
    journal.request_cancel(run.id, "the first")
    journal.request_cancel(run.id, "the second")
    if how == "released":
        journal.release_run(run)
    else:
        journal.set_state(run.number, run.epoch, StateType.PAUSED, message="waits", release=True)
    found = journal.get_run(run.id)
    assert found is not None
    assert (found.state, found.message) == (StateType.CANCELLED, "the first")
    assert found.ended is not None
    assert journal.due_runs(99.0) == []
    assert not journal.is_owned(run)


@pytest.mark.parametrize("how", ["released", "leaves memory", "nobody owned it"])
def test_a_run_with_a_transaction_to_be_undone_is_not_over(journal: Journal, how: str) -> None:
    """It stays due, so that somebody undoes it first; once it is undone, letting go of it ends it."""
    run = journal.create_run(new_run())
    begun = row(run, 1, "started")._replace(kind="transaction")
    journal.append(run.number, run.epoch, [begun])
    if how == "nobody owned it":
        journal.release_run(run)
    assert journal.request_cancel(run.id, "enough").state is StateType.CANCELLING
    if how == "released":
        journal.release_run(run)
    elif how == "leaves memory":
        journal.set_state(run.number, run.epoch, StateType.PAUSED, release=True)
    assert [due.id for due in journal.due_runs(99.0)] == [run.id]
    again = journal.claim_run(run.id)
    undone = begun._replace(id=begun.id + 1, event="rolled_back")
    journal.append(again.number, again.epoch, [undone])
    journal.release_run(again)
    assert state_of(journal, run) == (StateType.CANCELLED, "enough")


def test_the_reason_of_a_request_survives_the_owner(journal: Journal) -> None:
    """Whoever claims the run next knows why it is to stop."""
    run = journal.create_run(new_run())
    journal.request_cancel(run.id, "enough")
    claimed = journal.claim_run(run.id, take_over=True)
    assert (claimed.state, claimed.message) == (StateType.CANCELLING, "enough")


def test_runs_are_listed_newest_first_and_filtered(journal: Journal) -> None:
    """By state, by flow, page by page."""
    runs = [journal.create_run(new_run("a" if index % 2 else "b")) for index in range(6)]
    journal.set_state(runs[0].number, 1, StateType.COMPLETED)
    assert [run.number for run in journal.list_runs(RunFilter(limit=2))] == [6, 5]
    assert [run.number for run in journal.list_runs(RunFilter(limit=2, before=5))] == [4, 3]
    assert [run.number for run in journal.list_runs(RunFilter(flow="b"))] == [5, 3, 1]
    assert [run.number for run in journal.list_runs(RunFilter(states=(StateType.COMPLETED,)))] == [1]


def test_runs_are_found_by_tags(journal: Journal) -> None:
    """Those that have all of them, each as a whole."""
    for tags in (("red",), ("big", "red"), ("redder",), ()):
        journal.create_run(replace(new_run(), tags=tags))
    assert [run.number for run in journal.list_runs(RunFilter(tags=("red",)))] == [2, 1]
    assert [run.number for run in journal.list_runs(RunFilter(tags=("red", "big")))] == [2]
    assert journal.list_runs(RunFilter(tags=("r",))) == []


def test_logs_are_kept_per_run(journal: Journal) -> None:
    """In order, after a cursor."""
    first, second = journal.create_run(new_run()), journal.create_run(new_run())
    lines = [
        LogRow(run.number, 1.0, 20, "l", "s", text)
        for run, text in ((first, "a"), (second, "b"), (first, "c"))
    ]
    journal.add_logs(lines)
    found = journal.logs(first.number)
    assert [line.text for _, line in found] == ["a", "c"]
    assert [line.text for _, line in journal.logs(first.number, after=found[0][0])] == ["c"]


def test_more_origins_are_remembered_once(journal: Journal) -> None:
    """Origins only ever grow."""
    run = journal.create_run(new_run())
    journal.add_origin(run.id, Origin.MODEL)
    journal.add_origin(run.id, Origin.MODEL)
    found = journal.get_run(run.id)
    assert found is not None
    assert found.origins == (Origin.PERSON, Origin.MODEL)


def test_listeners_hear_of_changes_until_they_leave(journal: Journal) -> None:
    """Runs and waits are announced; steps are not (they are too many)."""
    heard: list[int] = []
    leave = journal.subscribe(lambda: heard.append(1))
    run = journal.create_run(new_run())
    journal.open_wait(run.epoch, wait(run))
    assert heard
    leave()
    count = len(heard)
    journal.decide("approval-refund", approved(), now=6.0)
    assert len(heard) == count


def test_many_threads_lose_nothing(journal: Journal) -> None:
    """Sixteen threads write at once; every row is there, once, and none of them waits for ever."""
    run = journal.create_run(new_run())

    def write(thread: int) -> None:
        for index in range(50):
            sequence = thread * 100 + index + 1
            journal.append(run.number, run.epoch, [row(run, sequence)], durable=index % 10 == 0)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({found.id for found in journal.steps(run.number)}) == 800
