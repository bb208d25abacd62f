"""A journal carried elsewhere: every row, from one kind of store to another, and on from there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from agentflow.errors import UsageError
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal
from agentflow.journal.protocol.admin import TABLES, AdminVerbs, TableRow
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.limits import Limit
from agentflow.model.states import StateType
from tests.journal.oracle import everything
from tests.journal.postgres_server import PostgresServer
from tests.journal.stores import KEY
from tests.journal.test_journals import new_run, row
from tests.journal.test_retention import ended_run

KINDS = ["sqlite", "postgres"]


def opened(
    kind: str, folder: Path, name: str, request: pytest.FixtureRequest
) -> SqliteJournal | PostgresJournal:
    """An empty journal of that kind."""
    if kind == "sqlite":
        return SqliteJournal(folder / name, KEY)
    server: PostgresServer = request.getfixturevalue("postgres")
    return PostgresJournal(server.url(), KEY)


def filled(journal: Journal) -> None:
    """Runs in several states, with rows in every table that is carried elsewhere."""
    ended_run(journal)
    failed = ended_run(journal, StateType.FAILED)
    journal.reopen_run(failed.number, failed.epoch)
    ended_run(journal)
    journal.prune_runs(time.time() + 1, limit=1)
    waiting = journal.create_run(new_run())
    journal.append(waiting.number, waiting.epoch, [row(waiting, 1, value=bytes(range(256)))])
    journal.set_state(waiting.number, waiting.epoch, StateType.PAUSED, release=True)
    journal.set_limit(Limit("db", 3))


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_a_journal_is_carried_elsewhere(
    source: str, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All of it is there afterwards, and new runs go on with numbers of their own."""
    old, new = (opened(kind, tmp_path, f"{place}.db", request) for place, kind in enumerate((source, target)))
    filled(old)
    assert isinstance(old, AdminVerbs)
    count = new.load(old.dump)
    counts = old.facts()["rows"]
    assert (count, new.facts()["rows"], new.faults()) == (sum(counts.values()), counts, [])
    assert everything(new, 0.0) == everything(old, 0.0)
    assert [limit.name for limit in new.list_limits()] == ["db"]
    run = ended_run(new)
    assert run.number == max(found["number"] for table, found in old.dump() if table == "run") + 1
    with pytest.raises(UsageError, match="is not empty"):
        new.load(old.dump)
    for journal in (old, new):
        journal.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_changes_nothing(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A table or a column of a newer version, or rows that end in an error: the journal stays empty."""
    source, journal = opened("sqlite", tmp_path, "a.db", request), opened(kind, tmp_path, "b.db", request)
    filled(source)
    rows = list(source.dump())

    def broken() -> Iterable[TableRow]:
        yield from rows
        raise UsageError("cut off")

    for wrong, said in (
        ([*rows, ("later", {"a": 1})], r"knows no later\."),
        ([*rows, ("run", {**rows[0][1], "colour": "red"})], r"knows no run\.colour"),
    ):
        with pytest.raises(UsageError, match=said):
            journal.load(lambda wrong=wrong: wrong)
    with pytest.raises(UsageError, match="cut off"):
        journal.load(broken)
    assert journal.facts()["rows"] == dict.fromkeys(TABLES, 0)
    assert journal.load(lambda: rows) == len(rows)
    for opened_one in (source, journal):
        opened_one.close()
