"""Limits and slots, on every store: who gets a slot, who waits, and what becomes of what the dead held."""

from __future__ import annotations

import pytest

from agentflow.errors import Fenced, LimitNotFoundError, UsageError
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import Journal
from agentflow.model.ids import new_id
from agentflow.model.limits import Claim, ConcurrencyLimitStrategy, Grant, Limit
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepRow
from tests.fundamentals.lives import Clock
from tests.journal.stores import KEY

FREE, HELD, WAITING, REFUSED = Grant.UNLIMITED, Grant.HELD, Grant.WAITING, Grant.REFUSED


def run_of(journal: Journal) -> Run:
    """A run that this process owns."""
    return journal.create_run(NewRun(new_id(), "flow", "f.py:f", b"{}", "fp", Origin.PERSON, 1.0))


def claim(journal: Journal, name: str, *limits: str, slots: int = 1, run: Run | None = None) -> Grant:
    """Claim slots under a name."""
    number, epoch, run_id = (0, 0, "") if run is None else (run.number, run.epoch, run.id)
    return journal.claim_slots(
        Claim(name, limits or ("db",), slots, number, epoch, run_id, step="s", keeper="me")
    )


def spend(journal: Journal, name: str, *, waits: bool = True) -> Grant:
    """Spend a slot of a limit that decays."""
    return journal.claim_slots(Claim(name, ("api",), keeper="me", spends=True, waits=waits))


def holders(journal: Journal, limit: str = "db") -> list[str]:
    """The claims that hold slots."""
    return [slot.claim for slot in journal.list_slots(limit=limit) if slot.granted is not None]


def queue(journal: Journal, limit: str = "db") -> list[str]:
    """The claims that wait, in their order."""
    return [slot.claim for slot in journal.list_slots(limit=limit) if slot.granted is None]


def test_a_name_without_a_limit_does_not_limit(journal: Journal) -> None:
    """Nothing is taken where nothing is defined; who is strict is refused."""
    assert claim(journal, "a") is FREE
    assert journal.list_slots() == []
    with pytest.raises(LimitNotFoundError, match="agentflow limits set db N"):
        journal.claim_slots(Claim("a", ("db",), strict=True))


def test_never_more_than_the_limit_hold_a_slot(journal: Journal) -> None:
    """Two get one, the third waits until one is given back."""
    journal.set_limit(Limit("db", 2))
    assert [claim(journal, name) for name in "abc"] == [HELD, HELD, WAITING]
    assert (holders(journal), queue(journal), round(journal.free_slots("db"))) == (["a", "b"], ["c"], 0)
    journal.release_slots(["a"])
    assert (holders(journal), queue(journal)) == (["b", "c"], [])
    assert sorted(journal.granted_claims("me")) == ["b", "c"]


def test_first_come_first_served(journal: Journal) -> None:
    """Claims are served in the order in which they came, whoever asks how often."""
    journal.set_limit(Limit("db", 1))
    for name in "abcd":
        claim(journal, name)
    served: list[str] = []
    for _ in range(4):
        served += holders(journal)
        journal.release_slots(holders(journal))
    assert served == list("abcd")


def test_a_big_claim_is_not_starved_by_small_ones(journal: Journal) -> None:
    """Who wants three of three waits for all; small ones that come later wait behind it."""
    journal.set_limit(Limit("db", 3))
    claim(journal, "small 1")
    assert claim(journal, "big", slots=3) is WAITING
    assert claim(journal, "small 2") is WAITING
    journal.release_slots(["small 1"])
    assert (holders(journal), queue(journal)) == (["big"], ["small 2"])


def test_a_claim_that_can_never_be_served_holds_nobody_up(journal: Journal) -> None:
    """Who wants more than there is waits until the limit is raised; others pass."""
    journal.set_limit(Limit("db", 2))
    assert claim(journal, "greedy", slots=5) is WAITING
    assert claim(journal, "modest") is HELD
    journal.release_slots(["modest"])
    journal.set_limit(Limit("db", 5))
    assert holders(journal) == ["greedy"]


