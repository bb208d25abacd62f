"""R7 for runs that have ended: somebody has one go on; the culprits run again, everything else stays as it was."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentflow import NotDone, flow, task
from agentflow.engine.flow_run import Outcome
from agentflow.errors import ApprovalDenied, Fenced, InDoubtError, UsageError
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.model.lives import LifeEnd
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from agentflow.model.waits import Verdict, WaitKind
from agentflow.payloads.failures import describe_failure
from tests.engine.crashing import Crash, CrashingJournal
from tests.fundamentals.lives import Death, answer, memory, open_wait, options, resume, rows, start

RAN: list[Any] = []
#: Names of steps that fail for now.
BROKEN: set[str] = set()


@pytest.fixture(autouse=True)
def _a_fresh_world() -> None:
    RAN.clear()
    BROKEN.clear()


@task
def step(name: str) -> str:
    RAN.append(name)
    if name in BROKEN:
        raise ValueError(name)
    return name


@task(side_effect=True)
def pay(name: str) -> str:
    RAN.append(f"paid {name}")
    if name in BROKEN:
        raise NotDone(name)
    return name


@task(side_effect=True)
def doubtful(name: str) -> str:
    RAN.append(f"paid {name}")
    if name in BROKEN:
        raise OSError(name)
    return name


def retry(run: Flow[..., Any], ended: Outcome, journal: Journal, **how: Any) -> Outcome:
    """Have an ended run go on; RAN is what ran since."""
    RAN.clear()
    return run.retry(ended.run_id, journal=journal, options=options(gate=how.pop("gate", False)), **how)


def test_a_failed_run_goes_on_at_its_culprit_however_deep() -> None:
    """In a task in a sub-flow: what came before it, at every depth, is not run again; retry after retry."""

    @task
    def deep() -> list[str]:
        return [step("d1"), step("d2"), step("d3")]

    @flow
    def sub() -> list[Any]:
        return [step("s1"), deep(), step("s3")]

    @flow
    def run() -> list[Any]:
        return [step("a"), sub(), step("z")]

    journal = memory()
    BROKEN.add("d2")
    ended = start(run, journal=journal)
    assert (ended.state, RAN) == (StateType.FAILED, ["a", "s1", "d1", "d2"])
    for _ in range(3):
        ended = retry(run, ended, journal)
        assert (ended.state, str(ended.error), RAN) == (StateType.FAILED, "d2", ["d2"])
    BROKEN.clear()
    ended = retry(run, ended, journal)
    assert ended.value == ["a", ["s1", ["d1", "d2", "d3"], "s3"], "z"]
    assert RAN == ["d2", "d3", "s3", "z"]


def test_branches_that_had_nothing_to_do_with_it_keep_what_they_have() -> None:
    """Finished ones are reused, and one that was cancelled half-way goes on where it stood."""
    arrived: list[asyncio.Event] = []

    @task
    async def fetch(name: str) -> str:
        RAN.append(name)
        if name in BROKEN:
            raise ValueError(name)
        return name

    @task
    async def half_way() -> str:
        first = await fetch("half")
        arrived[-1].set()
        if BROKEN:
            await asyncio.Event().wait()
        return first + await fetch("whole")

    async def branch(name: str) -> str:
        return await fetch(f"{name}1") + await fetch(f"{name}2")

    @flow
    async def run() -> list[str]:
        arrived.append(asyncio.Event())
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(half_way()), group.create_task(branch("good"))]
            await made[1]
            await arrived[-1].wait()
            made.append(group.create_task(branch("bad")))
        return [one.result() for one in made]

    journal = memory()
    BROKEN.add("bad2")
    ended = start(run, journal=journal)
    assert sorted(RAN) == ["bad1", "bad2", "good1", "good2", "half"]
    BROKEN.clear()
    ended = retry(run, ended, journal)
    assert ended.value == ["halfwhole", "good1good2", "bad1bad2"]
    assert sorted(RAN) == ["bad2", "whole"]


def test_where_the_flows_own_code_failed_all_its_pure_steps_run_again() -> None:
    """Else it would be given the same values and fail for ever; what was paid stays paid."""

    @flow
    def run() -> str:
        pay("p")
        status = step("status")
        if BROKEN:
            raise ZeroDivisionError
        return status

    journal = memory()
    BROKEN.add("anything")
    ended = start(run, journal=journal)
    assert isinstance(ended.error, ZeroDivisionError)
    BROKEN.clear()
    assert retry(run, ended, journal).value == "status"
    assert RAN == ["status"]


def test_a_side_effect_that_was_not_done_runs_again_and_others_stay() -> None:
    """Also in an attempt of the flow that is not its first."""

    @flow(retries=1)
    def run() -> list[str]:
        return [pay("first"), step("between"), pay("second")]

    journal = memory()
    BROKEN.add("second")
    ended = start(run, journal=journal)
    assert RAN == ["paid first", "between", "paid second", "paid second"]
    BROKEN.clear()
    assert retry(run, ended, journal).value == ["first", "between", "second"]
    assert RAN == ["paid second"]


def test_one_in_doubt_is_asked_about() -> None:
    """Nothing repeats it without a person's word; "fail" leaves it in doubt for the next time."""

    @flow
    def run() -> str:
        return doubtful("it")

    journal = memory()
    BROKEN.add("it")
    ended = start(run, journal=journal)
    assert isinstance(ended.error, OSError)
    BROKEN.clear()
    waiting = retry(run, ended, journal)
    assert (waiting.state, open_wait(journal).kind) == (StateType.PAUSED, WaitKind.IN_DOUBT)
    answer(journal, Verdict.FAIL)
    ended = resume(run, ended.run_id, journal)
    assert isinstance(ended.error, InDoubtError)
    assert retry(run, ended, journal).state is StateType.PAUSED
    question = open_wait(journal)
    assert (question.kind, question.question["executed"]) == (WaitKind.IN_DOUBT, {"name": "it"})
    answer(journal, Verdict.RUN_AGAIN)
    assert resume(run, ended.run_id, journal).value == "it"
    assert RAN == ["paid it"]


