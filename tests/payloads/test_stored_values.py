"""Large values leave their rows: stored once, durable before the row, kept for as long as something refers to them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentflow import INPUTS, flow, task
from agentflow.errors import CorruptRecord
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from agentflow.payloads.envelopes import REFERENCE, reference
from agentflow.payloads.opening import open_codec
from agentflow.stored_values import Swept, missing_values, named_in_row, references, sweep
from agentflow.views import plain
from tests.fundamentals.lives import die, last_run, resume, rows, start
from tests.payloads.driver import ALIVE, LARGE, RAN, USING, made, next_one, pipeline
from tests.payloads.keeping import KEY, grow_old, keeping, marks, stored

ROOT = Path(__file__).parents[2]
DRIVER = [sys.executable, "-m", "tests.payloads.driver"]


@flow
def longer(text: str, kind: str = "rows") -> int:
    return len(text) + len(made(kind))


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()
    ALIVE[0] = True


def dead(journal: SqliteJournal, kind: str = "text") -> str:
    """A run that died after its large value was recorded; its id."""
    ALIVE[0] = False
    run_id = die(pipeline, kind, journal=journal, using=USING)
    ALIVE[0] = True
    return run_id


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_value_is_a_reference_in_its_row_and_the_same_on_replay(
    journal: SqliteJournal, kind: str
) -> None:
    """The row stays small, the next life reads the value back and runs nothing again."""
    run_id = dead(journal, kind)
    (row,) = rows(journal, "completed", name="made")
    assert len(row.value or b"") < 200
    assert len(stored(journal)) == 1
    outcome = resume(pipeline, run_id, journal, USING)
    assert (outcome.value, RAN) == (LARGE[kind], [kind])
    assert type(outcome.value) is type(LARGE[kind])


def test_small_values_stay_in_their_rows(journal: SqliteJournal) -> None:
    """Nothing is written beside the journal for them."""
    LARGE["small"] = "x" * 900
    start(pipeline, "small", journal=journal, using=USING)
    assert stored(journal) == []


def test_without_a_limit_everything_stays_in_its_row(journal: SqliteJournal) -> None:
    """Also large parts: raw, not three times as long."""
    using = keeping(payload_inline_limit=-1)
    outcome = start(pipeline, "bytes", journal=journal, using=using)
    (row,) = rows(journal, "completed", name="made")
    assert (outcome.value, stored(journal)) == (LARGE["bytes"], [])
    assert 100_000 < len(row.value or b"") < 101_000
    assert plain(row.value) == "<100,000 bytes>"


def test_equal_values_are_stored_once(journal: SqliteJournal) -> None:
    """Whoever computes them, as argument, value or result; other ones are stored beside them."""
    start(pipeline, "text", journal=journal, using=USING)
    assert len(stored(journal)) == 1
    start(longer, LARGE["text"], journal=journal, using=USING)
    assert len(stored(journal)) == 3
    start(pipeline, "rows", journal=journal, using=USING)
    assert len(stored(journal)) == 3


def test_a_missing_value_stops_the_run_and_runs_nothing_again(journal: SqliteJournal) -> None:
    """What is missing is named, by the check as well; once it is back, the run goes on."""
    run_id = dead(journal)
    (path,) = stored(journal)
    aside = path.rename(path.with_name("aside"))
    (fault,) = missing_values(journal, USING.settings)
    assert path.name in fault
    with pytest.raises(CorruptRecord, match=f"{path.name} is missing .*AGENTFLOW_PAYLOADS_URL"):
        resume(pipeline, run_id, journal, USING)
    path.write_bytes(aside.read_bytes()[:-1])
    with pytest.raises(CorruptRecord, match=f"{path.name} was altered"):
        resume(pipeline, run_id, journal, USING)
    aside.rename(path)
    assert missing_values(journal, USING.settings) == []
    assert resume(pipeline, run_id, journal, USING).value == LARGE["text"]
    assert RAN == ["text"]


def test_a_missing_value_of_another_run_is_made_again(journal: SqliteJournal) -> None:
    """A cached result whose stored value is gone counts as none: the task runs, and its new result is used then."""

    @task(cache_policy=INPUTS)
    def large(size: int) -> str:
        RAN.append("large")
        return "x" * size

    @flow
    def run() -> int:
        return len(large(500_000))

    assert [start(run, journal=journal, using=USING).value for _ in range(2)] == [500_000] * 2
    assert RAN == ["large"]
    (path,) = stored(journal)
    path.unlink()
    assert [start(run, journal=journal, using=USING).value for _ in range(2)] == [500_000] * 2
    assert RAN == ["large"] * 2


def cut(data: bytes) -> bytes:
    return data[:-1]


def lengthened(data: bytes) -> bytes:
    return data + b" "


def forged(data: bytes) -> bytes:
    return b'"' + b"x" * (len(data) - 2) + b'"'


@pytest.mark.parametrize("change", [cut, lengthened, forged])
def test_an_altered_value_stops_the_run(journal: SqliteJournal, change: Callable[[bytes], bytes]) -> None:
    """Cut off, longer, or other content of the same length."""
    run_id = dead(journal, "rows")
    (path,) = stored(journal)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorruptRecord, match=r"altered|cut off"):
        resume(pipeline, run_id, journal, USING)
    assert RAN == ["rows"]


def test_values_that_nothing_refers_to_are_removed_in_two_steps(journal: SqliteJournal) -> None:
    """Those of a pruned run are marked by the first sweep after the grace, removed by one after another grace."""
    start(pipeline, "text", journal=journal, using=USING)
    start(longer, "short", journal=journal, using=USING)
    assert sweep(journal, USING.settings) == Swept()
    journal.prune_runs(time.time() + 10, limit=1)
    assert sweep(journal, USING.settings) == Swept()  # it was written just now
    grow_old(journal)
    size = stored(journal)[0].stat().st_size + stored(journal)[1].stat().st_size
    assert sweep(journal, USING.settings, dry_run=True).marked == 1
    assert marks(journal) == []
    assert sweep(journal, USING.settings).marked == 1
    assert len(stored(journal)) == 2
    assert sweep(journal, USING.settings).marked == 1  # still waiting
    grow_old(journal)
    swept = sweep(journal, USING.settings)
    assert (swept.removed, swept.marked, len(stored(journal)), marks(journal)) == (1, 0, 1, [])
    assert swept.removed_bytes == size - stored(journal)[0].stat().st_size
    assert list(references(journal)) == [stored(journal)[0].relative_to(journal.beside).as_posix()]


def test_content_that_comes_back_while_it_is_being_removed_is_stored_anew(journal: SqliteJournal) -> None:
    """Whoever finds a mark does not rely on the marked value; whoever came before the mark keeps it."""
    start(pipeline, "text", journal=journal, using=USING)
    journal.prune_runs(time.time() + 10)
    grow_old(journal)
    sweep(journal, USING.settings)
    start(pipeline, "text", journal=journal, using=USING)
    first, second = stored(journal)
    assert second.name == first.name + ".1"
    grow_old(journal)
    assert sweep(journal, USING.settings).removed == 1
    assert stored(journal) == [second]
    assert missing_values(journal, USING.settings) == []


def test_a_mark_on_what_is_referred_to_again_is_taken_away(journal: SqliteJournal) -> None:
    """A row that was committed after the mark was set, by somebody who had looked before, keeps its value."""
    run_id = dead(journal)
    (path,) = stored(journal)
    mark = journal.beside / "condemned" / path.relative_to(journal.beside)
    mark.parent.mkdir(parents=True)
    mark.touch()
    grow_old(journal)
    assert sweep(journal, USING.settings) == Swept()
    assert (marks(journal), resume(pipeline, run_id, journal, USING).value) == ([], LARGE["text"])


@task(cache_expiration=timedelta(days=900))
def cached(kind: str) -> Any:
    RAN.append(kind)
    return LARGE[kind]


@flow
def caching(kind: str) -> Any:
    return cached(kind)


def test_forks_and_cached_results_share_what_is_stored(journal: SqliteJournal) -> None:
    """And keep it when the run that has stored it is pruned."""
    first = start(caching, "text", journal=journal, using=USING)
    journal.prune_runs(time.time() + 10)
    assert (first.state, len(stored(journal))) == (StateType.COMPLETED, 1)
    grow_old(journal)
    assert sweep(journal, USING.settings) == Swept()
    second = start(caching, "text", journal=journal, using=USING)
    copied = caching.fork(second.run_id, from_step="cached#1", journal=journal, options=USING)
    assert (copied.value, RAN, len(stored(journal))) == (LARGE["text"], ["text"], 1)


@flow
def items(kind: str) -> list[Any]:
    return list(generated(kind))


@task
def generated(kind: str) -> Any:
    for number in range(3):
        RAN.append(f"{kind}{number}")
        yield LARGE[kind]
    next_one()


def test_items_of_generators_are_stored_one_by_one(journal: SqliteJournal) -> None:
    """And found by whoever looks for what is referred to; equal ones share."""
    whole = start(items, "rows", journal=journal, using=USING)
    assert whole.value == [LARGE["rows"]] * 3
    assert len(stored(journal)) == 2  # an item, and the list that the flow returned
    assert len(references(journal)) == 2
    again = items.fork(whole.run_id, from_step="generated#1", journal=journal, options=USING)
    assert again.value == whole.value


def test_processes_that_store_the_same_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each content is there once and whole, and nothing half written is left."""
    path = tmp_path / "j.db"
    SqliteJournal(path, KEY).close()
    writers = [
        subprocess.Popen(
            [*DRIVER, "write", str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=100)
        assert writer.returncode == 0
    journal = SqliteJournal(path, KEY)
    assert len(stored(journal)) == 20
    assert list((journal.beside / "drafts").iterdir()) == []
    assert missing_values(journal, USING.settings) == []
    journal.close()


def test_a_process_killed_between_value_and_row_loses_nothing(journal: SqliteJournal) -> None:
    """The value that no row came to refer to is used by the next life; where there is none, it is swept."""
    command = [*DRIVER, "killed", str(journal.path)]
    killed = subprocess.run(command, cwd=ROOT, check=False, timeout=100)
    assert killed.returncode == -9
    assert (len(stored(journal)), len(references(journal))) == (1, 0)
    assert resume(pipeline, last_run(journal), journal, USING).value == LARGE["text"]
    assert (len(stored(journal)), len(references(journal))) == (1, 1)
    journal.prune_runs(time.time() + 10)
    for _ in range(2):
        grow_old(journal)
        sweep(journal, USING.settings)
    assert stored(journal) == []


def test_a_full_disk_stops_the_run_which_can_be_resumed(journal: SqliteJournal) -> None:
    """The error says where and what to do; nothing half written counts as a value."""
    command = [*DRIVER, "full", str(journal.path)]
    full = subprocess.run(command, cwd=ROOT, check=True, timeout=100, capture_output=True, text=True)
    assert "could not be stored in" in full.stdout
    assert "resume the run" in full.stdout
    assert [path for path in journal.beside.rglob("*") if path.is_file()] == []
    assert resume(pipeline, last_run(journal), journal, USING).value == LARGE["text"]


def test_a_digest_is_no_reference_whatever_it_begins_with() -> None:
    """Only columns of values are looked at when a journal is exported."""
    row = {"key": b"%c\xed\xa0\x80" % REFERENCE, "value": reference("plain/" + 64 * "0", 5), "detail": None}
    assert list(named_in_row("step", row)) == ["plain/" + 64 * "0"]
    assert list(named_in_row("pruned", row)) == []


@pytest.mark.parametrize(
    "name", ["../" + 64 * "0", "a/../" + 64 * "0", "/" + 64 * "0", "", "plain/0", 64 * "0"]
)
def test_a_reference_leads_nowhere_else(journal: SqliteJournal, name: str) -> None:
    """Whatever somebody has written into a row, nothing but a value of the store is read for it."""
    with pytest.raises(CorruptRecord, match="names no value"):
        open_codec(journal, USING.settings).decode(reference(name, 5))