def test_slots_of_several_limits_are_taken_all_or_none(journal: Journal) -> None:
    """A claim that waits for one limit holds nothing of the other, and nobody overtakes it in either."""
    journal.set_limit(Limit("a", 1))
    journal.set_limit(Limit("b", 1))
    assert claim(journal, "x", "a") is HELD
    assert claim(journal, "both", "a", "b") is WAITING
    assert holders(journal, "b") == []
    assert claim(journal, "late", "b") is WAITING
    journal.release_slots(["x"])
    assert (holders(journal, "a"), holders(journal, "b"), queue(journal, "b")) == (
        ["both"],
        ["both"],
        ["late"],
    )
    journal.release_slots(["both"])
    assert holders(journal, "b") == ["late"]


def test_who_does_not_want_to_wait_leaves_nothing_behind(journal: Journal) -> None:
    """A refused claim is no longer in the queue."""
    journal.set_limit(Limit("db", 1))
    claim(journal, "a")
    assert journal.claim_slots(Claim("b", ("db",), keeper="me", waits=False)) is REFUSED
    assert queue(journal) == []


def test_a_limit_of_nothing_holds_everybody_until_it_is_raised(journal: Journal) -> None:
    """0 is a limit, too."""
    journal.set_limit(Limit("db", 0))
    assert claim(journal, "a") is WAITING
    journal.set_limit(Limit("db", 1))
    assert holders(journal) == ["a"]


def test_a_limit_that_is_removed_or_switched_off_lets_everybody_go(journal: Journal) -> None:
    """Who waits goes on, also those behind one that still waits for another limit."""
    journal.set_limit(Limit("db", 0))
    journal.set_limit(Limit("api", 1))
    claim(journal, "a", "api")
    assert claim(journal, "both", "db", "api") is WAITING
    assert claim(journal, "late", "db") is WAITING
    assert journal.delete_limit("db")
    assert not journal.delete_limit("db")
    assert queue(journal, "api") == ["both"]
    assert journal.granted_claims("me") == ["a", "late"]
    journal.set_limit(Limit("api", 1, active=False))
    assert sorted(holders(journal, "api")) == ["a", "both"]


def test_a_removed_limit_serves_who_waits_for_another_one_behind(journal: Journal) -> None:
    """Who stood behind a claim that waited for the removed limit is served as well."""
    journal.set_limit(Limit("db", 0))
    journal.set_limit(Limit("api", 2))
    claim(journal, "both", "db", "api", slots=1)
    claim(journal, "late", "api")
    journal.delete_limit("db")
    assert sorted(holders(journal, "api")) == ["both", "late"]


def test_whoever_holds_a_removed_limit_counts_when_it_is_set_again(journal: Journal) -> None:
    """Removing a limit does not forget who is inside."""
    journal.set_limit(Limit("db", 1))
    claim(journal, "a")
    journal.delete_limit("db")
    assert claim(journal, "b") is FREE
    journal.set_limit(Limit("db", 1))
    assert claim(journal, "c") is WAITING
    journal.release_slots(["a"])
    assert holders(journal) == ["c"]


def test_a_person_can_free_all_slots_of_a_limit(journal: Journal) -> None:
    """Reset frees what is held and serves who waits."""
    journal.set_limit(Limit("db", 1))
    claim(journal, "a")
    claim(journal, "b")
    assert journal.reset_limit("db") == 1
    assert (holders(journal), queue(journal)) == (["b"], [])
    with pytest.raises(LimitNotFoundError):
        journal.reset_limit("nothing")


def test_a_run_that_nobody_owns_holds_no_slot(journal: Journal) -> None:
    """Release, take-over and the end of a run free its slots without being told to."""
    journal.set_limit(Limit("db", 1))
    run = run_of(journal)
    assert claim(journal, "a", run=run) is HELD
    journal.release_run(run)
    again = journal.claim_run(run.id)
    assert claim(journal, "b", run=again) is HELD
    other = run_of(journal)
    assert claim(journal, "c", run=other) is WAITING
    journal.claim_run(run.id, take_over=True)
    assert journal.granted_claims("me") == ["c"]
    journal.set_state(other.number, other.epoch, StateType.COMPLETED, release=True)
    assert holders(journal) == []
    assert claim(journal, "d") is HELD