def test_what_was_denied_is_asked_for_again_only_where_it_ended_the_run() -> None:
    """A denial that the flow had an answer to stays one."""

    @task(side_effect=True, approval="always")
    def signed(name: str) -> str:
        RAN.append(f"paid {name}")
        return name

    @flow
    def run() -> list[str]:
        try:
            first = signed("first")
        except ApprovalDenied:
            first = "denied"
        return [first, signed("second")]

    journal = memory()
    run_id = start(run, journal=journal, using=options(gate=True)).run_id
    answer(journal, Verdict.DENIED)
    resume(run, run_id, journal, options(gate=True))
    answer(journal, Verdict.DENIED, reason="not now")
    ended = resume(run, run_id, journal, options(gate=True))
    assert isinstance(ended.error, ApprovalDenied)
    assert retry(run, ended, journal, gate=True).state is StateType.PAUSED
    assert open_wait(journal).question["arguments"] == {"name": "second"}
    answer(journal, Verdict.APPROVED)
    assert resume(run, run_id, journal, options(gate=True)).value == ["denied", "second"]
    assert RAN == ["paid second"]


def test_a_cancelled_run_goes_on_where_it_was_cut_off() -> None:
    """Nothing failed, so nothing runs again."""
    lives: list[int] = []

    @flow
    def run() -> str:
        step("a")
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return step("b")

    journal = memory()
    with pytest.raises(Death):
        start(run, journal=journal)
    run_id = open_runs(journal)
    cancelled = journal.request_cancel(run_id, "enough")
    assert cancelled.state is StateType.CANCELLED
    RAN.clear()
    assert run.retry(run_id, journal=journal, options=options()).value == "b"
    assert RAN == ["b"]
    assert [life.end for life in journal.lives(1)] == [LifeEnd.INTERRUPTED, LifeEnd.COMPLETED]


def open_runs(journal: Journal) -> str:
    [run] = journal.due_runs(0.0)
    return run.id


def test_the_earlier_end_stays_in_the_history() -> None:
    """Each life says how it ended, and the failure itself is kept."""

    @flow
    def run() -> str:
        return step("a")

    journal = memory()
    BROKEN.add("a")
    ended = start(run, journal=journal)
    BROKEN.clear()
    retry(run, ended, journal, origin=Origin.MODEL)
    first, second = journal.lives(1)
    assert (first.end, first.message, first.origin) == (LifeEnd.FAILED, "ValueError: a", "person")
    assert (second.end, second.origin, second.first) == (LifeEnd.COMPLETED, "model", 4)
    [kept] = rows(journal, "attempt")
    assert describe_failure(kept.value or b"")["text"] == "a"
    found = journal.get_run(ended.run_id)
    assert found is not None
    assert (found.state, found.error, found.origins) == (
        StateType.COMPLETED,
        None,
        (Origin.PERSON, Origin.MODEL),
    )


def test_what_a_model_has_go_on_is_signed_from_then_on() -> None:
    """Whoever started the run."""

    @flow
    def run() -> list[str]:
        return [pay("first"), step("a"), pay("second")]

    journal = memory()
    BROKEN.add("a")
    ended = start(run, journal=journal, using=options(gate=True))
    BROKEN.clear()
    assert retry(run, ended, journal, origin=Origin.MODEL, gate=True).state is StateType.PAUSED
    assert open_wait(journal).question["arguments"] == {"name": "second"}


