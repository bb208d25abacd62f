"""Results across runs in every store: kept, expired, pruned, cleared - and the locks that keep equal calls apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agentflow.errors import Fenced
from agentflow.journal.protocol import CacheFilter, CacheLock, CacheRow, Journal
from agentflow.journal.protocol.cache import KEPT_EXPIRED, PRUNED_AT_ONCE
from agentflow.model.ids import new_id
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from tests.journal.stores import STORES, open_store


@pytest.fixture(params=STORES)
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    """Each store, empty."""
    made = open_store(request, tmp_path)
    yield made
    made.close()


def new_run(journal: Journal) -> Run:
    return journal.create_run(NewRun(new_id(), "flow", "file.py:flow", b"{}", "fp", Origin.PERSON, 1.0))


def entry(
    run: Run,
    key: bytes = b"key",
    created: float = 1.0,
    expires: float | None = None,
    *,
    name: str = "t",
    private: bool = False,
) -> CacheRow:
    return CacheRow(
        key, b"1", created, expires, run.number, run.id, f"m:{name}", name, b'{"source":"00"}', private
    )


def store(journal: Journal, run: Run, *entries: CacheRow) -> None:
    """A step ends, and leaves these."""
    sequence = len(journal.steps(run.number)) + 1
    row = StepRow(
        (run.number << 32) + sequence, "completed", "task", "t", b"", b"k", b"", 0, 0, 0, 0, 0, 1.0, 2.0, b"1", None
    )  # fmt: skip
    journal.append(run.number, run.epoch, [row], cache=entries)


def keys(journal: Journal, wanted: CacheFilter | None = None) -> list[bytes]:
    return [found.key for found in journal.cache_entries(wanted or CacheFilter())]


def test_a_result_is_read_back_whole_and_replaced_by_a_later_one(journal: Journal) -> None:
    """With all that explains it; its expiry is the reader's to judge, and at the very moment it is over."""
    run = new_run(journal)
    stored = entry(run, expires=10.0)
    store(journal, run, stored)
    assert journal.cached(b"key") == stored
    assert stored.is_good(9.9)
    assert not stored.is_good(10.0)
    later = stored._replace(value=b"2", created=11.0, expires=None)
    store(journal, run, later)
    assert journal.cached(b"key") == later
    assert later.is_good(1e12)
    assert journal.cached(b"other") is None


def test_entries_are_listed_newest_first_without_their_values(journal: Journal) -> None:
    """By task, by name, by what had expired by a moment."""
    run = new_run(journal)
    store(
        journal, run, entry(run, b"1", 1.0), entry(run, b"2", 2.0, 5.0, name="u"), entry(run, b"3", 3.0, 6.0)
    )
    assert keys(journal) == [b"3", b"2", b"1"]
    assert keys(journal, CacheFilter(limit=1)) == [b"3"]
    assert keys(journal, CacheFilter(task="m:u")) == keys(journal, CacheFilter(name="u")) == [b"2"]
    assert keys(journal, CacheFilter(expired_by=5.0)) == [b"2"]
    (found,) = journal.cache_entries(CacheFilter(name="u"))
    assert (found.size, found.run_id, found.parts) == (1, run.id, b'{"source":"00"}')


def test_clearing_removes_what_is_asked_for_and_counts_it(journal: Journal) -> None:
    """Expired ones, those of a task, all."""
    run = new_run(journal)
    store(journal, run, entry(run, b"1"), entry(run, b"2", 2.0, 5.0, name="u"), entry(run, b"3", 3.0, 6.0))
    assert journal.clear_cache(CacheFilter(expired_by=5.5)) == 1
    assert keys(journal) == [b"3", b"1"]
    assert journal.clear_cache(CacheFilter(name="nobody")) == 0
    assert journal.clear_cache(CacheFilter(name="t")) == 2
    assert keys(journal) == []


def test_what_expired_long_ago_goes_a_few_at_a_time(journal: Journal) -> None:
    """Whenever something is stored; what expired lately stays, so that a miss can be explained."""
    run = new_run(journal)
    old = [entry(run, b"%02d" % number, 1.0, 10.0 + number) for number in range(PRUNED_AT_ONCE + 3)]
    store(journal, run, *old)
    store(journal, run, entry(run, b"first", KEPT_EXPIRED + 9.9))
    assert len(keys(journal)) == len(old) + 1
    store(journal, run, entry(run, b"second", 2 * KEPT_EXPIRED))
    assert sorted(keys(journal)[2:]) == [found.key for found in old[PRUNED_AT_ONCE:]]
    store(journal, run, entry(run, b"third", 2 * KEPT_EXPIRED))
    assert sorted(keys(journal)) == [b"first", b"second", b"third"]


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_is_good_in_one_run_only_goes_with_it(journal: Journal, cancelled: bool) -> None:
    """However the run ends; other runs' entries stay."""
    run, other = new_run(journal), new_run(journal)
    store(journal, run, entry(run, b"1", private=True), entry(run, b"2"))
    store(journal, other, entry(other, b"3", private=True))
    if cancelled:
        journal.release_run(run)
        journal.request_cancel(run.id, "enough")
    else:
        journal.set_state(run.number, run.epoch, StateType.PAUSED)
        assert len(keys(journal)) == 3
        journal.set_state(run.number, run.epoch, StateType.COMPLETED)
    assert sorted(keys(journal)) == [b"2", b"3"]
    if not cancelled:  # nor does it leave any that it stores afterwards
        store(journal, run, entry(run, b"4", private=True))
        journal.release_run(run)
        assert sorted(keys(journal)) == [b"2", b"3"]