def test_a_stale_owner_claims_nothing(journal: Journal) -> None:
    """A claim carries the run's epoch."""
    journal.set_limit(Limit("db", 1))
    run = run_of(journal)
    journal.claim_run(run.id, take_over=True)
    with pytest.raises(Fenced):
        claim(journal, "a", run=run)


def test_slots_of_the_dead_count_as_free_before_anybody_asks_for_them(journal: Journal, clock: Clock) -> None:
    """Whoever looks whether it is worth asking must see them: of a plain limit, and of a decaying one."""
    journal.set_limit(Limit("db", 2))
    journal.set_limit(Limit("api", 2, slot_decay_per_second=0.5))
    alive, dead = run_of(journal), run_of(journal)
    claim(journal, "alive", run=alive)
    claim(journal, "dead", "db", "api", run=dead)
    assert (journal.free_slots("db"), round(journal.free_slots("api"), 6)) == (0, 1)
    journal.release_run(dead)
    assert (journal.free_slots("db"), round(journal.free_slots("api"), 6)) == (1, 2)
    assert claim(journal, "heir") is HELD
    assert journal.free_slots("db") == 0


def test_a_dead_run_in_the_queue_holds_nobody_up(journal: Journal) -> None:
    """Who waits behind the dead is served."""
    journal.set_limit(Limit("db", 1))
    dead = run_of(journal)
    claim(journal, "a")
    claim(journal, "dead", run=dead)
    claim(journal, "b")
    journal.release_run(dead)
    journal.release_slots(["a"])
    assert (holders(journal), queue(journal)) == (["b"], [])


def test_a_process_that_is_not_heard_of_loses_its_slots_after_a_lease(clock: Clock) -> None:
    """Where a store cannot know whether a holder lives, its lease decides; renewing it begins it anew."""
    journal = MemoryJournal(KEY, clock=clock)
    journal.set_limit(Limit("db", 1))
    claim(journal, "a")
    journal.claim_slots(Claim("b", ("db",), keeper="another"))
    clock.now += 29
    journal.renew_slots("me")
    journal.renew_slots("another")
    clock.now += 29
    journal.renew_slots("another")
    assert journal.granted_claims("another") == []
    clock.now += 1
    assert journal.granted_claims("another") == ["b"]


def test_slots_that_decay_come_back_with_time(journal: Journal, clock: Clock) -> None:
    """A token bucket: as many as the limit at once, then so many a second."""
    journal.set_limit(Limit("api", 2, slot_decay_per_second=0.5))

    assert [spend(journal, name, waits=False) for name in "abc"] == [HELD, HELD, REFUSED]
    clock.now += 2
    assert [spend(journal, name, waits=False) for name in "de"] == [HELD, REFUSED]
    clock.now += 100
    assert [spend(journal, name, waits=False) for name in "fgh"] == [HELD, HELD, REFUSED]
    assert journal.list_slots() == []


def test_who_waits_for_decay_is_served_when_its_time_comes(journal: Journal, clock: Clock) -> None:
    """The queue is a queue for rates, too."""
    journal.set_limit(Limit("api", 1, slot_decay_per_second=1))

    assert [spend(journal, name) for name in "abc"] == [HELD, WAITING, WAITING]
    assert journal.granted_claims("me") == []
    clock.now += 1
    assert journal.granted_claims("me") == ["b"]
    clock.now += 1
    assert sorted(journal.granted_claims("me")) == ["b", "c"]
    journal.release_slots(["b", "c"])
    assert round(journal.free_slots("api"), 6) == 0


def test_a_slot_that_is_given_back_early_comes_back_at_once(journal: Journal, clock: Clock) -> None:
    """Of a decaying limit that is held, only what has not come back by itself is given back."""
    journal.set_limit(Limit("api", 2, slot_decay_per_second=0.5))
    claim(journal, "a", "api", slots=2)
    clock.now += 1
    assert round(journal.free_slots("api"), 6) == 0.5
    journal.release_slots(["a"])
    assert round(journal.free_slots("api"), 6) == 2


