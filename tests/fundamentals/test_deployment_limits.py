"""``to_deployment(concurrency_limit=...)``, limits named ``deployment:FLOW/NAME``: runs of one deployment at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from agentflow import flow
from agentflow.concurrency import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from agentflow.deployments import Asked, ask_for_run
from agentflow.engine.limits import define
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.limit_views import AWAITING, Queues, find_limit, limit_view
from agentflow.model.limits import Limit
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.workers.inline import InlineWorker
from tests.fundamentals.limits import PATIENCE, Meter, held, take, until, waiting
from tests.fundamentals.lives import memory, options

NAME = "nightly/a"
LIMIT = f"deployment:{NAME}"


def asked(journal: Journal, name: str = NAME, **parameters: Any) -> Run:
    return ask_for_run(journal, name, Asked(parameters))


def worker_of(journal: Journal, served: Flow[..., Any]) -> InlineWorker:
    return InlineWorker(journal, {served.name: served}, options=replace(options(), suspend_after=60.0))


def ended(journal: Journal, state: StateType) -> list[Run]:
    return journal.list_runs(RunFilter(states=(state,)))


def test_runs_of_a_deployment_wait_for_each_other_and_for_no_others() -> None:
    """Two at once; runs of another deployment, and of the flow itself, have nothing to do with it."""
    journal, meter, others, go_on = memory(), Meter(), threading.Semaphore(0), threading.Semaphore(0)

    @flow
    def nightly(free: bool = False) -> None:
        if free:
            others.release()
            return
        with meter:
            assert go_on.acquire(timeout=PATIENCE)

    nightly.to_deployment("a", concurrency_limit=2).apply(journal)
    nightly.to_deployment("b").apply(journal)
    with worker_of(journal, nightly) as worker:
        runs = [asked(journal) for _ in range(6)]
        until(lambda: meter.now == 2, journal)
        asked(journal, "nightly/b", free=True)
        worker.start_run("nightly", {"free": True}, origin=Origin.PERSON)
        for _ in range(2):
            assert others.acquire(timeout=PATIENCE)
        pending = ended(journal, StateType.PENDING)
        assert {run.id for run in pending} == {run.id for run in runs[2:]}
        view = Queues(journal).view(pending[0])
        assert view["state_name"] == AWAITING
        assert "slot of deployment:nightly/a (limit 2, held by run" in view["awaiting_slots"][0]["text"]
        assert [slot["run_id"] for slot in limit_view(journal, find_limit(journal, LIMIT))["waiting"]] == [
            run.id for run in runs[2:]
        ]
        for _ in runs:
            go_on.release()
        until(lambda: len(ended(journal, StateType.COMPLETED)) == 8, journal)
    assert (meter.most, meter.times) == (2, 6)
    assert journal.list_slots() == []


def test_a_run_that_does_not_wait_is_cancelled_with_the_reason() -> None:
    """CANCEL_NEW: the newcomer ends at once, and says who is in the way."""
    journal, begun, go_on = memory(), threading.Event(), threading.Event()

    @flow
    def nightly() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    cancels = ConcurrencyLimitConfig(1, ConcurrencyLimitStrategy.CANCEL_NEW)
    nightly.to_deployment("a", concurrency_limit=cancels).apply(journal)
    with worker_of(journal, nightly) as worker:
        first = asked(journal)
        assert begun.wait(PATIENCE)
        second = worker.await_run(asked(journal).id, PATIENCE)
        assert second.state is StateType.CANCELLED
        assert second.message.startswith(
            f"no free slot, and nightly/a does not wait: a slot of {LIMIT} (limit 1, held by run {first.id}"
        )
        go_on.set()
        assert worker.await_run(first.id, PATIENCE).state is StateType.COMPLETED
        assert worker.await_run(asked(journal).id, PATIENCE).state is StateType.COMPLETED


def test_only_the_limit_that_is_full_says_what_becomes_of_a_run() -> None:
    """The flow's is full and lets runs wait, the deployment's cancels and has room: the run waits."""
    journal = memory()
    journal.set_limit(Limit("flow:nightly", 1))

    @flow
    def nightly() -> str:
        return "done"

    cancels = ConcurrencyLimitConfig(1, ConcurrencyLimitStrategy.CANCEL_NEW)
    nightly.to_deployment("a", concurrency_limit=cancels).apply(journal)
    take(journal, "flow:nightly")
    run = asked(journal)
    results: list[Any] = []

    def live() -> None:
        results.append(nightly.resume(run.id, journal=journal, options=options()))

    thread = threading.Thread(target=live)
    thread.start()
    until(lambda: waiting(journal, "flow:nightly"), journal)
    assert [slot.run_id for slot in waiting(journal, LIMIT)] == [run.id]
    journal.release_slots(["other"])
    thread.join(PATIENCE)
    assert results[0].value == "done"
    assert not held(journal, LIMIT)


def test_a_new_definition_changes_the_limit_unless_a_person_has_set_it() -> None:
    """What is set by name wins, as for flows; without a limit there is none."""
    journal = memory()

    @flow
    def nightly() -> None: ...

    def limits() -> list[tuple[str, int, bool]]:
        return [(limit.name, limit.limit, limit.declared) for limit in journal.list_limits()]

    nightly.to_deployment("a", concurrency_limit=2).apply(journal)
    assert limits() == [(LIMIT, 2, True)]
    nightly.to_deployment("a", concurrency_limit=3).apply(journal)
    assert limits() == [(LIMIT, 3, True)]
    nightly.to_deployment("a").apply(journal)
    assert limits() == []
    define(journal, LIMIT, limit=7)
    nightly.to_deployment("a", concurrency_limit=3).apply(journal)
    assert limits() == [(LIMIT, 7, False)]


def test_a_limit_that_was_not_written_down_is_so_by_the_first_run() -> None:
    """Whoever defines the deployment may die in between: the deployment says what the limit is."""
    journal = memory()

    @flow
    def nightly() -> None: ...

    nightly.to_deployment("a", concurrency_limit=2).apply(journal)
    journal.delete_limit(LIMIT)
    run = asked(journal)
    nightly.resume(run.id, journal=journal, options=options())
    assert [limit.limit for limit in journal.list_limits()] == [2]
    assert journal.get_run(run.id) is not None


def test_serve_limits_all_runs_of_its_process() -> None:
    """`limit` is how many runs of what is served are under way here at once, the others stay where they are."""
    journal, meter, go_on = memory(), Meter(), threading.Semaphore(0)

    @flow
    def nightly() -> None:
        with meter:
            assert go_on.acquire(timeout=PATIENCE)

    nightly.to_deployment("a").apply(journal)
    runs = [asked(journal) for _ in range(5)]
    using = replace(options(), suspend_after=60.0)
    worker = InlineWorker(journal, {"nightly": nightly}, limit=2, limits_flows=True, options=using)
    with worker:
        until(lambda: meter.now == 2, journal)
        worker.recover()
        assert meter.now == 2
        for _ in runs:
            go_on.release()
        until(lambda: len(ended(journal, StateType.COMPLETED)) == 5, journal)
    assert (meter.most, meter.times) == (2, 5)
