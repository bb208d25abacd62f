"""What rows hold of values, in the stores that outlive their process: found where it is elsewhere, and replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import CacheRow
from agentflow.journal.protocol.payloads import COLUMNS, FIRST, Change, Holding
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.waits import Decision, Verdict, WaitKind
from tests.fundamentals.lives import Clock
from tests.journal.stores import open_store
from tests.journal.test_journals import new_run, row, wait

Journal = SqliteJournal | PostgresJournal
REFERENCE, CIPHERTEXT, PARTS = b'\1["plain/ab",3]', b"\2\5first\0\0", b"\3\0\0\0\2{}more"
ELSEWHERE = (REFERENCE, CIPHERTEXT, PARTS)
WITHIN = {"$": "kept", "v": "AVs="}


@pytest.fixture(params=["sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    """Each store that outlives its process, empty."""
    made = open_store(request, tmp_path, clock)
    assert isinstance(made, (SqliteJournal, PostgresJournal))
    yield made
    made.close()


def filled(journal: Journal, value: bytes, answer: Any = None) -> Run:
    """A run that has ended, and holds a value wherever a row can hold one."""
    run = journal.create_run(replace(new_run(), parameters=value))
    step = row(run, 1, value=value)
    failed = row(run, 2, value=b"1")._replace(detail=value)
    cached = CacheRow(b"key-%d" % run.number, value, 1000.0, None, run.number)
    journal.append(run.number, run.epoch, [step, failed], cache=[cached])
    journal.send_event(run.id, "bell", orjson.dumps(answer), 1000.0)
    asked = journal.open_wait(run.epoch, wait(run, f"{run.number}", WaitKind.INPUT))
    journal.decide(asked.id, Decision(Verdict.ANSWERED, answer), now=1000.0)
    journal.set_state(run.number, run.epoch, StateType.COMPLETED, result=value, release=True)
    return run


def found(journal: Journal, table: str, *, every: bool = False) -> list[Holding]:
    return journal.holdings(table, FIRST[table], 100, every=every)


@pytest.mark.parametrize("value", ELSEWHERE)
def test_values_that_are_kept_elsewhere_are_found_in_every_column(journal: Journal, value: bytes) -> None:
    """As they are in their rows, and within other JSON; what is readable where it stands is passed over."""
    filled(journal, b"[1]", {"$": "kep"})
    run = filled(journal, value, {"deep": [WITHIN]})
    filled(journal, b'"text"', None)
    base = run.number << 32
    assert found(journal, "run") == [Holding(run.number, (value, value, None))]
    assert found(journal, "step") == [Holding(base + 1, (value, None)), Holding(base + 2, (b"1", value))]
    assert found(journal, "cache") == [Holding(b"key-%d" % run.number, (value,))]
    [(_, payload)] = found(journal, "event")
    assert payload == (b'{"deep":[{"$":"kept","v":"AVs="}]}',)
    [(name, (decision,))] = found(journal, "wait")
    assert name == f"input-{run.number}"
    assert decision is not None
    assert b'{"$":"kept","v":"AVs="}' in decision


def test_a_value_within_json_of_a_row_is_found(journal: Journal) -> None:
    """Also behind bytes that are no text."""
    filled(journal, b'{"a":{"$":"kept","v":"AVs="}}')
    filled(journal, b'"\xff\xfe":{"$":"kept","v":"AVs="}')
    filled(journal, b'{"a":{"$":"keeping"}}')
    assert len(found(journal, "run")) == 2
    assert len(found(journal, "step")) == 4


def test_every_row_can_be_had_in_pages(journal: Journal) -> None:
    """In the order of their names, each once, whatever it holds."""
    runs = [filled(journal, value) for value in (b"1", REFERENCE, b"2", PARTS, b"3")]
    for table in COLUMNS:
        whole = found(journal, table, every=True)
        assert len(whole) == len(runs) * (2 if table == "step" else 1)
        assert [one.row for one in whole] == sorted(one.row for one in whole)
        paged: list[Holding] = []
        after = FIRST[table]
        while page := journal.holdings(table, after, 2, every=True):
            assert len(page) <= 2
            paged += page
            after = page[-1].row
        assert paged == whole
        kept = found(journal, table)
        assert [one for one in whole if one in kept] == kept


def test_what_is_no_more_what_it_was_is_not_replaced(journal: Journal) -> None:
    """The others are, all in one transaction; what they hold beside it stays."""
    run = filled(journal, REFERENCE)
    base = run.number << 32
    changes = [
        Change(base + 1, "value", REFERENCE, CIPHERTEXT),
        Change(base + 2, "value", b"something else", CIPHERTEXT),
        Change(base + 2, "detail", REFERENCE, PARTS),
        Change(base + 3, "value", REFERENCE, CIPHERTEXT),
    ]
    assert journal.replace_holdings("step", changes) == 2
    assert journal.replace_holdings("step", changes) == 0
    assert found(journal, "step") == [Holding(base + 1, (CIPHERTEXT, None)), Holding(base + 2, (b"1", PARTS))]
    assert journal.replace_holdings("run", [Change(run.number, "result", REFERENCE, b"7")]) == 1
    after = journal.get_run(run.id)
    assert after is not None
    assert (after.parameters, after.result, after.state) == (REFERENCE, b"7", StateType.COMPLETED)
    assert journal.replace_holdings("cache", [Change(b"key-1", "value", REFERENCE, b"8")]) == 1
    assert found(journal, "cache") == []
    assert journal.replace_holdings("run", []) == 0