def lock(run: Run, key: bytes, step: bytes = b"1", above: Sequence[bytes] = ()) -> CacheLock:
    return CacheLock(key, run.number, run.epoch, step, above[0] if above else b"")


def take(
    journal: Journal, run: Run, key: bytes, step: bytes = b"1", above: Sequence[bytes] = ()
) -> CacheLock | None:
    """Ask for a key, with the keys held around the step."""
    return journal.lock_key(lock(run, key, step, above), above)


def test_a_key_is_computed_by_one_call_at_a_time(journal: Journal) -> None:
    """Others are told who does; asking again does not hurt; giving back what is another's changes nothing."""
    one, two = new_run(journal), new_run(journal)
    heard: list[int] = []
    journal.subscribe(lambda: heard.append(1))
    first = lock(one, b"key")
    assert take(journal, one, b"key") == take(journal, one, b"key") == first
    assert take(journal, two, b"key") == first
    assert take(journal, one, b"key", b"2") == first
    assert take(journal, two, b"other") == lock(two, b"other")
    journal.unlock_key(lock(two, b"key"))
    assert journal.key_holder(b"key") == first
    heard.clear()
    journal.unlock_key(first)
    assert heard
    assert journal.key_holder(b"key") is None
    assert take(journal, two, b"key") == lock(two, b"key")


@pytest.mark.parametrize("end", ["released", "ended", "taken over"])
def test_a_lock_is_worth_as_much_as_the_claim_of_its_run(journal: Journal, end: str) -> None:
    """A run that nobody owns, has ended, or is owned by another claim holds nothing."""
    one, two = new_run(journal), new_run(journal)
    take(journal, one, b"key")
    if end == "released":
        journal.release_run(one)
    elif end == "ended":
        journal.set_state(one.number, one.epoch, StateType.FAILED, release=True)
    else:
        journal.claim_run(one.id, take_over=True)
        with pytest.raises(Fenced):
            take(journal, one, b"key")
    assert journal.key_holder(b"key") is None
    assert take(journal, two, b"key") == lock(two, b"key")


def test_waiting_that_would_never_end_is_refused(journal: Journal) -> None:
    """Whoever holds a key and waits for one that is held, directly or not, by somebody who waits for it."""
    runs = [new_run(journal) for _ in range(3)]
    for run, key in zip(runs, [b"a", b"b", b"c"], strict=True):
        take(journal, run, key)
    assert take(journal, runs[0], b"b", b"in a", [b"a"]) == lock(runs[1], b"b")
    assert take(journal, runs[1], b"c", b"in b", [b"b"]) == lock(runs[2], b"c")
    assert take(journal, runs[2], b"a", b"in c", [b"c"]) is None
    assert take(journal, runs[2], b"d", b"in c", [b"c"]) == lock(runs[2], b"d", b"in c", [b"c"])
    assert take(journal, runs[1], b"d", b"in b", [b"b"]) == lock(runs[2], b"d", b"in c", [b"c"])
    journal.release_run(runs[1])
    assert take(journal, runs[2], b"a", b"in c", [b"c"]) == lock(runs[0], b"a")


def test_a_call_deep_below_a_held_key_may_wait_for_none_that_is_held_above_it(journal: Journal) -> None:
    """What counts is every key computed around it, not only the innermost."""
    one, two = new_run(journal), new_run(journal)
    take(journal, one, b"a")
    take(journal, one, b"b", b"in a", [b"a"])
    take(journal, two, b"c")
    assert take(journal, two, b"a", b"in c", [b"c"]) == lock(one, b"a")
    assert take(journal, one, b"c", b"in b", [b"b", b"a"]) is None


def test_who_has_stopped_waiting_holds_nobody_up(journal: Journal) -> None:
    """The wait is forgotten with `unlock_key`."""
    one, two = new_run(journal), new_run(journal)
    take(journal, one, b"a")
    take(journal, two, b"b")
    take(journal, one, b"b", b"in a", [b"a"])
    assert take(journal, two, b"a", b"in b", [b"b"]) is None
    journal.unlock_key(lock(one, b"b", b"in a", [b"a"]))
    assert take(journal, two, b"a", b"in b", [b"b"]) == lock(one, b"a")