def test_a_flows_own_retries_begin_anew() -> None:
    """As those of its tasks do."""

    @task(retries=1)
    def twice() -> str:
        return step("t")

    @flow(retries=2)
    def run() -> str:
        return twice()

    journal = memory()
    BROKEN.add("t")
    ended = start(run, journal=journal)
    assert len(RAN) == 6
    ended = retry(run, ended, journal)
    assert len(RAN) == 6


def test_only_ended_runs_go_on_and_completed_ones_do_not() -> None:
    """Both refusals say what to do instead."""

    @flow
    def run() -> str:
        if BROKEN:
            raise Death
        return step("a")

    journal = memory()
    done = start(run, journal=journal)
    with pytest.raises(UsageError, match="has completed; fork it"):
        retry(run, done, journal)
    BROKEN.add("x")
    with pytest.raises(Death):
        start(run, journal=journal)
    with pytest.raises(UsageError, match=r"has not ended.*resume it"):
        run.retry(open_runs(journal), journal=journal)


def test_only_one_of_two_has_a_run_go_on() -> None:
    """Who comes second is told so, and changes nothing."""

    @flow
    def run() -> str:
        return step("a")

    journal = memory()
    BROKEN.add("a")
    ended = start(run, journal=journal)
    found = journal.get_run(ended.run_id)
    assert found is not None
    BROKEN.clear()
    retry(run, ended, journal)
    with pytest.raises(Fenced):
        journal.reopen_run(found.number, found.epoch)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_kill_at_any_write_of_a_retried_run_repeats_nothing(colour: str) -> None:
    """Whatever had finished before, in whichever life, stays finished."""

    @task(retries=1)
    def deep() -> list[str]:
        return [step("d1"), step("d2")]

    @flow
    def sync_run() -> list[Any]:
        return [step("a"), deep(), pay("p"), step("z")]

    @task
    async def async_step(name: str) -> str:
        return step.fn(name)

    @task(retries=1)
    async def async_deep() -> list[str]:
        return [await async_step("d1"), await async_step("d2")]

    @task(side_effect=True)
    async def async_pay(name: str) -> str:
        return pay.fn(name)

    @flow
    async def async_run() -> list[Any]:
        first, second = await asyncio.gather(async_step("a"), async_deep())
        return [first, second, await async_pay("p"), await async_step("z")]

    run: Flow[..., Any] = sync_run if colour == "sync" else async_run
    point = 1
    while killed_at(run, point):
        point += 1
    assert point > 5


def killed_at(run: Flow[..., Any], point: int) -> bool:
    """Have a failed run go on with a kill at a write, and see it through; False where there was no such write."""
    RAN.clear()
    journal = CrashingJournal()
    BROKEN.add("d2")
    ended = start(run, journal=journal)
    assert sorted(RAN) == ["a", "d1", "d2", "d2"]
    BROKEN.clear()
    journal.writes, journal.at = 0, point
    try:
        outcome = run.retry(ended.run_id, journal=journal, options=options())
        died = False
    except Crash:
        died = True
        journal.revive()
        journal.close()
        outcome = seen_through(run, ended.run_id, journal)
    assert outcome is None or outcome.value == ["a", ["d1", "d2"], "p", "z"]
    assert (RAN.count("a"), RAN.count("d1"), RAN.count("paid p")) == (1, 1, 1)
    assert RAN.count("d2") <= 4
    return died


def seen_through(run: Flow[..., Any], run_id: str, journal: Journal) -> Outcome | None:
    """Resume a run, and say of what is in doubt what became of it; None where it has ended."""
    stored = journal.get_run(run_id)
    assert stored is not None
    if stored.state.is_final:
        assert stored.state is StateType.COMPLETED
        return None
    outcome = resume(run, run_id, journal)
    if outcome.waiting_for:
        assert outcome.waiting_for[0].kind is WaitKind.IN_DOUBT
        happened = "paid p" in RAN
        answer(journal, Verdict.HAPPENED if happened else Verdict.RUN_AGAIN, "p" if happened else None)
        outcome = resume(run, run_id, journal)
    return outcome


def test_a_step_that_contains_an_effect_counts_in_the_next_attempt_too() -> None:
    """Else the effects after it would seem to have changed places, and a correct run would be stopped."""
    lives: list[int] = []

    @task
    def pays() -> str:
        return pay("inner")

    @flow(retries=1)
    def run() -> list[str]:
        found = [pays(), pay("outer"), step("s"), pay("last")]
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return found

    def mend(_: float) -> None:
        BROKEN.clear()

    journal = memory()
    BROKEN.add("s")
    with pytest.raises(Death):  # what was broken is mended in the delay before the retry
        start(run, journal=journal, using=replace(options(), sleep=mend))
    outcome = resume(run, open_runs(journal), journal)
    assert (outcome.value, outcome.waiting_for) == (["inner", "outer", "s", "last"], ())
    assert [name for name in RAN if name.startswith("paid")] == ["paid inner", "paid outer", "paid last"]
