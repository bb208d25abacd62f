"""Runs claimed in batches: those that are free, each by one process, exactly as if they were claimed one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal, RunClaim
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.lives import LifeEnd
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from tests.journal.postgres_server import PostgresServer
from tests.journal.stores import KEY, STORES, open_store
from tests.journal.test_journals import new_run, row


@pytest.fixture(params=STORES)
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    """An empty journal of each kind."""
    opened = open_store(request, tmp_path, lambda: 5.0)
    yield opened
    opened.close()


def in_every_state(journal: Journal) -> list[Run]:
    """Runs that are pending, forked off with rows, waiting, asked to stop, interrupted, owned, and over."""
    pending = journal.create_run(new_run(), state=StateType.PENDING)
    waiting, stopping, interrupted, owned, over = (journal.create_run(new_run()) for _ in range(5))
    journal.append(waiting.number, waiting.epoch, [row(waiting, 1), row(waiting, 2)])
    journal.set_state(waiting.number, waiting.epoch, StateType.PAUSED, message="for rain", release=True)
    journal.append(
        stopping.number, stopping.epoch, [row(stopping, 1, "started")._replace(kind="transaction")]
    )
    journal.request_cancel(stopping.id, "enough")
    journal.release_run(stopping)
    journal.release_run(interrupted)
    journal.set_state(over.number, over.epoch, StateType.COMPLETED, result=b"1", release=True)
    return [pending, waiting, stopping, interrupted, owned, over]


def test_a_batch_is_what_single_claims_would_be(journal: Journal) -> None:
    """Owners, epochs, states, beginnings and lives; what is owned, over or unknown is left out."""
    many, single = in_every_state(journal), in_every_state(journal)
    claims = [RunClaim(run.id, "code", start=run is not many[1]) for run in many]
    batch = journal.claim_runs([*claims, RunClaim("no such run")])
    assert [run.number for run in batch] == [run.number for run in many[:4]]
    alone = [journal.claim_run(run.id, fingerprint="code", start=run is not single[1]) for run in single[:4]]

    def told(run: Run) -> tuple[object, ...]:
        lives = [life[1:] for life in map(_parts, journal.lives(run.number))]
        return run.epoch, run.owner, run.state, run.message, run.started, run.crashes, lives

    assert list(map(told, batch)) == list(map(told, alone))
    assert all(journal.is_owned(run) for run in batch)
    assert journal.due_runs(9.0) == []
    assert journal.claim_runs(claims) == []
    assert journal.claim_runs([]) == []


def _parts(life: object) -> tuple[object, ...]:
    return tuple(
        getattr(life, name)
        for name in ("run", "number", "began", "owner", "fingerprint", "first", "end", "message")
    )


def test_a_claimed_run_goes_on_as_any_other(journal: Journal) -> None:
    """Its owner writes at the new epoch, and it is free again once it was given back."""
    run = journal.create_run(new_run(), state=StateType.PENDING)
    [claimed] = journal.claim_runs([RunClaim(run.id, "code")])
    journal.append(claimed.number, claimed.epoch, [row(claimed, 1)])
    journal.release_run(claimed)
    [again] = journal.claim_runs([RunClaim(run.id, "code")])
    assert (again.epoch, again.crashes, again.state) == (2, 0, StateType.RUNNING)
    lives = journal.lives(run.number)
    assert [(life.end, life.first) for life in lives] == [(LifeEnd.INTERRUPTED, 1), (LifeEnd.RUNNING, 2)]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_workers_that_claim_at_once_share_what_there_is(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Four ask for all of the same runs, in batches: each run gets one owner, and none is left over."""
    opened = _opener(kind, tmp_path, request)
    journals = [opened() for _ in range(4)]
    runs = [journals[0].create_run(new_run(), state=StateType.PENDING) for _ in range(60)]
    claimed: list[list[str]] = [[] for _ in journals]
    start = threading.Barrier(len(journals))

    def claim(mine: int) -> None:
        start.wait()
        while due := journals[mine].due_runs(9.0, limit=7):
            claimed[mine] += [run.id for run in journals[mine].claim_runs([RunClaim(run.id) for run in due])]

    threads = [threading.Thread(target=claim, args=(mine,)) for mine in range(len(journals))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run_id for mine in claimed for run_id in mine) == sorted(run.id for run in runs)
    assert {len(journals[0].lives(run.number)) for run in runs} == {1}
    journals[1].close()  # as if its process had died
    due = {run.id for run in journals[0].due_runs(9.0)}
    assert due == set(claimed[1])
    for journal in journals:
        journal.close()


def _opener(kind: str, folder: Path, request: pytest.FixtureRequest) -> Callable[[], Journal]:
    if kind == "sqlite":
        return lambda: SqliteJournal(folder / "j.db", KEY)
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.url()
    return lambda: PostgresJournal(url, KEY)