def test_a_rate_without_decay_is_refused(journal: Journal) -> None:
    """Slots that would never come back are not spent."""
    journal.set_limit(Limit("db", 2))
    with pytest.raises(UsageError, match="slot-decay-per-second"):
        journal.claim_slots(Claim("a", ("db",), spends=True))


def test_what_a_person_sets_is_not_changed_by_code(journal: Journal) -> None:
    """A declared limit gives way to one that was set; one that was declared is declared anew."""
    journal.set_limit(Limit("flow:f", 2, declared=True))
    journal.set_limit(Limit("flow:f", 3, declared=True))
    assert journal.list_limits() == [Limit("flow:f", 3, declared=True)]
    mine = Limit("flow:f", 1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    journal.set_limit(mine)
    journal.set_limit(Limit("flow:f", 9, declared=True))
    assert journal.list_limits() == [mine]


@pytest.mark.parametrize(
    "limit",
    [Limit("", 1), Limit(" a", 1), Limit("a\n", 1), Limit("a", -1), Limit("a", 1, slot_decay_per_second=-1)],
)
def test_limits_that_make_no_sense_are_refused(journal: Journal, limit: Limit) -> None:
    """Bad names and numbers are wrong use."""
    with pytest.raises(UsageError):
        journal.set_limit(limit)


def test_a_row_and_the_release_of_a_slot_are_one_commit(journal: Journal) -> None:
    """What ends a block is committed with the slot's return; refused together."""
    journal.set_limit(Limit("db", 1))
    run = run_of(journal)
    claim(journal, "a", run=run)
    row = StepRow(
        (run.number << 32) + 1, "completed", "task", "s", b"", b"k", b"", 0, 0, 0, 0, 1, 1.0, 2.0, b"1", None
    )
    with pytest.raises(Fenced):
        journal.append(run.number, run.epoch + 1, [row], released=["a"])
    assert holders(journal) == ["a"]
    journal.append(run.number, run.epoch, [row], released=["a"])
    assert (holders(journal), journal.steps(run.number)) == ([], [row])


def test_releasing_wakes_whoever_watches(journal: Journal) -> None:
    """Listeners hear of slots that somebody has waited for, of slots for runs, and of changed limits."""
    heard: list[str] = []
    again = journal.url.startswith(
        ("postgresql", "http")
    )  # whose server tells of a change once more, some time later
    for name in ("db", "flow:nightly"):
        journal.set_limit(Limit(name, 1))
    for name in ("a", "b"):
        claim(journal, name)
    journal.claim_slots(Claim("c", ("flow:nightly",)))
    journal.subscribe(lambda: heard.append("changed"))
    journal.release_slots(["a"])
    assert (holders(journal), heard == ["changed"] or again) == (["b"], True)
    assert heard != []
    journal.release_slots(["b"])
    assert heard == ["changed"] or again, "nobody has waited"
    journal.release_slots(["c"])
    journal.set_limit(Limit("db", 2))
    assert len(heard) == 3 or (again and len(heard) > 3)


def test_a_claimed_run_can_wait_before_it_starts(journal: Journal, clock: Clock) -> None:
    """Owned and still PENDING; its start is when it runs."""
    made = journal.create_run(
        NewRun(new_id(), "flow", "f.py:f", b"{}", "fp", Origin.PERSON, 1.0), state=StateType.PENDING
    )
    owned = journal.claim_run(made.id, start=False)
    assert (owned.state, owned.started, journal.is_owned(owned)) == (StateType.PENDING, None, True)
    assert journal.due_runs(clock()) == []
    clock.now += 5
    journal.set_state(owned.number, owned.epoch, StateType.RUNNING)
    started = journal.get_run(made.id)
    assert started is not None
    assert (started.state, started.started) == (StateType.RUNNING, 1005.0)
