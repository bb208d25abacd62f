"""Ten thousand runs that wait for a signature for thirty days: they cost nothing, and the inbox stays quick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentflow import flow, task
from agentflow.approvals.decisions import decide
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import NewRun, Origin
from agentflow.model.states import StateType
from agentflow.model.waits import Channel, Verdict, Wait, WaitKind
from agentflow.workers.inline import InlineWorker
from tests.faults import Measured
from tests.fundamentals.lives import KEY, Clock, options, with_gate

MANY, DAYS = 10_000, 30
PAID: list[int] = []


@task(side_effect=True, approval="always")
def pay(amount: int) -> int:
    PAID.append(amount)
    return amount


@flow
def paying(amount: int) -> int:
    return pay(amount)


def wait_for_a_signature(journal: SqliteJournal, clock: Clock) -> None:
    """A run of another program that has left memory with a question."""
    run = journal.create_run(NewRun("other", "other", "other.py:other", b"{}", "", Origin.MODEL, clock()))
    wait = Wait(
        id="approval", run=run.number, run_id=run.id, flow=run.flow, step="00", kind=WaitKind.APPROVAL,
        name="refund", question={"message": "?", "arguments": {}}, schema={}, digest="d", policy="", opened=clock(),
    )  # fmt: skip
    journal.open_wait(run.epoch, wait)
    journal.set_state(run.number, run.epoch, StateType.PAUSED, release=True)


def multiplied(journal: SqliteJournal, path: Path, count: int, clock: Clock) -> SqliteJournal:
    """The journal, with its last run, and the question of that, so many times."""
    rows = list(journal.dump())
    journal.close()

    def many() -> Iterator[tuple[str, dict[str, Any]]]:
        for table, row in rows:
            yield table, row
            last = row.get("id") == "other" or row.get("run_id") == "other"
            for more in range(1, count) if last else ():
                if table == "run":
                    yield table, {**row, "number": row["number"] + more, "id": f"other-{more}"}
                elif table == "wait":
                    run = row["run"] + more
                    yield table, {**row, "id": f"approval-{more}", "run": run, "run_id": f"other-{more}"}

    made = SqliteJournal(path, KEY, clock=clock)
    made.load(many)
    return made


def quickest(look: Callable[[], object], times: int = 7) -> float:
    """Seconds that it takes at best."""
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        look()
        took.append(time.perf_counter() - began)
    return min(took)


@pytest.mark.fault(14, "10,000 approvals pending for 30 days")
@pytest.mark.timeout(300)
def test_ten_thousand_signatures_are_waited_for_at_no_cost(
    tmp_path: Path, fault: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is in memory or taken up; the inbox is as quick as with two hundred; the one that is signed goes on."""
    monkeypatch.setenv("AGENTFLOW_APPROVAL_EXPIRES", "0")
    clock = Clock()
    using = with_gate(options(clock))
    few = SqliteJournal(tmp_path / "one.db", KEY, clock=clock)
    wait_for_a_signature(few, clock)
    few = multiplied(few, tmp_path / "few.db", 200, clock)
    floor = quickest(few.list_waits)
    few.close()
    journal = SqliteJournal(tmp_path / "two.db", KEY, clock=clock)
    run = paying.run({"amount": 5}, journal=journal, options=using, origin=Origin.PERSON)
    wait_for_a_signature(journal, clock)
    journal = multiplied(journal, tmp_path / "many.db", MANY - 1, clock)
    worker = InlineWorker(journal, {"paying": paying}, options=replace(using, suspend_after=0.0))
    clock.now += DAYS * 86_400
    assert worker.recover() == []
    listed = quickest(journal.list_waits)
    looked = quickest(worker.recover)
    print(
        f"inbox {listed * 1000:.1f} ms of {MANY}, {floor * 1000:.1f} ms of 200; a worker's look {looked * 1000:.0f} ms"
    )
    assert len(journal.list_waits()) == 200
    assert listed < 10 * floor + 0.01
    (wait,) = [wait for wait in journal.list_waits(number=1) if wait.run_id == run.run_id]
    decide(journal, wait.id, Verdict.APPROVED, actor="ann", channel=Channel.WEB, now=clock())
    assert worker.recover() == [run.run_id]
    ended = worker.await_run(run.run_id, 60.0)
    worker.stop()
    left = len(journal.list_waits(limit=MANY))
    fault(MANY, lost=MANY - 1 - left, doubled=max(0, len(PAID) - 1))
    assert (ended.state, PAID, left) == (StateType.COMPLETED, [5], MANY - 1)
    journal.close()
