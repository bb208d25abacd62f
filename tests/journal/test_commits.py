"""Group commit, when something goes wrong in the middle of it: nobody is told that a row is stored that is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentflow.errors import JournalUnavailable
from agentflow.journal.commits import Committer, connect
from agentflow.journal.locks import Turnstile
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.ids import new_id
from agentflow.model.runs import NewRun, Origin
from agentflow.model.steps import StepRow

KEY = b"k" * 32
THREADS = 9


class Interrupt(BaseException):
    """What Ctrl-C does to a thread."""


class Watched(Committer):
    """A committer that lets a test see who waits."""

    def count(self) -> int:
        return len(self._waiting)


class Failing:
    """A connection that raises after, or instead of, chosen statements; each once."""

    def __init__(self, real: apsw.Connection) -> None:
        self.real = real
        self.instead: dict[str, BaseException] = {}
        self.after: dict[str, BaseException] = {}

    def execute(self, statement: str, *values: Any) -> Any:
        for start in [start for start in self.instead if statement.startswith(start)]:
            raise self.instead.pop(start)
        result = self.real.execute(statement, *values)
        for start in [start for start in self.after if statement.startswith(start)]:
            raise self.after.pop(start)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Failing]:
    """A connection to a table of numbers."""
    made = Failing(connect(tmp_path / "j.db"))
    made.real.execute("CREATE TABLE number (value INTEGER PRIMARY KEY) STRICT")
    yield made
    made.real.close()


@pytest.fixture
def committer(failing: Failing, tmp_path: Path) -> Iterator[Watched]:
    """A committer on it."""
    turnstile = Turnstile(tmp_path / "turn")
    made: Any = Watched
    yield made(failing, turnstile)
    turnstile.close()


def insert(value: int) -> Callable[[apsw.Connection], int]:
    """Work that stores a number and returns it."""

    def work(db: apsw.Connection) -> int:
        db.execute("INSERT INTO number VALUES (?)", (value,))
        return value

    return work


def stored(failing: Failing) -> set[int]:
    rows: list[Any] = failing.real.execute("SELECT value FROM number").fetchall()
    return {value for (value,) in rows}


def together(
    committer: Watched, work: Callable[[int], Callable[[apsw.Connection], int]]
) -> dict[int, object]:
    """Let threads ask at the same time; what each was told."""
    told: dict[int, object] = {}

    def ask(number: int) -> None:
        try:
            told[number] = committer.run(work(number), durable=number % 2 == 0)
        except BaseException as error:  # noqa: BLE001 - what reached the thread is what is looked at
            told[number] = error

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    with committer.writing():
        for thread in threads:
            thread.start()
        while committer.count() < THREADS:
            time.sleep(0)
    for thread in threads:
        thread.join()
    return told


def test_threads_that_ask_together_are_committed_together(committer: Watched, failing: Failing) -> None:
    """Each is told its own result, and one that fails spoils nobody else's."""

    def work(number: int) -> Callable[[apsw.Connection], int]:
        def fail(db: apsw.Connection) -> int:
            insert(number)(db)
            raise LookupError(number)

        return fail if number == 4 else insert(number)

    told = together(committer, work)
    assert isinstance(told.pop(4), LookupError)
    assert told == {number: number for number in range(THREADS) if number != 4}
    assert stored(failing) == set(told)


def test_an_interrupted_leader_leaves_nobody_waiting_or_deceived(
    committer: Watched, failing: Failing
) -> None:
    """The thread that commits for all is interrupted: it is told so, the others' rows are stored, once."""
    interrupts = [Interrupt()]

    def work(number: int) -> Callable[[apsw.Connection], int]:
        def interrupted(db: apsw.Connection) -> int:
            insert(number)(db)
            if interrupts and len(stored(failing)) > 3:
                raise interrupts.pop()
            return number

        return interrupted

    told = together(committer, work)
    hit = [number for number, result in told.items() if isinstance(result, Interrupt)]
    assert len(hit) == 1
    assert stored(failing) == set(range(THREADS)) - set(hit)
    assert {number for number, result in told.items() if result == number} == stored(failing)


@pytest.mark.parametrize("statement", ["PRAGMA", "BEGIN", "SAVEPOINT", "RELEASE"])
def test_an_interrupt_anywhere_before_the_commit_loses_nobody(
    committer: Watched, failing: Failing, statement: str
) -> None:
    """At whichever statement: one thread is interrupted, the others are served."""
    failing.after[statement] = Interrupt()
    told = together(committer, insert)
    hit = [number for number, result in told.items() if isinstance(result, Interrupt)]
    assert len(hit) == 1
    assert stored(failing) == set(range(THREADS)) - set(hit)


def test_an_interrupt_after_the_commit_repeats_nothing(committer: Watched, failing: Failing) -> None:
    """All rows are stored once, and every thread but the interrupted one knows it."""
    failing.after["COMMIT"] = Interrupt()
    told = together(committer, insert)
    assert sum(isinstance(result, Interrupt) for result in told.values()) == 1
    assert sum(isinstance(result, int) for result in told.values()) == THREADS - 1
    assert stored(failing) == set(range(THREADS))


def test_a_commit_that_cannot_even_be_undone_is_reported_to_all(committer: Watched, failing: Failing) -> None:
    """COMMIT and ROLLBACK both fail: everybody is told, and the next commit starts from a clean state."""
    failing.instead = {"COMMIT": apsw.IOError("disk"), "ROLLBACK": apsw.IOError("disk")}
    told = together(committer, insert)
    assert {type(result) for result in told.values()} == {JournalUnavailable}
    assert failing.real.in_transaction
    assert committer.try_execute("INSERT INTO number VALUES (?)", (99,)) == 1
    assert stored(failing) == {99}


def test_an_interrupted_change_of_level_is_made_again(committer: Watched, failing: Failing) -> None:
    """The level that a commit asks for is the level that it gets, whatever happened before."""

    def level(db: apsw.Connection) -> object:
        return db.pragma("synchronous")

    assert committer.run(level, durable=True) == 2
    failing.after["PRAGMA synchronous=NORMAL"] = Interrupt()
    with pytest.raises(Interrupt):
        committer.run(level, durable=False)
    assert committer.run(level, durable=True) == 2
    assert committer.run(level, durable=False) == 1


def test_an_inline_write_gives_way_to_a_writer(committer: Watched) -> None:
    """Where somebody else writes, in this process or another, it returns at once and has done nothing."""
    with committer.writing():
        assert committer.try_execute("INSERT INTO number VALUES (?)", (1,)) is None
        assert not committer.try_run(insert(1))


def journal_with_a_run(path: Path) -> tuple[SqliteJournal, Callable[[int], StepRow]]:
    journal = SqliteJournal(path, KEY)
    run = journal.create_run(NewRun(new_id(), "f", "f.py:f", b"{}", "fp", Origin.PERSON, 1.0))

    def row(sequence: int) -> StepRow:
        place = (run.number << 32) + sequence
        return StepRow(place, "completed", "task", "s", b"", b"k", b"", 0, 0, 0, 0, 0, 1.0, 2.0, b"1", None)

    return journal, row


def test_a_journal_closed_under_its_writers_tells_each_what_became_of_its_row(tmp_path: Path) -> None:
    """Whoever was told that a row is stored finds it later; the others were refused; nobody waits for ever."""
    journal, row = journal_with_a_run(tmp_path / "j.db")
    acknowledged, refused = set[int](), list[BaseException]()
    started = threading.Barrier(5)

    def write(thread: int) -> None:
        started.wait()
        try:
            for sequence in range(thread * 10_000 + 1, (thread + 1) * 10_000):
                journal.append(1, 1, [row(sequence)], durable=sequence % 7 == 0)
                acknowledged.add(row(sequence).id)
        except JournalUnavailable as error:
            refused.append(error)

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    while len(acknowledged) < 200:
        time.sleep(0)
    journal.close()
    journal.close()
    for thread in threads:
        thread.join()
    assert [str(error) for error in refused] == ["the journal is closed"] * 4
    again = SqliteJournal(tmp_path / "j.db", KEY)
    assert {found.id for found in again.steps(1)} == acknowledged
    again.close()
